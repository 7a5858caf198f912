"""A place of its own for processes that are watched: an empty home, and what the watch wrote down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audit_watch

#: How the package starts the processes that answer for a model.
WORKER = (sys.executable, "-P", "-m", "pictune.serving.worker")
#: All that may be started, as patterns of the first words.
MAY_BE_STARTED = (
    WORKER,
    # Python's own ctypes.util.find_library, which PyTorch's CUDA packages call when they are imported: it
    # prints where libraries lie.
    ("/sbin/ldconfig", "-p"),
)

INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
MAY_BE_WRITTEN = ("work", "cache", "tmp")
SOURCES = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds that a process may take before a test fails


@dataclass(frozen=True)
class Watched:
    """Where watched processes run.

    Args:
        place: Holds ``data``, which may be read; ``work``, ``cache`` and ``tmp``, which may be written to;
            ``home``, which may be neither; and what the watch needs.
    """

    place: Path

    @classmethod
    def make(cls, place: Path) -> Watched:
        """Makes the folders, and the rules of the watch."""
        for name in (*MAY_BE_WRITTEN, "data", "home", "log", "watch"):
            (place / name).mkdir()
        (place / "home" / "letter.txt").write_text("private")
        programs = [sys.prefix, sys.base_prefix, SOURCES, *filter(None, sys.path)]
        rules = {
            "log": place / "log",
            "writable": [place / name for name in MAY_BE_WRITTEN],
            "homes": [place / "home", *_homes()],
            "readable": [place / "data", place / "watch", *programs],
            "programs": MAY_BE_STARTED,
        }
        (place / "watch" / "rules.json").write_text(json.dumps(rules, default=str))
        shutil.copyfile(audit_watch.__file__, place / "watch" / "sitecustomize.py")
        return cls(place)

    @contextmanager
    def process(self, *words: object) -> Iterator[subprocess.Popen[str]]:
        """A watched Python process with these words on its command line; it runs in ``work``."""
        # Nothing else of the environment: other tests leave places there, and coverage its own file.
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        path = (str(self.place / "watch"), *filter(None, [os.environ.get("PYTHONPATH")]))
        environment |= {
            "HOME": str(self.place / "home"),
            "TMPDIR": str(self.place / "tmp"),
            "PICTUNE_CACHE": str(self.place / "cache"),
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AUDIT_WATCH": str(self.place / "watch" / "rules.json"),
        }
        with subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=self.place / "work",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def run(self, *words: object) -> tuple[int, str, str]:
        """The exit code of such a process, and what it wrote to stdout and stderr."""
        with self.process(*words) as child:
            out, err = child.communicate(timeout=PATIENCE)
        return child.returncode, out, err

    def records(self) -> list[dict[str, Any]]:
        """All that the watch wrote down, in all processes."""
        lines = [
            line for path in sorted((self.place / "log").iterdir()) for line in path.read_text().splitlines()
        ]
        return [json.loads(line) for line in lines]

    def breaches(self) -> list[dict[str, Any]]:
        """What was refused."""
        return [record for record in self.records() if record["kind"] != "started"]

    def started(self) -> list[Sequence[str]]:
        """The command lines of all processes that were watched."""
        return [record["what"] for record in self.records() if record["kind"] == "started"]


def _homes() -> list[Path]:
    """The home of whoever runs the tests, where it is a folder of its own."""
    home = Path(os.environ.get("HOME") or "/")
    return [home] if home.is_dir() and home != Path("/") else []
