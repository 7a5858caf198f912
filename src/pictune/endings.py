"""How the command line ends: with one message and an exit code, without a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from pictune.errors import PictuneError
from pictune.files import FULL

UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})
UNWRITABLE = FULL | {errno.EIO}
NOBODY_READS = 141  # what a shell says of a program whose reader has gone: 128 and the signal SIGPIPE


@contextmanager
def endings() -> Iterator[None]:
    """Turns what a user can meet into one message and an exit code; a fault of ours is not hidden."""
    try:
        yield
    except PictuneError as error:
        _end(error.exit_code, str(error))
    except OSError as error:
        if error.errno in UNREADABLE:
            _end(2, f"{error.filename} cannot be read: {error.strerror}")
        if error.errno in UNWRITABLE and error.filename is None:
            _silence_stdout()
            _end(3, f"what it found could not be written to stdout: {error.strerror}")
        raise
    except MemoryError:
        _end(3, "memory ran out; close other programs or use smaller pictures and batches")
    except KeyboardInterrupt:
        _end(130, "stopped")
    except SystemExit as ended:
        if ended.code == 130:  # inside a command, typer takes Ctrl-C for itself and says nothing
            _end(130, "stopped")
        if isinstance(
            ended.__context__, BrokenPipeError
        ):  # typer's ending of it, which has no code of its own
            sys.exit(NOBODY_READS)
        raise


def _end(code: int, message: str) -> NoReturn:
    with suppress(OSError):  # on a full disk stderr may be no better
        typer.echo(f"pictune: {message}", err=True)
    sys.exit(code)


def _silence_stdout() -> None:
    """Lets go what could not be written, which the end of the program would try again."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
