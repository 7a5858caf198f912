"""The command line as a user meets it: words in; an exit code, stdout and stderr out; all in one process."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pictune.cli import main

# Small, and with nothing left to be measured on this machine.
QUICK = (
    *("--model", "cnn", "--weights", "none", "--image-size", "32", "--epochs", "1", "--batch-size", "16"),
    *("--set", "training.threads=1", "--set", "training.precision=fp32"),
    *("--set", "training.memory_format=contiguous", "--set", "evaluation.resamples=100"),
)


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; anything beside it, or a NaN in it, fails."""
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def ask(*words: object, encoding: str = "utf-8") -> Answer:
    """Runs ``pictune`` with these words."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["pictune", *map(str, words)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Answer(code, *(_written(stream) for stream in (out, err)))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode(stream.encoding)


def learn(data: Path, *words: object) -> Answer:
    """Trains quickly on some data, into ``runs`` where we are."""
    return ask("train", data, *QUICK, *words)


def report_of(run: Path | str, name: str = "test") -> dict[str, Any]:
    """A run's report.json."""
    return json.loads((Path(run) / "reports" / name / "report.json").read_text(), parse_constant=_refuse)


def traces(folder: Path) -> dict[Path, tuple[Any, ...]]:
    """A folder and everything below it, such that any change shows: bytes, links, modes and times."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[path] = (status.st_mode, status.st_mtime_ns, content)
    return found
