"""Starts `pictune` by forking a process that has imported everything: a blink instead of five seconds.

The parent is a fresh interpreter with one thread that only imports, so that a forked child is as good as
a started one. Orders come as JSON lines on stdin, answers go as JSON lines to stdout.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

OUTPUT, ERRORS, MODULES = ".stdout", ".stderr", ".modules"


@dataclass(frozen=True)
class Order:
    """One command and what befalls it.

    Args:
        words: Behind ``pictune``.
        folder: Where it runs.
        environment: Variables to set; None removes one.
        send: Signal that is sent, or 0 for none.
        after: Seconds from its start to the signal.
        lines: Lines of the journal that must be there before the signal, instead of a time.
        journal: That journal.
        remove: Folder to remove instead of sending a signal.
        strike: It kills itself at this call of fsync or rename, counted from 1; 0 for never.
        file_size: Largest file it may write, bytes; 0 for any.
        open_files: Most files it may have open; 0 for any.
        umask: Its file mode mask.
    """

    words: Sequence[str]
    folder: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    send: int = 0
    after: float = 0.0
    lines: int = 0
    journal: str = ""
    remove: str = ""
    strike: int = 0
    file_size: int = 0
    open_files: int = 0
    umask: int = 0o022


@dataclass(frozen=True)
class Ended:
    """How it ended: its exit code (negative: the signal that killed it), how long it took, what it said."""

    code: int
    seconds: float
    out: str
    err: str


class Starter:
    """The parent process, from the outside."""

    def __enter__(self) -> Starter:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, words: Sequence[object], folder: Path, **befalls: Any) -> Ended:
        """Runs ``pictune`` with these words in a folder, and waits for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for name in (OUTPUT, ERRORS):
            (folder / name).write_text("")
        order = Order([str(word) for word in words], str(folder), **befalls)
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the starter itself has died; its reason stands on stderr"
        code, seconds = json.loads(answer)
        return Ended(code, seconds, (folder / OUTPUT).read_text(), (folder / ERRORS).read_text())


def serve() -> None:
    """The parent process, from the inside."""
    for name in ("pictune.cli", "pictune.verbs.train", "pictune.evaluation.reporting"):
        import_module(name)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            become(order)
        befall(order, child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - started
        import_like(Path(order.folder) / MODULES)
        sys.stdout.write(json.dumps([code, seconds]) + "\n")
        sys.stdout.flush()


def befall(order: Order, child: int) -> None:
    """Waits for the moment, then strikes."""
    if not order.send and not order.remove:
        return
    over = select.poll()
    over.register(os.pidfd_open(child), select.POLLIN)
    if order.journal:
        while lines_of(Path(order.journal)) < order.lines:
            if over.poll(2):
                return
    elif over.poll(order.after * 1000):
        return
    if order.remove:
        # In one step, as the child goes on writing into it.
        shutil.rmtree(Path(order.remove).rename(f"{order.remove}-removed"))
    else:
        os.kill(child, order.send)


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def import_like(names: Path) -> None:
    """Imports what a child had to import by itself, so that the next one need not."""
    if not names.exists():
        return
    for name in names.read_text().split():
        if name not in sys.modules and not name.startswith(("__", "_distutils_hack")):
            try:
                import_module(name)
            except ImportError:
                continue  # a module that another one made up
    names.unlink()


def become(order: Order) -> None:
    """Turns this process into `pictune`; does not return."""
    os.chdir(order.folder)
    for number, name in ((1, OUTPUT), (2, ERRORS)):
        os.dup2(os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666), number)
    for name, value in order.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    time.tzset()
    os.umask(order.umask)
    if order.file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_size, order.file_size))
    if order.open_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order.open_files, order.open_files))
    if order.strike:
        die_at_write(order.strike)
    code = 70  # a traceback: never what is expected
    try:
        code = command(order.words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if not order.file_size:
            Path(MODULES).write_text("\n".join(list(sys.modules)))
        os._exit(code)


def command(words: Sequence[str]) -> int:
    import traceback

    from pictune.cli import main

    sys.argv = ["pictune", *words]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def die_at_write(number: int) -> None:
    """Makes this process kill itself at one of its fsyncs or renames, just before it is done."""
    left = number
    fsync, rename = os.fsync, os.replace

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync_or_die(descriptor: int) -> None:
        strike()
        fsync(descriptor)

    def replace_or_die(*given: Any, **named: Any) -> None:
        strike()
        rename(*given, **named)

    os.fsync, os.replace = fsync_or_die, replace_or_die


if __name__ == "__main__":
    serve()
