"""Watches a Python process for what this package must never do, refuses it, and writes it down.

Its text is put as ``sitecustomize.py`` on the path of every process that is watched, so that the watch begins
before anything else is imported, and in every Python process that a watched one starts. What it goes by is
JSON in the file that ``AUDIT_WATCH`` names:

    log        folder; each process writes its records there, one JSON object a line
    writable   folders that may be written to
    homes      folders in which nothing may be read ...
    readable   ... but for these, some of which are inside them: programs and libraries
    programs   the processes that may be started: patterns that the first words of a command must fit

It sees what Python does itself. Code in C++ that writes a file or opens a connection tells no hook; for files
the test that uses this compares folders before and after. Nor does ``connect`` tell that it looks up a name,
only that it then connects.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DEVICES = frozenset({Path("/dev/null"), Path("/dev/tty")})
HERE = -1  # in place of a folder's descriptor: a path begins at the current folder
SHOWN = 2  # arguments of an event that a record shows; the environment of a process is none of them
CALLERS = 12  # places in the code that a record names

# Events that change what is at a path: which argument is the path, which one its folder's descriptor.
CONTENT: dict[str, tuple[int, int | None]] = {
    "os.chmod": (0, 2),
    "os.chown": (0, 3),
    "os.utime": (0, 3),
    "os.truncate": (0, None),
    "os.setxattr": (0, None),
    "os.removexattr": (0, None),
    "sqlite3.connect": (0, None),
    "shutil.copyfile": (1, None),
    "shutil.copymode": (1, None),
    "shutil.copystat": (1, None),
}
# Events that change which names a folder holds.
ENTRY: dict[str, tuple[int, int | None]] = {
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "shutil.copytree": (1, None),
    "shutil.make_archive": (0, None),
    "shutil.rmtree": (0, None),
    "shutil.unpack_archive": (1, None),
    "tempfile.mkdtemp": (0, None),
    "tempfile.mkstemp": (0, None),
}
DOORS = ("socket.bind", "socket.connect", "socket.sendmsg", "socket.sendto")
LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo")
PROCESSES = ("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn")

Arguments = tuple[Any, ...]
Check = Callable[[Arguments], str]


class RefusedError(PermissionError):
    """Something that must not happen, and did not."""


class Watch:
    """One process's hook.

    Args:
        rules: As the module says.
    """

    def __init__(self, rules: Mapping[str, Any]) -> None:
        self._writable = _folders(rules["writable"])
        self._homes = _folders(rules["homes"])
        self._readable = _folders(rules["readable"]) + self._writable
        self._programs: list[list[str]] = rules["programs"]
        path = Path(rules["log"]) / f"{os.getpid()}.jsonl"
        self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._checks = self._table()
        self.note("started", sys.orig_argv)

    def __call__(self, event: str, arguments: Arguments) -> None:
        """Looks at one event.

        Raises:
            RefusedError: When it must not happen.
        """
        check = self._checks.get(event)
        if check is not None and (kind := check(arguments)):
            shown = [repr(value)[:300] for value in arguments[:SHOWN]]
            self.note(kind, [event, *shown])
            raise RefusedError(f"{kind}: {event} {', '.join(shown)}")

    def note(self, kind: str, what: Sequence[str]) -> None:
        """Writes one record: of what kind, what it is, and who asked for it."""
        record = {"kind": kind, "what": list(what), "asked_by": _callers()}
        os.write(self._log, (json.dumps(record) + "\n").encode())

    def _table(self) -> dict[str, Check]:
        """What is looked at by its name: a function that names the kind of breach, or says ''."""
        return {
            **{event: self._writes(*where, entry=False) for event, where in CONTENT.items()},
            **{event: self._writes(*where, entry=True) for event, where in ENTRY.items()},
            "os.rename": self._renames(2, 3),
            "shutil.move": self._renames(None, None),
            "open": self._opens,
            "os.listdir": lambda arguments: self._reads(arguments[0]),
            "os.scandir": lambda arguments: self._reads(arguments[0]),
            **dict.fromkeys(DOORS, _speaks),
            **dict.fromkeys(LOOKUPS, _looks_up),
            **dict.fromkeys(PROCESSES, lambda _: "process"),
            "subprocess.Popen": self._starts,
            "pickle.find_class": lambda _: "pickle",
        }

    def _writes(self, path: int, folder: int | None, *, entry: bool) -> Check:
        def check(arguments: Arguments) -> str:
            return self._changed(arguments[path], _within(arguments, folder), entry=entry)

        return check

    def _renames(self, old_folder: int | None, new_folder: int | None) -> Check:
        def check(arguments: Arguments) -> str:
            old = self._changed(arguments[0], _within(arguments, old_folder), entry=True)
            return old or self._changed(arguments[1], _within(arguments, new_folder), entry=True)

        return check

    def _opens(self, arguments: Arguments) -> str:
        path, mode, flags = arguments
        if (flags or 0) & WRITING or (isinstance(mode, str) and set(mode) & set("wax+")):
            return self._changed(path, HERE, entry=False)
        return self._reads(path)

    def _changed(self, path: Any, folder: int, *, entry: bool) -> str:
        if isinstance(path, int):
            return ""  # open already
        place = _place(path, folder)
        place = place.parent.resolve() / place.name if entry else place.resolve()
        return "" if place in DEVICES or _inside(place, self._writable) else "write"

    def _reads(self, path: Any) -> str:
        if isinstance(path, int):
            return ""
        place = _place("." if path is None else path, HERE).resolve()
        return "home" if _inside(place, self._homes) and not _inside(place, self._readable) else ""

    def _starts(self, arguments: Arguments) -> str:
        program, given = arguments[:2]
        words = [os.fsdecode(word) for word in ([given] if isinstance(given, str | bytes) else given)]
        if os.fsdecode(program) != words[0]:
            return "process"  # what runs is not what its first word says
        fits = (
            len(words) >= len(known) and all(map(fnmatch.fnmatchcase, words, known))
            for known in self._programs
        )
        return "" if any(fits) else "process"


def _folders(paths: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(path).resolve() for path in paths)


def _within(arguments: Arguments, folder: int | None) -> int:
    return HERE if folder is None else arguments[folder]


def _place(path: Any, folder: int) -> Path:
    place = Path(os.fsdecode(path))
    return place if folder == HERE else Path(f"/proc/self/fd/{folder}").readlink() / place


def _inside(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _speaks(arguments: Arguments) -> str:
    door, address = arguments
    if door.family == socket.AF_UNIX or address is None:
        return ""  # None: connected already
    inet = door.family in (socket.AF_INET, socket.AF_INET6)
    return "" if inet and _loopback(address[0]) else "network"


def _looks_up(arguments: Arguments) -> str:
    host = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
    return "" if host is None or _loopback(host) else "network"


def _loopback(host: Any) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    try:
        return text == "localhost" or ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _callers() -> list[str]:
    """The innermost places in the code from which something was asked for."""
    frame: FrameType | None = sys._getframe(3)
    found: list[str] = []
    while frame is not None and len(found) < CALLERS:
        found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found


if __name__ == "sitecustomize":
    sys.addaudithook(Watch(json.loads(Path(os.environ["AUDIT_WATCH"]).read_text(encoding="utf-8"))))
