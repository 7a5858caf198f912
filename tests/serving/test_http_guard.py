"""Who may ask: names and origins, tokens and roles; and what answers, logs and numbers never say."""

from __future__ import annotations

import hmac
import http.client
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import CLASSES, Decoding, Got, Server, serving, until
from odd_pictures import JPEG

from pictune.errors import InputError, MachineError
from pictune.serving.guard import host_allowed, origin_allowed
from pictune.serving.refusals import Refusal
from pictune.serving.tokens import ROLES, Tokens

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
PATHS = ["/", "/v1/predict", "/v1/models", "/v1/health/live", "/metrics", "/openapi.json", "/nothing"]
TOKENS = {role: role[0] * 43 for role in ROLES}
NAMES = frozenset({"localhost", "pictures.example"})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(hosts=("pictures.example",)) as running:
        yield running


@pytest.fixture(scope="module")
def closed() -> Iterator[Server]:
    """A server that asks for tokens."""
    with serving(tokens=Tokens(TOKENS.items())) as running:
        yield running


def said(server: Server, method: str, path: str, *headers: tuple[str, str]) -> Got:
    """The answer to a request with these headers and no others."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        return Got(connection.getresponse())
    finally:
        connection.close()


def bearer(role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[role]}"}


# 116: Host and Origin


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
def test_116_another_name_is_refused_whatever_is_asked(server: Server, method: str, path: str) -> None:
    before = server.shelf.asked
    rebound = said(server, method, path, ("Host", "evil.example"))
    foreign = said(server, method, path, ("Host", "localhost"), ("Origin", "http://evil.example"))
    assert (rebound.status, foreign.status) == (403, 403)
    if method != "HEAD":
        assert (rebound.code, foreign.code) == ("host_not_allowed", "origin_not_allowed")
    for answer in (rebound, foreign):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert b"evil" not in answer.body
    assert server.shelf.asked == before


def test_116_a_preflight_is_given_no_leave(server: Server) -> None:
    asking = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization"))
    foreign = ("Origin", "https://evil.example")
    assert said(server, "OPTIONS", "/v1/predict", ("Host", "localhost"), foreign, *asking).status == 403
    own = said(
        server, "OPTIONS", "/v1/predict", ("Host", "localhost"), ("Origin", "http://localhost"), *asking
    )
    assert own.status == 405
    assert not [name for name in own.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("host", "allowed"),
    {
        "localhost": True,
        "localhost:8080": True,
        "pictures.example": True,
        "pictures.example:443": True,
        "127.0.0.1:8080": True,
        "192.168.1.7": True,
        "[::1]:8080": True,
        "[2001:db8::1]": True,
        "": False,
        "evil.example": False,
        "localhost.evil.example": False,
        "127.0.0.1.evil.example": False,
        "evil.example:localhost": False,
        "localhost@evil.example": False,
        "localhost, evil.example": False,
        "localhost:80:80": False,
        "localhost:": False,
        "x.pictures.example": False,
        "2130706433": False,
        "0x7f.1": False,
        "[::1": False,
        "[localhost]": False,
        "localhost\n": False,
        "localhost/": False,
    }.items(),
)
def test_116_names(host: str, allowed: bool) -> None:
    assert host_allowed(host, NAMES) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://192.168.1.7", "192.168.1.7:80", True),
        ("https://192.168.1.7", "192.168.1.7", True),
        ("https://pictures.example", "127.0.0.1:8080", True),
        ("http://localhost:3000", "localhost:8080", False),
        ("http://127.0.0.1:8080", "localhost:8080", False),
        ("http://6.6.6.6", "127.0.0.1", False),
        ("https://evil.example", "localhost", False),
        ("http://localhost.evil.example", "localhost", False),
        ("http://pictures.example.evil.example", "pictures.example", False),
        ("null", "localhost", False),
        ("", "localhost", False),
        ("file://localhost", "localhost", False),
        ("http://localhost/", "localhost", False),
        ("http://localhost http://evil.example", "localhost", False),
        ("http://user@localhost", "localhost", False),
        ("chrome-extension://localhost", "localhost", False),
    ],
)
def test_116_origins(origin: str, host: str, allowed: bool) -> None:
    assert origin_allowed(origin, host, NAMES) is allowed


def test_116_two_origins_must_both_be_ours(server: Server) -> None:
    both = (("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example"))
    assert said(server, "GET", "/v1/models", *both).code == "origin_not_allowed"
    assert said(server, "GET", "/v1/models", *both[:2]).status == 200


# 115: tokens and roles

BY_ROLE = [
    ("GET", "/v1/models", set(ROLES)),
    ("GET", "/v1/models/teal-fox", set(ROLES)),
    ("GET", "/v1/models/none", set(ROLES)),
    ("GET", "/metrics", set(ROLES)),
    ("POST", "/v1/predict", {"predict", "admin"}),
    ("POST", "/v1/models/teal-fox/predict", {"predict", "admin"}),
    ("POST", "/v1/models/none/predict", {"predict", "admin"}),
]


@pytest.mark.parametrize(("method", "path", "roles"), BY_ROLE)
def test_115_every_path_knows_its_roles(closed: Server, method: str, path: str, roles: set[str]) -> None:
    before = closed.shelf.asked
    for role in ROLES:
        answer = closed.ask(method, path, content_type="image/png", **bearer(role))
        assert (answer.status == 403) == (role not in roles), role
        assert answer.status != 401
        if answer.status == 403:
            assert answer.code == "role_not_allowed"
    assert closed.ask(method, path, content_type="image/png").status == 401
    assert closed.shelf.asked == before


@pytest.mark.parametrize("path", ["/", "/v1/health/live", "/v1/health/ready", "/openapi.json"])
def test_115_what_tells_nothing_needs_no_token(closed: Server, path: str) -> None:
    assert closed.ask("GET", path).status == 200


RIGHT = TOKENS["predict"]
WRONG = {
    "none": "",
    "no scheme": RIGHT,
    "basic": f"Basic {RIGHT}",
    "no token": "Bearer ",
    "half": f"Bearer {RIGHT[:-1]}",
    "more": f"Bearer {RIGHT}x",
    "capitals": f"Bearer {RIGHT.upper()}",
    "two": f"Bearer {RIGHT} {RIGHT}",
    "list": f"Bearer {RIGHT}, Bearer {RIGHT}",
    "quoted": f'Bearer "{RIGHT}"',
    "latin": f"Bearer {RIGHT}\xe9",
    "long": f"Bearer {'p' * 15_000}",
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_115_wrong_tokens(closed: Server, value: str) -> None:
    before = closed.shelf.asked
    answer = closed.picture(JPEG, authorization=value)
    assert (answer.status, answer.code) == (401, "unknown_token" if value else "token_needed")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert closed.shelf.asked == before


def test_115_a_token_anywhere_else_is_none(closed: Server) -> None:
    for query in ("token", "access_token", "authorization", "api_key"):
        assert closed.picture(JPEG, f"/v1/predict?{query}={RIGHT}").status == 401
    assert closed.picture(JPEG, cookie=f"token={RIGHT}", x_api_key=RIGHT).status == 401
    twice = (("Host", "localhost"), *[("Authorization", f"Bearer {RIGHT}")] * 2)
    assert said(closed, "GET", "/v1/models", *twice).status == 401
    assert closed.picture(JPEG, authorization=f"bearer  {RIGHT}").status == 200


def test_115_a_token_of_10_mb(closed: Server) -> None:
    answer = closed.raw(
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        + b"p" * 10_000_000
        + b"\r\n\r\n"
    )
    assert (answer.status, answer.code) == (431, "headers_too_long")
    assert closed.ask("GET", "/v1/models", **bearer("predict")).status == 200


def test_115_a_wrong_token_is_told_before_the_body_is_read(closed: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    assert closed.raw(head + b"Content-Length: 9000000\r\n\r\n").status == 401


def test_115_all_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    genuine = hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    tokens = Tokens(TOKENS.items())
    for given, role in ((RIGHT, "predict"), ("x", None), ("", None), (TOKENS["admin"], "admin")):
        compared.clear()
        assert tokens.role(f"Bearer {given}".encode()) == role
        assert len(compared) == len(ROLES)
        assert {len(part) for pair in compared for part in pair} == {32}
    assert RIGHT not in repr(vars(tokens))


# The file of tokens


def test_a_file_that_is_made_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    before = os.umask(0)
    try:
        made = Tokens.make(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens"]
    assert list(made) == ["predict", "admin"]
    assert set(made) < set(ROLES)
    assert len(set(made.values())) == 2
    for role, token in made.items():
        assert len(token) == 43
        assert Tokens.read(path).role(f"Bearer {token}".encode()) == role


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    Tokens.make(path)
    text = path.read_text()
    with pytest.raises(InputError, match="is there already"):
        Tokens.make(path)
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens"]
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError):
        Tokens.make(dangling)
    assert not (tmp_path / "elsewhere").exists()


def test_no_place_for_the_file(tmp_path: Path) -> None:
    with pytest.raises((InputError, MachineError)):
        Tokens.make(tmp_path / "none" / "tokens")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o777])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"admin {RIGHT}\n")
    path.chmod(mode)
    with pytest.raises(InputError, match="others may read"):
        Tokens.read(path)
    path.chmod(0o400)
    assert Tokens.read(path).role(f"Bearer {RIGHT}".encode()) == "admin"


BAD_FILES = {
    "empty": (b"", "no token"),
    "comments": (b"# nothing\n\n", "no token"),
    "another role": (b"root " + RIGHT.encode(), "line 1"),
    "no role": (RIGHT.encode(), "line 1"),
    "short": (b"admin hunter2", "fewer than 22"),
    "three words": (b"admin " + RIGHT.encode() + b" x", "line 1"),
    "twice": (b"admin %b\npredict %b" % (RIGHT.encode(), RIGHT.encode()), "twice"),
    "no ASCII": (b"admin " + b"\xff" * 30, "line 1"),
    "large": (b"#" * 70_000, "over 65536 bytes"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_hold_something_else(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        Tokens.read(path)
    said_of_it = str(refused.value)
    assert reason in said_of_it
    assert RIGHT not in said_of_it
    assert "hunter2" not in said_of_it


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(InputError):
            Tokens.read(path)


# What is never said


def test_no_token_no_query_and_no_picture_is_logged(closed: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    secret = "s3cret" * 6
    closed.picture(JPEG, **bearer("predict"))
    closed.picture(JPEG, authorization=f"Bearer {secret}")
    closed.picture(JPEG, f"/v1/predict?token={secret}", **bearer("predict"))
    closed.raw(b"GET / HTTP/1.1\r\nAuthorization: Bearer " + secret.encode() + b"\r\n\r\n")
    closed.ask("GET", "/metrics", **bearer("feedback"))
    until(lambda: len(lines(caplog)) >= 5)
    for record in caplog.records:
        text = f"{record.getMessage()} {record.args}"
        assert secret not in text
        assert not any(token in text for token in TOKENS.values())
        assert "JFIF" not in text


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pictune.serving.access"]


@pytest.mark.parametrize(
    "path",
    ["/a%0d%0aGET%20/%20200", "/%0a%1b%5b31m", "/%e2%80%a8", "/" + "x" * 5000, "/'\"<script>|`$(id)"],
    ids=["CR LF", "escape", "line separator", "long", "signs"],
)
def test_a_request_is_one_plain_line_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO, "pictune.serving.access")
    caplog.clear()
    answer = server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    until(lambda: lines(caplog))
    (line,) = lines(caplog)
    assert re.fullmatch(r"GET /[!-~]{0,199} 404 [0-9.]+ ms [0-9a-f]{16}", line)
    assert line.endswith(answer.json["error"]["request_id"])


def test_a_refusal_holds_no_path_of_the_server(server: Server) -> None:
    server.shelf.fault = OSError(2, "No such file", "/srv/secret/model.onnx")
    try:
        answer = server.picture(JPEG)
    finally:
        server.shelf.fault = None
    assert (answer.status, answer.code) == (500, "internal")
    for word in (b"/srv", b"secret", b"Traceback", b"OSError", b"site-packages"):
        assert word not in answer.body


@pytest.mark.parametrize("length", [10, 300, 301, 100_000])
def test_a_message_is_never_long(length: int) -> None:
    message = json.loads(Refusal(400, "x", "m" * length).body("id"))["error"]["message"]
    assert len(message) == min(length, 300)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", "/none"), ("DELETE", "/"), ("POST", "/v1/predict"), ("GET", "/metrics")],
)
def test_every_answer_forbids_to_run_frame_sniff_and_store_it(server: Server, method: str, path: str) -> None:
    headers = server.ask(method, path, origin=f"http://127.0.0.1:{server.port}", cookie="a=b").headers
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers
    assert "set-cookie" not in headers
    assert not [name for name in headers if name.startswith("access-control-")]


def test_names_of_classes_are_data_and_never_html() -> None:
    row: dict[str, Any] = {"labels": [CLASSES[1]], "confidences": {CLASSES[1]: 0.9}}
    with serving(Decoding(row=row)) as server:
        answers = [
            server.picture(JPEG),
            server.ask("GET", "/v1/models"),
            server.ask("GET", "/v1/models/teal-fox"),
        ]
        page, numbers = server.ask("GET", "/"), server.ask("GET", "/metrics")
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert CLASSES[1] in json.dumps(answer.json)
    assert CLASSES[1].encode() not in page.body
    assert numbers.headers["content-type"].startswith("text/plain")
    assert f'pictune_answers_total{{class="{CLASSES[1]}",model="teal-fox"}} 1.0' in numbers.body.decode()


def test_names_of_classes_are_counted_for_an_administrator_alone(closed: Server) -> None:
    assert closed.picture(JPEG, **bearer("predict")).status == 200
    for role in ROLES:
        text = closed.ask("GET", "/metrics", **bearer(role)).body.decode()
        assert "pictune_requests_total" in text
        assert ("pictune_answers_total" in text) == ("cat" in text) == (role == "admin")


def test_the_description_says_where_a_token_is_needed(closed: Server, server: Server) -> None:
    paths = closed.ask("GET", "/openapi.json").json["paths"]
    secured = {path for path, asking in paths.items() for one in asking.values() if "security" in one}
    assert secured == set(paths) - {"/v1/health/live", "/v1/health/ready"}
    assert "security" not in json.dumps(server.ask("GET", "/openapi.json").json["paths"])
