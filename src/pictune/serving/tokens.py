"""Who may ask what: a file of tokens, each with a role."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from pictune.errors import InputError
from pictune.files import disk_errors, sync_folder

#: What a token may be good for. ``predict`` asks, ``feedback`` corrects, ``admin`` may do everything.
ROLES = ("predict", "feedback", "admin")
MADE = ("predict", "admin")  # those with something to do; nothing takes corrections yet

MOST_BYTES = 64 * 1024  # of the file
FEWEST_CHARACTERS = 22  # of a token: 128 bits at 6 bits a character
_LINE = re.compile(r"(?P<role>[a-z]+)[ \t]+(?P<token>[\x21-\x7e]+)")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(?P<token>[\x21-\x7e]+)")
_INSTEAD = "Name a file that is not there yet, and new tokens are written to it."


class Tokens:
    """The tokens that the server accepts; only their digests are kept.

    Args:
        pairs: Role and token.
        path: The file that they stand in.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], *, path: Path | None = None) -> None:
        self._known = [(_digest(token.encode()), role) for role, token in pairs]
        self._path = path

    def read_again(self) -> None:
        """Takes the tokens that stand in the file now, in place of all others.

        Raises:
            InputError: As `read` does; the tokens stay as they are.
        """
        if self._path is not None:
            self._known = Tokens.read(self._path)._known

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Reads a file with one ``role token`` a line; empty lines and those from ``#`` on are skipped.

        Raises:
            InputError: When it is absent, may be read by others, or holds anything else.
        """
        lines = _private_text(path).splitlines()
        pairs: list[tuple[str, str]] = []
        causes = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            # A token must not stand in a message, not even a wrong one.
            if found is None or found["role"] not in ROLES:
                causes.append(f"line {number} is not a role ({', '.join(ROLES)}), a space and a token")
            elif len(found["token"]) < FEWEST_CHARACTERS:
                causes.append(f"the token in line {number} has fewer than {FEWEST_CHARACTERS} characters")
            else:
                pairs.append((found["role"], found["token"]))
        if len({token for _, token in pairs}) < len(pairs):
            causes.append("a token stands there twice")
        if not pairs and not causes:
            causes.append("it holds no token")
        if causes:
            raise InputError(f"{path} is no file of tokens", causes=causes, instead=_INSTEAD)
        return cls(pairs, path=path)

    @staticmethod
    def make(path: Path) -> Mapping[str, str]:
        """Writes a new file with a token of 256 bits for each role in use, which only its owner may read.

        Returns:
            The tokens by role.

        Raises:
            InputError: When there is a file already; clients may still use its tokens.
            MachineError: When the disk is full or may not be written.
        """
        tokens = {role: secrets.token_urlsafe(32) for role in MADE}
        text = "".join(f"{role} {token}\n" for role, token in tokens.items())
        with disk_errors(path):
            # Private from its first byte on, and under its name only when it is whole.
            temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(text.encode())
                    stream.flush()
                    os.fchmod(descriptor, 0o600)
                    os.fsync(descriptor)
                path.hardlink_to(temporary)
            except FileExistsError as error:
                raise InputError(
                    f"{path} is there already, and clients may use its tokens",
                    instead="Use that file, name another one, or remove it first.",
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)
        return tokens

    def role(self, authorization: bytes) -> str | None:
        """The role of the token in an ``Authorization: Bearer`` header; None when there is none that fits.

        Every known token is compared, each in constant time, so that how long it takes tells nothing.
        """
        given = _BEARER.fullmatch(authorization)
        digest = _digest(given["token"] if given else b"")
        role = None
        for known, its_role in self._known:
            if hmac.compare_digest(known, digest):
                role = its_role
        return role if given else None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _private_text(path: Path) -> str:
    """The text of a file that nobody but its owner may read or write.

    Raises:
        InputError: When it is anything else.
    """
    try:
        stream = open(path, "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115 - closed below
    except OSError as error:
        raise InputError(f"the tokens {path} cannot be read: {error.strerror}", instead=_INSTEAD) from error
    with stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path} is no regular file", instead=_INSTEAD)
        if state.st_mode & 0o077:
            raise InputError(
                f"others may read the tokens in {path}",
                causes=[f"its mode is {stat.S_IMODE(state.st_mode):04o}"],
                instead=f"Make new tokens if anybody else uses this machine; else: chmod 600 {path}",
            )
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} is no file of tokens: it has over {MOST_BYTES} bytes", instead=_INSTEAD)
    return data.decode("ascii", errors="replace")


def _without_waiting(path: str, flags: int) -> int:
    """Opens; should it be a pipe, that must not wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)
