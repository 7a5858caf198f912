"""What is asked: every odd request of the acceptance plan, by its number there, and what it must get."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from http_server import Decoding, Got, Server, form, read, serving, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import JPEG, PNG, REFUSED, USED

from pictune.serving.bodies import BodyReader, ClientGone, media_type, read_asked
from pictune.serving.forms import read_form
from pictune.serving.limits import ServerLimits
from pictune.serving.refusals import Refusal
from pictune.serving.strict_json import read_object

LIMITS = ServerLimits()
MB = 2**20
IN_BASE64 = base64.b64encode(JPEG).decode()
HOST = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The same server for all; whatever a test did to it, the next good request is answered."""
    running.shelf.given.clear()
    yield running
    assert running.picture(JPEG).status == 200


def post_json(server: Server, value: Any, path: str = "/v1/predict") -> Got:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return server.ask("POST", path, data, content_type="application/json")


def post_form(server: Server, *fields: tuple[str, bytes], filename: str = "") -> Got:
    body, content_type = form(*fields, filename=filename)
    return server.ask("POST", "/v1/predict", body, content_type=content_type)


# What a good request gets


def test_three_ways_to_send_a_picture_get_the_same_answer(server: Server) -> None:
    answers = [
        server.ask("POST", "/v1/predict", JPEG, content_type="image/jpeg"),
        post_form(server, ("image", JPEG)),
        post_json(server, {"image": IN_BASE64}),
        server.picture(JPEG, "/v1/models/teal-fox/predict"),
    ]
    for answer in answers:
        assert answer.status == 200
        assert answer.headers["x-model-id"] == "0000000000000001"
        assert answer.headers["content-type"] == "application/json"
        said = answer.json
        assert said.pop("request_id") == answer.headers["x-request-id"]
        assert said == {
            "model": {"name": "teal-fox", "id": "0000000000000001"},
            "prediction": {
                "model_id": "0000000000000001",
                "labels": ["cat"],
                "confidences": {"cat": 0.9},
                "width": 48,
                "height": 32,
            },
        }


@pytest.mark.parametrize("way", ["form", "json"])
def test_several_pictures_get_one_answer_each_in_their_order(server: Server, way: str) -> None:
    if way == "form":
        answer = post_form(server, ("image", JPEG), ("image", PNG))
    else:
        images = [IN_BASE64, base64.b64encode(PNG).decode()]
        answer = post_json(server, {"images": images})
    assert answer.status == 200
    assert set(answer.json) == {"request_id", "model", "predictions", "errors"}
    assert [row["width"] for row in answer.json["predictions"]] == [48, 16]
    assert answer.json["errors"] == 0


def test_a_list_of_one_gets_a_list(server: Server) -> None:
    assert len(post_json(server, {"images": [IN_BASE64]}).json["predictions"]) == 1


def test_options_reach_the_model_from_wherever_they_may_stand(server: Server) -> None:
    post_form(server, ("image", JPEG), ("top_k", b" 3 "), ("threshold", b".25"))
    post_json(server, {"image": IN_BASE64, "top_k": 3, "threshold": 0.25})
    server.picture(JPEG, "/v1/predict?top_k=3&threshold=2.5e-1")
    post_json(server, {"image": IN_BASE64, "top_k": None, "threshold": 1})
    assert server.shelf.given == [(3, 0.25)] * 3 + [(None, 1.0)]


def test_answers_of_two_models_in_one_request_say_which_is_whose() -> None:
    class Swapped(Decoding):
        async def ask(self, name: str, image: bytes, **options: Any) -> Any:
            self.ids[name] = f"{len(image):016x}"
            return await super().ask(name, image, **options)

    with serving(Swapped()) as server:
        rows = post_form(server, ("image", JPEG), ("image", PNG)).json["predictions"]
        assert [row["model_id"] for row in rows] == [f"{len(JPEG):016x}", f"{len(PNG):016x}"] or len(
            {row["model_id"] for row in rows}
        ) == 1


# 97 to 114


@pytest.mark.parametrize("content_type", ["image/png", "application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("body", [b"", bytes(5000)], ids=["empty", "zeros"])
def test_97_nothing(server: Server, content_type: str, body: bytes) -> None:
    answer = server.ask("POST", "/v1/predict", body, content_type=content_type)
    assert answer.status == 400
    assert answer.code in {"empty_body", "bad_json", "bad_form"}


@pytest.mark.parametrize(
    "text",
    [
        "!!!!",
        "abcde",
        IN_BASE64[:-1],
        IN_BASE64 + "=",
        IN_BASE64[:60] + "\n" + IN_BASE64[60:],
        "é" * 8,
        "_-8=",
        "data:image/png;base64,###",
        "data:image/png;base64," + IN_BASE64[1:],
        "=" + IN_BASE64,
        "",
    ],
    ids=[
        "garbage",
        "padding",
        "short",
        "long",
        "newline",
        "letters",
        "url safe",
        "data garbage",
        "data short",
        "leading padding",
        "empty",
    ],
)
def test_98_no_base64(server: Server, text: str) -> None:
    answer = post_json(server, {"image": text})
    assert answer.status == 400
    assert answer.code in {"bad_base64", "empty_body"}


@pytest.mark.parametrize("head", ["data:image/jpeg;base64,", "DATA:image/x-anything;BASE64,"])
def test_98_the_head_of_a_data_uri_is_accepted(server: Server, head: str) -> None:
    assert post_json(server, {"image": head + IN_BASE64}).status == 200


def test_99_base64_of_text(server: Server) -> None:
    answer = post_json(server, {"image": base64.b64encode(b"I am no picture.").decode()})
    assert (answer.status, answer.code) == (422, "not_image")


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_100_pictures_that_cannot_be_used(server: Server, data: bytes, code: str) -> None:
    answer = server.picture(data) if data else post_form(server, ("image", data))
    assert (answer.status, answer.code) == (422, code)


@pytest.mark.parametrize("data", [data for data, _ in USED.values()], ids=USED)
def test_100_odd_pictures_that_can(server: Server, data: bytes) -> None:
    answer = server.picture(data)
    assert answer.status == 200, answer.body


def test_101_too_long_by_its_own_word_is_refused_before_it_is_read(server: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n"
    before = server.shelf.asked
    answer = server.raw(head + b"Content-Length: %d\r\n\r\n" % (16 * MB + 1))
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"
    assert server.shelf.asked == before


def test_101_a_client_that_sends_all_of_it_first_still_hears_why(server: Server) -> None:
    answer = server.picture(bytes(24 * MB))
    assert (answer.status, answer.code) == (413, "body_too_large")


def test_101_a_client_that_waits_for_leave_is_never_given_it(server: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\nExpect: 100-continue\r\n"
    assert server.raw(head + b"Content-Length: %d\r\n\r\n" % (16 * MB + 1)).status == 413
    with server.connect() as line:
        line.sendall(head + b"Content-Length: %d\r\n\r\n" % len(JPEG))
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(JPEG)
        assert line.recv(100).startswith(b"HTTP/1.1 200 ")


def test_101_chunks_are_refused_at_the_first_byte_too_many() -> None:
    head = (
        b"POST /v1/predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with serving(body_bytes=1000) as server:
        exactly = server.raw(head + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
        assert exactly.status == 422
        with server.connect() as line:
            line.sendall(head + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx")  # and no more than this ever comes
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert answer.status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    {
        "huge": (b"Content-Length: 99999999999\r\n", 413),
        "astronomic": (b"Content-Length: " + b"9" * 40 + b"\r\n", 400),
        "negative": (b"Content-Length: -1\r\n", 400),
        "signed": (b"Content-Length: +5\r\n", 400),
        "no number": (b"Content-Length: five\r\n", 400),
        "two": (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        "two in one": (b"Content-Length: 5, 6\r\n", 400),
        "both": (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        "both, the other way round": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        "gzip": (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        "twice chunked": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        "space": (b"Content-Length : 5\r\n", 400),
    }.values(),
    ids=lambda value: value[:40].decode().strip() if isinstance(value, bytes) else "",
)
def test_102_lengths_that_lie(server: Server, headers: bytes, status: int) -> None:
    answer = server.raw(
        b"POST /v1/predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: image/png\r\n"
        + headers
        + b"\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    assert answer.status == status
    assert answer.code
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "bad", [b"zz\r\nhello\r\n", b"5\r\nhelloXX", b"-5\r\nhello\r\n", b"F" * 21 + b"\r\n"]
)
def test_102_chunks_that_are_none(server: Server, bad: bytes) -> None:
    head = (
        b"POST /v1/predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = server.raw(head + bad)
    assert (answer.status, answer.code) == (400, "bad_request")


def test_102_a_body_in_a_million_chunks(server: Server) -> None:
    head = (
        b"POST /v1/predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = server.raw(head + b"1\r\nx\r\n" * 1_000_000)
    assert (answer.status, answer.code) == (400, "chunks_too_small")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/html",
        "application/x-www-form-urlencoded",
        "application/xml",
        "json",
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "application/jsonx",
        "*/*",
        "application/json, image/png",
        "multipart/mixed; boundary=x",
        "image/",
        "/png",
        "video/mp4",
        "application/json" + "; a=b" * 2000,
    ],
    ids=lambda name: name[:40] or "none",
)
def test_103_content_types(server: Server, content_type: str) -> None:
    headers = {"content_type": content_type} if content_type else {}
    answer = server.ask("POST", "/v1/predict", JPEG, **headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_103_two_content_types(server: Server) -> None:
    both = b"Content-Type: image/png\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\nx"
    assert server.raw(b"POST /v1/predict HTTP/1.1\r\n" + HOST + both).status == 415


@pytest.mark.parametrize("content_type", ["APPLICATION/JSON", 'application/json; charset="UTF-8"'])
def test_103_what_is_the_same_is_accepted(server: Server, content_type: str) -> None:
    body = json.dumps({"image": IN_BASE64})
    assert server.ask("POST", "/v1/predict", body, content_type=content_type).status == 200


def header(name: bytes = b"image", more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n"


BIG = 15 * MB
BAD_FORMS = {
    "no end": (b"--x\r\n" + header() + b"\r\nabc", 400),
    "no name": (b"--x\r\nContent-Type: image/png\r\n\r\nabc\r\n--x--\r\n", 400),
    "no headers": (b"--x\r\n\r\nabc\r\n--x--\r\n", 400),
    "two names": (b"--x\r\n" + header() * 2 + b"\r\nabc\r\n--x--\r\n", 400),
    "another boundary": (b"--y\r\n" + header() + b"\r\nabc\r\n--y--\r\n", 400),
    "no form": (b"hello", 400),
    "headers without an end": (b"--x\r\n" + b"A: b\r\n" * 500_000, 400),
    "a header of 15 MB": (b"--x\r\nA: " + b"b" * BIG, 400),
    "a header name of 15 MB": (b"--x\r\n" + b"b" * BIG, 400),
    "spaces behind the boundary": (b"--x" + b" " * BIG, 400),
    "spaces before a value": (b"--x\r\nA:" + b" " * BIG, 400),
    "parameters without an end": (b"--x\r\n" + header(more=b"; a=b" * 3000) + b"\r\nabc\r\n--x--\r\n", 400),
    "70,000 parts": ((b"--x\r\n" + header() + b"\r\na\r\n") * 70_000 + b"--x--\r\n", 413),
    "65 parts": ((b"--x\r\n" + header() + b"\r\na\r\n") * 65 + b"--x--\r\n", 413),
    "half boundaries": (b"--x\r\n" + header() + b"\r\n" + b"\r\n--x!" * (BIG // 6), 413),
    "CR and LF before the form": (b"\r\n" * (BIG // 2), 400),
    "CR and LF in a part": (b"--x\r\n" + header() + b"\r\n" + b"\r\n" * (BIG // 2), 400),
    "CR in a part": (b"--x\r\n" + header() + b"\r\n" + b"\r" * BIG, 400),
    "beginnings of boundaries": (b"--x\r\n" + header() + b"\r\n" + b"\r\n-" * (BIG // 3), 400),
}


@pytest.mark.parametrize(("body", "status"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_104_forms_that_cannot_be_read(server: Server, body: bytes, status: int) -> None:
    answer = server.ask("POST", "/v1/predict", body, content_type="multipart/form-data; boundary=x")
    assert answer.status == status
    assert answer.code in {"bad_form", "too_many_parts"}


@pytest.mark.parametrize("body", [body for body, _ in BAD_FORMS.values()], ids=BAD_FORMS)
def test_104_they_cost_next_to_nothing(body: bytes) -> None:
    before = time.thread_time()  # of the processor, not of the clock
    with pytest.raises(Refusal):
        read_form(body, b"x", most_parts=64)
    assert time.thread_time() - before < 0.2


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 71, '; boundary=""'])
def test_104_no_boundary(server: Server, boundary: str) -> None:
    answer = server.ask(
        "POST", "/v1/predict", form(("image", JPEG))[0], content_type="multipart/form-data" + boundary
    )
    assert (answer.status, answer.code) == (400, "bad_form")


def test_104_a_field_of_a_gigabyte(server: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\n" + HOST + b"Content-Type: multipart/form-data; boundary=x\r\n"
    field = b"--x\r\n" + header(b"top_k") + b"\r\n"
    assert server.raw(head + b"Content-Length: 1073741824\r\n\r\n" + field).status == 413
    endless = b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"1" * MB + b"\r\n"
    assert server.raw(head + endless + (b"100000\r\n" + b"1" * MB + b"\r\n") * 20).status == 413
    assert post_form(server, ("image", JPEG), ("top_k", b"1" * MB)).status == 422


@pytest.mark.parametrize(
    "filename",
    ["../../x", "a\0b.jpg", "x" * 10_000, "/etc/passwd", "C:\\x.jpg", "a;b=c", "é.jpg", "'; drop", "%00"],
    ids=lambda name: name[:12].replace("\0", "NUL"),
)
def test_105_names_of_files_are_not_looked_at(server: Server, filename: str) -> None:
    assert post_form(server, ("image", JPEG), filename=f'; filename="{filename}"').status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_106_compressed_bodies(server: Server, encoding: str) -> None:
    bomb = gzip.compress(bytes(10 * MB))
    answer = server.picture(bomb, content_encoding=encoding)
    assert (answer.status, answer.code) == (415, "content_encoding")


def test_106_identity_is_no_encoding(server: Server) -> None:
    assert server.picture(JPEG, content_encoding="identity").status == 200


BAD_JSON = {
    "depth of 10^5": b"[" * 100_000 + b"]" * 100_000,
    "depth of 10^5 in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "depth of 33": b'{"a":' * 33 + b"1" + b"}" * 33,
    "depth of 900": b'{"a":' * 900 + b"1" + b"}" * 900,
    "millions of lists": b'{"a":[' + b"[]," * 4_000_000 + b"[]]}",
    "millions of numbers": b'{"images":[' + b"1," * 7_000_000 + b"1]}",
    "10^7 digits": b'{"image":"", "top_k": ' + b"9" * 10_000_000 + b"}",
    "10^7 digits behind the point": b'{"threshold": 0.' + b"9" * 10_000_000 + b"}",
    "lone surrogate": b'{"image": "\\ud800"}',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "lone surrogate deep inside": b'{"images": [["\\ud800"]]}',
    "bytes of a surrogate": b'{"image": "\xed\xa0\x80"}',
    "Latin-1": b'{"image": "\xe9"}',
    "UTF-16": '{"image": "a"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"image": "a"}',
    "NaN": b'{"threshold": NaN}',
    "Infinity": b'{"threshold": -Infinity}',
    "a key twice": b'{"image": "", "image": ""}',
    "a key twice inside": b'{"images": [{"a": 1, "a": 2}]}',
    "half": b'{"image": "abc',
    "comma": b'{"image": "abc",}',
    "comment": b'{"image": "abc"} // hello',
    "quotes": b"{'image': 'abc'}",
    "a list": b'["abc"]',
    "a text": b'"abc"',
    "null": b"null",
    "control character": b'{"image": "a\x01"}',
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_107_json_that_cannot_be_read(server: Server, body: bytes) -> None:
    answer = post_json(server, body)
    assert (answer.status, answer.code) == (400, "bad_json")


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_107_it_costs_next_to_nothing(body: bytes) -> None:
    before = time.thread_time()
    with pytest.raises(Refusal):
        read_object(body, depth=32)
    assert time.thread_time() - before < 0.2


def test_107_a_text_of_100_mb(server: Server) -> None:
    head = (
        b"POST /v1/predict HTTP/1.1\r\n"
        + HOST
        + b"Content-Type: application/json\r\nContent-Length: 104857600\r\n"
    )
    assert server.raw(head + b'\r\n{"image": "').status == 413


def test_107_pairs_of_surrogates_and_depth_within_the_limit_are_json() -> None:
    assert read_object(b'{"\\ud83d\\ude00": ' + b"[" * 31 + b"]" * 31 + b"}", depth=32)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=9)
)
def test_107_any_json_is_read_or_refused(value: Any) -> None:
    body = json.dumps({"image": value}).encode()
    try:
        said = read_asked(media_type([(b"content-type", b"application/json")]), body, b"", LIMITS)
    except Refusal as refusal:
        said, status = None, refusal.status
    else:
        status = 200
    assert said.images if said else status in {400, 422}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["json", "form"]))
def test_107_104_any_bytes_are_read_or_refused(body: bytes, kind: str) -> None:
    name = b"application/json" if kind == "json" else b"multipart/form-data; boundary=x"
    framed = body if kind == "json" else b"--x\r\n" + body + b"\r\n--x--\r\n"
    with pytest.raises(Refusal) as refused:
        read_asked(media_type([(b"content-type", name)]), framed, b"", LIMITS)
    assert refused.value.status in {400, 413, 422}


NONSENSE: dict[str, dict[str, Any]] = {
    "unknown field": {"image": IN_BASE64, "colour": 1},
    "neither": {"top_k": 1},
    "both": {"image": IN_BASE64, "images": [IN_BASE64]},
    "image is a number": {"image": 5},
    "image is null": {"image": None},
    "image is a list": {"image": [IN_BASE64]},
    "images is a text": {"images": IN_BASE64},
    "images is an object": {"images": {"a": IN_BASE64}},
    "images holds a number": {"images": [IN_BASE64, 5]},
    "top_k -1": {"image": IN_BASE64, "top_k": -1},
    "top_k 0": {"image": IN_BASE64, "top_k": 0},
    "top_k 1001": {"image": IN_BASE64, "top_k": 1001},
    "top_k 1e9": {"image": IN_BASE64, "top_k": 10**9},
    "top_k 2.0": {"image": IN_BASE64, "top_k": 2.0},
    "top_k true": {"image": IN_BASE64, "top_k": True},
    "top_k text": {"image": IN_BASE64, "top_k": "3"},
    "threshold -0.1": {"image": IN_BASE64, "threshold": -0.1},
    "threshold 1.1": {"image": IN_BASE64, "threshold": 1.1},
    "threshold 1e999": {"image": IN_BASE64, "threshold": 10**31},
    "threshold false": {"image": IN_BASE64, "threshold": False},
    "threshold text": {"image": IN_BASE64, "threshold": "NaN"},
}


@pytest.mark.parametrize("value", NONSENSE.values(), ids=NONSENSE)
def test_108_json_that_makes_no_sense(server: Server, value: dict[str, Any]) -> None:
    before = server.shelf.asked
    assert post_json(server, value).status == 422
    assert server.shelf.asked == before


def test_108_a_number_beyond_all_numbers(server: Server) -> None:
    assert post_json(server, b'{"image": "%s", "threshold": 1e999}' % IN_BASE64.encode()).status == 422


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("colour", "1"),
        ("top_k", "-1"),
        ("top_k", "1e9"),
        ("top_k", "NaN"),
        ("top_k", ""),
        ("top_k", "²"),
        ("top_k", "1_0"),
        ("threshold", "NaN"),
        ("threshold", "nan"),
        ("threshold", "inf"),
        ("threshold", "2"),
        ("threshold", "1e999"),
        ("threshold", "0x1"),
        ("threshold", "-0.5"),
        ("images", "1"),
    ],
)
def test_108_forms_and_urls_that_make_no_sense(server: Server, name: str, text: str) -> None:
    assert post_form(server, ("image", JPEG), (name, text.encode())).status == 422
    if text.isascii():
        assert server.picture(JPEG, f"/v1/predict?{name}={text}").status == 422


def test_108_an_option_twice(server: Server) -> None:
    answer = post_form(server, ("image", JPEG), ("top_k", b"1"), ("top_k", b"2"))
    assert (answer.status, answer.code) == (400, "given_twice")
    body, content_type = form(("image", JPEG), ("top_k", b"1"))
    answer = server.ask("POST", "/v1/predict?top_k=2", body, content_type=content_type)
    assert (answer.status, answer.code) == (422, "given_twice")
    assert server.picture(JPEG, "/v1/predict?" + "&".join(["top_k=1"] * 1000)).status == 422


def test_a_field_that_is_unknown_is_named_and_nothing_else(server: Server) -> None:
    answer = post_json(server, {"image": IN_BASE64, "colour": 1})
    assert (answer.code, answer.message[:28]) == ("unknown_field", "There is no field colour; th")
    assert "no field topk;" in post_form(server, ("image", JPEG), ("topk", b"1")).message
    assert "no field k;" in server.picture(JPEG, "/v1/predict?k=1").message
    assert "no field ?script?x?;" in post_json(server, {"image": "", '<script"x>': 1}).message
    assert len(post_json(server, {"image": "", "y" * 5000: 1}).message) < 200
    assert "not text/plain" in server.ask("POST", "/v1/predict", JPEG, content_type="text/plain").message


def test_base64_in_several_lines_is_told_as_such(server: Server) -> None:
    broken = b'{"image": "%s\n%s"}' % (IN_BASE64[:8].encode(), IN_BASE64[8:].encode())
    answer = post_json(server, broken)
    assert (answer.code, "base64 -w0" in answer.message) == ("bad_json", True)


def test_images_in_a_form_are_answered_as_a_list(server: Server) -> None:
    said = post_form(server, ("images", JPEG)).json
    assert (len(said["predictions"]), said["errors"]) == (1, 0)
    said = post_form(server, ("images", JPEG), ("images", b"none")).json
    assert (len(said["predictions"]), said["errors"]) == (2, 1)
    both = post_form(server, ("images", JPEG), ("image", JPEG))
    assert (both.status, both.code) == (422, "given_twice")


@pytest.mark.parametrize(
    ("text", "code"), [("###", "bad_base64"), ("", "empty_body"), ("https://a.example/b.jpg", "not_fetched")]
)
def test_98_one_of_several_is_no_base64(server: Server, text: str, code: str) -> None:
    said = post_json(server, {"images": [IN_BASE64, text, IN_BASE64]})
    assert (said.status, said.json["errors"]) == (200, 1)
    first, second, third = said.json["predictions"]
    assert second["error"]["code"] == code
    assert first == third
    assert "labels" in first


def test_98_several_that_are_no_texts_are_no_request(server: Server) -> None:
    answer = post_json(server, {"images": [IN_BASE64, 7]})
    assert (answer.status, answer.code) == (422, "wrong_type")
    assert post_json(server, {"image": None}).code == "wrong_type"


def test_image_and_images_are_not_asked_both(server: Server) -> None:
    answer = post_json(server, {"image": IN_BASE64, "images": [IN_BASE64]})
    assert (answer.status, answer.code) == (422, "given_twice")
    assert post_json(server, {"top_k": 1}).code == "missing_image"


def test_109_a_batch_of_none(server: Server) -> None:
    assert post_json(server, {"images": []}).code == "missing_image"
    assert post_json(server, {"images": []}).status == 422
    assert post_form(server, ("top_k", b"1")).status == 422


def test_109_a_batch_of_too_many(server: Server) -> None:
    before = server.shelf.asked
    for count in (33, 10_000):
        answer = post_json(server, {"images": [IN_BASE64[:8]] * count})
        assert (answer.status, answer.code) == (413, "too_many_images")
    assert post_form(server, *[("image", JPEG)] * 33).status == 413
    assert post_form(server, *[("image", b"x")] * 10_000).status == 413
    assert server.shelf.asked == before


@pytest.mark.parametrize("way", ["form", "json"])
def test_109_one_bad_picture_among_15_good(server: Server, way: str) -> None:
    images = [JPEG] * 7 + [b"<html>"] + [JPEG] * 8
    if way == "form":
        answer = post_form(server, *[("image", image) for image in images])
    else:
        answer = post_json(server, {"images": [base64.b64encode(image).decode() for image in images]})
    assert answer.status == 200
    assert answer.json["errors"] == 1
    for number, row in enumerate(answer.json["predictions"]):
        if number == 7:
            assert set(row) == {"error"}
            assert set(row["error"]) == {"code", "message"}
            assert row["error"]["code"] == "not_image"
        else:
            assert row["labels"] == ["cat"]


def test_109_when_all_are_bad_each_says_so(server: Server) -> None:
    answer = post_form(server, ("image", b"a"), ("image", b"b"))
    assert (answer.status, answer.json["errors"]) == (200, 2)
    assert answer.headers["x-model-id"] == "0000000000000001"


def test_109_more_than_the_queue_holds() -> None:
    with serving(Decoding(queue=3)) as server:
        answer = post_form(server, *[("image", JPEG)] * 4)
        assert (answer.status, answer.code) == (413, "too_many_images")


PLACES = ["http://127.0.0.1:{}/x.jpg", "https://127.0.0.1:{}/x.jpg", "file:///etc/passwd", "/etc/passwd"]
PLACES += ["../x.png", "./x", "~/x.jpg", "C:\\x.jpg", "\\\\server\\x", "photo.jpeg", "ftp://127.0.0.1:{}/x"]
PLACES += ["gopher://127.0.0.1:{}/", "data:text/html,hello", "data:image/png,http://127.0.0.1:{}/"]


@pytest.mark.parametrize("place", PLACES)
def test_113_where_a_picture_lies_is_never_fetched(server: Server, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lure:
        lure.settimeout(0.05)
        text = place.format(lure.getsockname()[1])
        answer = post_json(server, {"image": text})
        assert (answer.status, answer.code) == (422, "not_fetched")
        assert post_form(server, ("image", text.encode())).status == 422
        assert server.picture(text.encode()).status == 422
        with pytest.raises(TimeoutError):
            lure.accept()


def test_113_a_path_that_happens_to_be_base64(server: Server) -> None:
    assert post_json(server, {"image": "/etc/hostnames/a"}).code == "not_image"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1", 404),
        ("GET", "//", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/v1/predict", 405),
        ("PUT", "/v1/predict", 405),
        ("DELETE", "/v1/models/teal-fox", 405),
        ("PATCH", "/v1/models/teal-fox/predict", 405),
        ("OPTIONS", "/v1/predict", 405),
        ("TRACE", "/v1/predict", 405),
        ("BREW", "/", 405),
        ("POST", "/", 405),
        ("POST", "/v1/models/other/predict", 404),
        ("POST", "/v1/models/../predict", 404),
        ("POST", "/v1/models/%2e%2e/predict", 404),
        ("POST", "/v1/models/..%2f..%2fetc/predict", 404),
        ("POST", "/v1/models/%252e%252e/predict", 404),
        ("POST", "/v1/models/%00/predict", 404),
        ("POST", "/v1/models/teal-fox%0d%0aX-Evil:%201/predict", 404),
        ("POST", "/v1/models/%ff%fe/predict", 404),
        ("POST", "/v1/models/" + "a" * 8000 + "/predict", 404),
        ("GET", "/v1/models/..", 404),
        ("GET", "/v1/models/TEAL-FOX", 404),
        ("GET", "http://elsewhere.example/", 404),
        ("OPTIONS", "*", 404),
        ("CONNECT", "elsewhere.example:443", 404),
        ("GET", "/" + "a" * 65536, 414),
        ("GET", "/?" + "a" * 65536, 414),
        ("HEAD", "/" + "a" * 9000, 414),
    ],
    ids=lambda value: str(value)[:44],
)
def test_114_paths_and_methods(server: Server, method: str, path: str, status: int) -> None:
    length = b"Content-Type: image/jpeg\r\nContent-Length: 0\r\n" if method in ("POST", "PUT") else b""
    data = f"{method} {path} HTTP/1.1\r\n".encode() + HOST + length + b"\r\n"
    with server.connect() as line:
        line.sendall(data)
        response = http.client.HTTPResponse(line, method=method)
        response.begin()
        answer = Got(response)
    assert answer.status == status
    assert "x-evil" not in answer.headers
    if method != "HEAD":
        assert answer.code
        assert path.strip("/")[:30] not in answer.body.decode() or len(path) < 3
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\nd\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ],
    ids=repr,
)
def test_114_what_is_not_http(server: Server, data: bytes) -> None:
    answer = server.raw(data)
    assert answer.status == 400
    assert answer.code == "bad_request"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"A: " + b"b" * 17_000, 431),
        (b"A: b\r\n" * 101, 431),
        (b"A: " + b"b" * 1_000_000, 431),
        (b"A: " + b"b" * 15_000, 200),
    ],
    ids=["17 KB", "101 headers", "1 MB", "15 KB"],
)
def test_114_long_headers(server: Server, headers: bytes, status: int) -> None:
    answer = server.raw(b"GET /v1/health/live HTTP/1.1\r\n" + HOST + headers.rstrip() + b"\r\n\r\n")
    assert answer.status == status


# When there is no answer to give


def test_a_full_queue_is_told_before_the_body_is_read_and_keeps_the_connection(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    server.shelf.waiting, before = 64, server.shelf.asked
    try:
        for _ in range(3):
            connection.request("POST", "/v1/predict", os.urandom(70_000), {"Content-Type": "image/png"})
            answer = Got(connection.getresponse())
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "queue_full", "2")
            assert "connection" not in answer.headers
        assert server.shelf.asked == before
        # The answer does not wait for the body.
        with server.connect() as line:
            line.sendall(
                b"POST /v1/predict HTTP/1.1\r\n"
                + HOST
                + b"Content-Type: image/png\r\nContent-Length: 9000000\r\n\r\n"
            )
            assert b"HTTP/1.1 503" in line.recv(100)
    finally:
        server.shelf.waiting = 0
    connection.request("POST", "/v1/predict", JPEG, {"Content-Type": "image/png"})
    assert connection.getresponse().status == 200
    connection.close()


def test_too_many_large_bodies_at_once() -> None:
    with serving(held_bytes=200_000) as server:
        server.shelf.hold.clear()
        head = (
            b"POST /v1/predict HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: image/png\r\nContent-Length: 150000\r\n\r\n"
        )
        with server.connect() as slow:
            slow.sendall(head + bytes(149_999) + b"x")
            until(lambda: server.shelf.waiting == 1)
            answer = server.picture(os.urandom(60_000))
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "1")
            server.shelf.hold.set()
            assert server.picture(JPEG).status == 200
            assert read(slow).status == 422
        assert server.picture(os.urandom(60_000)).status == 422


def test_a_body_counts_from_its_first_byte_on_and_not_once_its_client_is_gone() -> None:
    asyncio.run(held_while_it_comes())


async def held_while_it_comes() -> None:
    reader = BodyReader(ServerLimits(held_bytes=200_000))
    more, asked = asyncio.Event(), 0

    async def slow() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "http.request", "body": bytes(150_000), "more_body": True}
        await more.wait()
        return {"type": "http.disconnect"}

    async def quick() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(60_000), "more_body": False}

    reading = asyncio.create_task(reader.read(slow))
    await asyncio.sleep(0)
    with pytest.raises(Refusal, match="overloaded"):
        await reader.read(quick)
    more.set()
    with pytest.raises(ClientGone):
        await reading
    for _ in range(9):
        reader.release(await reader.read(quick))


def test_an_answer_that_takes_too_long() -> None:
    with serving(request_s=0.2) as server:
        server.shelf.hold.clear()
        answer = server.picture(JPEG)
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "timeout", "1")
        assert server.shelf.dropped == 1
        server.shelf.hold.set()
        assert server.picture(JPEG).status == 200


def test_of_several_those_that_were_answered_in_time_are_given() -> None:
    with serving(request_s=0.4) as server:
        server.shelf.hold.clear()
        server.shelf.spared = 2
        said = post_form(server, *[("images", JPEG)] * 5)
        assert (said.status, said.json["errors"]) == (200, 3)
        codes = [row["error"]["code"] if "error" in row else "" for row in said.json["predictions"]]
        assert codes == ["", "", "timeout", "timeout", "timeout"]
        assert server.shelf.dropped == 3
        none = post_form(server, *[("images", JPEG)] * 3)
        assert (none.status, none.code, none.headers["retry-after"]) == (503, "timeout", "1")
        server.shelf.hold.set()
        assert 'outcome="timeout"} 6.0' in server.ask("GET", "/metrics").body.decode()


def test_pictures_of_one_request_are_of_one_party_and_a_lone_one_is_of_none(server: Server) -> None:
    del server.shelf.parties[:]
    post_form(server, ("images", JPEG), ("images", JPEG))
    post_form(server, ("images", JPEG), ("images", JPEG))
    server.picture(JPEG)
    first, same, second, other, alone = server.shelf.parties
    assert alone is None
    assert first is same
    assert second is other
    assert first is not second


@pytest.mark.parametrize("several", [False, True])
def test_a_fault_of_the_shelf_is_one_500_and_one_traceback(
    server: Server, several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server.shelf.fault = RuntimeError("secret of /srv/models/x")
    try:
        answer = post_form(server, ("image", JPEG), *[("image", PNG)] * several)
    finally:
        server.shelf.fault = None
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret" not in answer.body.decode()
    until(lambda: [record for record in caplog.records if record.exc_info])
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_when_the_server_fails_for_all_pictures_the_request_failed(server: Server) -> None:
    server.shelf.fault = Refusal(503, "worker_lost", "The worker died.", retry_after=1)
    try:
        answer = post_form(server, ("image", JPEG), ("image", JPEG))
    finally:
        server.shelf.fault = None
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "worker_lost", "1")


def test_while_draining_nothing_new_is_taken_on(server: Server) -> None:
    assert server.ask("GET", "/v1/health/ready").json == {"status": "ready"}
    server.draining = True
    try:
        answer = server.picture(JPEG)
        assert (answer.status, answer.code, answer.headers["connection"]) == (503, "draining", "close")
        ready = server.ask("GET", "/v1/health/ready")
        assert (ready.status, ready.json) == (503, {"status": "draining"})
        assert server.ask("GET", "/v1/health/live").status == 200
        assert server.ask("GET", "/v1/models").headers["connection"] == "close"
    finally:
        server.draining = False


def test_models_that_are_not_ready(server: Server) -> None:
    server.shelf.ready = False
    try:
        answer = server.ask("GET", "/v1/health/ready")
        assert (answer.status, answer.json) == (503, {"status": "models_not_ready"})
        assert server.ask("HEAD", "/v1/health/ready").status == 503
    finally:
        server.shelf.ready = True
    assert server.ask("HEAD", "/v1/health/live").body == b""


# What there is to know


def test_models_are_listed_and_described() -> None:
    with serving(Decoding("teal-fox", "red-owl")) as server:
        listed = server.ask("GET", "/v1/models").json
        assert listed["default"] == "teal-fox"
        assert [model["name"] for model in listed["models"]] == ["teal-fox", "red-owl"]
        one = server.ask("GET", "/v1/models/red-owl").json["model"]
        assert one == listed["models"][1]
        assert server.picture(JPEG, "/v1/models/red-owl/predict").headers["x-model-id"] == one["id"]


def test_numbers_are_kept() -> None:
    with serving() as server:
        server.picture(JPEG)
        server.picture(b"no picture")
        server.ask("GET", "/secret-" + "x" * 50)
        server.raw(b"NONSENSE\r\n\r\n")
        server.raw(b"STEAL / HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = server.ask("GET", "/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = answer.body.decode().splitlines()
    for line in (
        'pictune_requests_total{method="POST",path="/v1/predict",status="200"} 1.0',
        'pictune_requests_total{method="POST",path="/v1/predict",status="422"} 1.0',
        'pictune_requests_total{method="GET",path="-",status="404"} 1.0',
        'pictune_requests_total{method="other",path="-",status="400"} 1.0',
        'pictune_requests_total{method="other",path="/",status="405"} 1.0',
        'pictune_pictures_total{model="teal-fox",outcome="answered"} 1.0',
        'pictune_pictures_total{model="teal-fox",outcome="not_image"} 1.0',
        'pictune_stage_seconds_count{stage="infer"} 1.0',
        'pictune_stage_seconds_sum{stage="decode"} 0.002',
        'pictune_request_seconds_count{path="/v1/predict"} 2.0',
        'pictune_waiting{model="teal-fox"} 0.0',
        'pictune_model_info{id="0000000000000001",name="teal-fox"} 1.0',
        'pictune_answers_total{class="cat",model="teal-fox"} 1.0',
    ):
        assert line in lines
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize(
    ("row", "classes"),
    [
        ({"boxes": [{"class": "cat"}, {"class": "cat"}, {"class": "dog"}]}, {"cat": 2.0, "dog": 1.0}),
        ({"shares": {"cat": 0.4, "dog": 0.0}, "mask": {"classes": [], "png": ""}}, {"cat": 1.0}),
        ({"labels": [], "confidences": {"cat": 0.1}}, {}),
    ],
    ids=["boxes", "shares", "no label"],
)
def test_classes_are_counted(row: dict[str, Any], classes: dict[str, float]) -> None:
    with serving(Decoding(row=row)) as server:
        assert server.picture(JPEG).status == 200
        text = server.ask("GET", "/metrics").body.decode()
    for name in ("cat", "dog"):
        line = f'pictune_answers_total{{class="{name}",model="teal-fox"}} {classes.get(name, 0)}'
        assert (line in text) == (name in classes)


def test_the_description_is_complete(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json
    assert set(document["paths"]) == {
        "/v1/health/live",
        "/v1/health/ready",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/predict",
        "/v1/models/{name}/predict",
        "/metrics",
    }
    for path in ("/v1/predict", "/v1/models/{name}/predict"):
        asking = document["paths"][path]["post"]
        assert set(asking["requestBody"]["content"]) == {
            "multipart/form-data",
            "application/json",
            "image/*",
            "application/octet-stream",
        }
        names = {parameter["name"] for parameter in asking["parameters"]}
        assert names >= {"top_k", "threshold"}
        assert ("name" in names) == ("{name}" in path)
        assert set(asking["responses"]) == {"200"} | set("400 401 403 404 408 413 415 422 500 503".split())
        for status in ("422", "503"):
            schema = asking["responses"][status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Failure"}
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
    assert "HTTPValidationError" not in text
