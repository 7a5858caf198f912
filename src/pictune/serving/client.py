"""`Client`: asks a server of ours from Python. It needs nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from pictune.errors import InputError, ServerError

MOST_PICTURES, MOST_BYTES = 32, 15 * 2**20  # of a request; the server's own limits are 32 and 16 MB
TIMEOUT = 60.0  # seconds for an answer; the server gives up earlier


class Client:
    """One connection to a server; use it as a context manager, from one thread.

    Args:
        address: Such as ``http://127.0.0.1:8080``.
        token: Of the role ``predict``; None where the server needs none.
        model: Which of its models is asked; its first when None.

    Raises:
        InputError: When the address or the token is none.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8080", *, token: str | None = None, model: str | None = None
    ) -> None:
        parts = urlsplit(address)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds or not parts.hostname:
            raise InputError(
                f"{address} is no address of a server", instead="Write it as http://127.0.0.1:8080."
            )
        self._connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=TIMEOUT)
        self._where = parts.netloc.rpartition("@")[2]
        self._headers = {"Authorization": f"Bearer {_proper(token)}"} if token else {}
        self._path = f"/v1/models/{quote(model, safe='')}/predict" if model else "/v1/predict"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def predict(
        self,
        *pictures: Path | str | bytes,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """What the model says of pictures; of more than 32, or of over 15 MB, in several requests.

        Args:
            pictures: Files, or their bytes; at least one.
            top_k: How many classes or boxes are named at most.
            threshold: From which confidence on something is answered; the model's own when None.

        Returns:
            One object a picture: what `/v1/predict` gives, or ``{"error": {"code", "message"}}`` where the
            picture could not be used, or is larger than a request may be.

        Raises:
            InputError: When no picture is named, or a file cannot be read.
            ServerError: When the server refuses a request, or is not there.
        """
        if not pictures:
            raise InputError("no picture was named", instead="Name files, or give their bytes.")
        options = {"top_k": top_k, "threshold": threshold}
        fields = {name: str(value) for name, value in options.items() if value is not None}
        found: list[dict[str, Any]] = []
        for files in _portions(list(map(_content, pictures))):
            body, kind = _form(files, fields)
            try:
                found += self._asked("POST", self._path, body, {"Content-Type": kind})["predictions"]
            except ServerError as error:
                if error.code != "body_too_large" or len(files) > 1:
                    raise
                found.append({"error": {"code": error.code, "message": error.message}})
        return found

    def models(self) -> list[dict[str, Any]]:
        """The server's models: name, id, task, classes.

        Raises:
            ServerError: When the server refuses the request, or is not there.
        """
        found: list[dict[str, Any]] = self._asked("GET", "/v1/models")["models"]
        return found

    def _asked(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            self._connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request opens another
            raise ServerError(
                f"the server at {self._where} does not answer: {error or type(error).__name__}",
                status=0,
                code="unreachable",
                instead="Is it running? pictune serve …",
            ) from error
        said = json.loads(content)
        if response.status == 200:
            assert isinstance(said, dict)
            return said
        waited = response.headers.get("Retry-After")
        raise ServerError(
            said["error"]["message"],
            status=response.status,
            code=said["error"]["code"],
            retry_after=int(waited) if waited else None,
        )


def _proper(token: str) -> str:
    """A token without the line's end that it was read with.

    Raises:
        InputError: When it is none; it must not stand in the message.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            "the token cannot be one: tokens are ASCII characters without spaces",
            instead="Give it as it stands in the server's file of tokens.",
        )
    return token


def _content(picture: Path | str | bytes) -> bytes:
    """The bytes of a picture.

    Raises:
        InputError: When there is no such file, or it is a folder.
    """
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, str | Path):
        raise InputError(
            f"a picture is a file or its bytes, not a {type(picture).__name__}",
            instead="Of a list, write client.predict(*pictures).",
        )
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise InputError(
            f"{picture} cannot be read: {error.strerror}", instead="Name files, or give their bytes."
        ) from error


def _portions(files: Sequence[bytes]) -> Iterator[list[bytes]]:
    """As many at a time as a request may hold."""
    portion: list[bytes] = []
    for content in files:
        size = sum(map(len, portion)) + len(content)
        if portion and (len(portion) == MOST_PICTURES or size > MOST_BYTES):
            yield portion
            portion = []
        portion.append(content)
    yield portion


def _form(files: Sequence[bytes], fields: dict[str, str]) -> tuple[bytes, str]:
    """A form with pictures and options, and its content type."""
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n\r\n'.encode()
    parts += [head + data + b"\r\n" for data in files]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
