"""The client, against a server as a process."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from engine_place import ordinary, write
from test_server import started

from pictune.errors import InputError, ServerError
from pictune.serving.client import Client, _portions


def test_one_and_several_pictures_and_refusals(tmp_path: Path) -> None:
    write(tmp_path / "colours.pictune")
    (tmp_path / "a.png").write_bytes(ordinary(1))
    with (
        started(tmp_path / "colours.pictune", "--tokens", tmp_path / "tokens") as server,
        Client(f"http://127.0.0.1:{server.port}") as stranger,
    ):
        token = (tmp_path / "tokens").read_text().split()[1]
        with pytest.raises(ServerError) as caught:
            stranger.predict(tmp_path / "a.png")
        assert (caught.value.status, caught.value.code) == (401, "token_needed")
        with Client(f"http://127.0.0.1:{server.port}", token=f" {token}\n") as client:
            assert [model["name"] for model in client.models()] == ["colours"]
            (one,) = client.predict(tmp_path / "a.png")
            assert one["labels"] == client.predict(ordinary(1))[0]["labels"]
            (bad,) = client.predict(b"no picture")
            assert bad["error"]["code"] == "not_image"
            many = client.predict(*[ordinary(number) for number in range(40)], top_k=1)
            assert [row["labels"] for row in many[:2]] == [
                client.predict(ordinary(n))[0]["labels"] for n in (0, 1)
            ]
            assert len(many) == 40
            several = client.predict(ordinary(1), b"no picture", ordinary(2), top_k=1)
            assert several[1]["error"]["code"] == "not_image"
            assert [len(row["confidences"]) for row in several[::2]] == [1, 1]
            large = client.predict(ordinary(1), bytes([255]) * (17 * 2**20), ordinary(2), top_k=1)
            assert large[1]["error"]["code"] == "body_too_large"
            assert [row["labels"] for row in large[::2]] == [row["labels"] for row in several[::2]]
            with pytest.raises(ServerError, match="threshold"):
                client.predict(ordinary(1), threshold=0.5)
            lost = Client(f"http://127.0.0.1:{server.port}", token=token, model="../x")
            with lost, pytest.raises(ServerError) as caught:
                lost.predict(ordinary(1))
            assert caught.value.status == 404


def test_what_is_no_picture_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    with Client() as client:
        with pytest.raises(InputError, match="not a list"):
            client.predict(["a.png"])  # type: ignore[arg-type]
        for given, said in (
            ([], "no picture was named"),
            ([tmp_path], "directory"),
            ([tmp_path / "x"], "No such"),
        ):
            with pytest.raises(InputError, match=said):
                client.predict(*given)


def test_many_pictures_go_in_several_requests() -> None:
    megabyte = b"x" * 2**20
    portions = list(_portions([megabyte] * 15 + [b"y"] * 34 + [megabyte * 20, b"z"]))
    assert [len(portion) for portion in portions] == [15, 32, 2, 1, 1]
    assert portions[-1] == [b"z"]


def test_nobody_there_and_addresses_that_are_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match="does not answer") as caught:
        Client(f"http://127.0.0.1:{port}").predict(b"x")
    assert caught.value.status == 0
    for address in ("127.0.0.1:8080", "ftp://x", "http://"):
        with pytest.raises(InputError, match="no address"):
            Client(address)


@pytest.mark.parametrize("token", ["…", "a secret", "a\nsecret", "\x00secret"])
def test_a_token_that_is_none_does_not_stand_in_the_message(token: str) -> None:
    with pytest.raises(InputError, match="the token cannot be one") as caught:
        Client(token=token)
    assert "secret" not in str(caught.value)
