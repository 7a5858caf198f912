"""A run: the folder on disk that holds everything one training made.

runs/teal-fox/
recipe.yaml       every setting, defaults and choices written out
made_by.json      versions, device, seed, data fingerprint, what was chosen and why
splits.json       which image is in which split
status.json       running, stopped, finished or failed: written last
journal.jsonl     one line an event of learning; no times in it
timings.jsonl     seconds, and when the run was stopped or resumed
checkpoints/      to go on from
model/            what is shipped: weights.safetensors, model.json
reports/<name>/   report.json, report.html, *.csv
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pictune.errors import RunError
from pictune.files import disk_errors, sweep, sync_folder, write_json

COLOURS = (
    "amber azure beige black blue bronze brown copper coral cream crimson cyan ebony fawn golden green "
    "grey hazel indigo ivory jade khaki lemon lilac lime maroon mauve mint navy ochre olive opal orange "
    "pearl pink plum purple red rose ruby rust sable sand sepia silver slate snow tan teal topaz umber "
    "violet white yellow"
).split()
ANIMALS = (
    "ant badger bat bear beaver bee bison boar camel carp cat cod crab crane crow deer dove duck eagle "
    "eel elk finch fox frog gecko goat goose gull hare hawk heron horse ibis ibex jay koala lark lion "
    "llama lynx marten mole moose moth mouse newt otter owl ox panda pike puma quail rabbit ram raven "
    "robin seal shark sheep shrew skunk sloth snail swan tapir tern tiger toad trout vole wasp weasel "
    "whale wolf wombat wren yak zebra"
).split()

# All that lies in a run folder before `made_by.json`, the first file from which a run could go on.
BEGINNING = {".lock", "status.json", "recipe.yaml", "splits.json", "checkpoints", "model", "reports"}
STATES = ("running", "stopped", "finished", "failed")


class Run:
    """A run folder: where its parts lie, and who may write there.

    Args:
        path: The folder; it must exist and hold a run.

    Raises:
        RunError: When there is no run at that place.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        if not (self.path / "status.json").is_file():
            beside = self.path.parent.glob("*/status.json")
            known = sorted(p.parent.name for p in beside if not p.parent.is_symlink())
            raise RunError(
                f"{path} is not a run folder",
                instead=f"Runs beside it: {', '.join(known)}."
                if known
                else "Make one with: pictune train <folder>",
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, runs: Path, *, name: str | None = None) -> Run:
        """Makes a new run folder, never over an old one, and points ``latest`` at it.

        Args:
            runs: The folder that holds all runs; made when absent.
            name: A name wished for; a readable one is drawn when None.

        Raises:
            RunError: When a run of that name exists, or the name is no plain folder name.
        """
        check_name(runs, name)
        with disk_errors(runs):
            runs.mkdir(parents=True, exist_ok=True)
            folder = _new_folder(runs, name)
            for part in ("checkpoints", "model", "reports"):
                (folder / part).mkdir(exist_ok=True)
        write_json(folder / "status.json", {"state": "running"})
        run = cls(folder)
        run.point_latest()
        return run

    @property
    def name(self) -> str:
        """The folder's name, such as ``teal-fox``."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """The folder from which training goes on."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the shipped model."""
        return self.path / "model"

    @property
    def journal(self) -> Path:
        """The file with one line an event of learning."""
        return self.path / "journal.jsonl"

    def report(self, name: str) -> Path:
        """The folder of one report; made when absent."""
        folder = self.path / "reports" / name
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def state(self) -> str:
        """``running``, ``stopped``, ``finished`` or ``failed``."""
        state = str(self.read("status.json").get("state", "failed"))
        return state if state in STATES else "failed"

    @property
    def user(self) -> str:
        """The process that is training the run, and since when; empty when none is."""
        try:
            stream = (self.path / ".lock").open(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return stream.read().strip() or "unknown"
        return ""

    def read(self, name: str) -> dict[str, Any]:
        """One of the run's JSON files.

        Raises:
            RunError: When the file is absent or not JSON.
        """
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"the run {self.name} has no {name}", instead="It may not have got that far."
            ) from None
        except (ValueError, OSError) as error:
            raise RunError(f"{name} of the run {self.name} cannot be read: {error}") from None
        if not isinstance(value, dict):
            raise RunError(f"{name} of the run {self.name} is not a JSON object")
        return value

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Replaces one of the run's JSON files in one step."""
        write_json(self.path / name, value)

    def note_time(self, event: str, **facts: float | int | str) -> None:
        """Adds a line to ``timings.jsonl``: what took how long. Lost lines do no harm."""
        with disk_errors(self.path), (self.path / "timings.jsonl").open("a") as stream:
            stream.write(json.dumps({"event": event, **facts}) + "\n")

    def point_latest(self) -> None:
        """Points ``runs/latest`` at this run."""
        link = self.path / f".tmp-{secrets.token_hex(4)}"  # in the run, where it is swept after a kill
        with disk_errors(link):
            link.symlink_to(self.path.name)
            link.replace(self.path.parent / "latest")
            sync_folder(self.path.parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other process from training this run; released by the system if we die.

        Raises:
            RunError: When another process holds it; the message names its number and when it began.
        """
        with disk_errors(self.path):
            stream = (self.path / ".lock").open("a+")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                raise RunError(
                    f"the run {self.name} is in use by process {stream.read().strip() or 'unknown'}",
                    instead="Wait for it to end, or stop it first.",
                ) from None
            with disk_errors(self.path):
                stream.truncate(0)
                stream.write(f"{os.getpid()} since {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}")
                stream.flush()
                for folder in (self.path, self.checkpoints, self.model, *self.path.glob("reports/*")):
                    sweep(folder)
            yield


def weights_sum(run: Run) -> str:
    """The checksum of the weights that a run ships.

    Raises:
        RunError: When it has no model.
    """
    return str(run.read("model/model.json").get("sha256", ""))


def check_name(runs: Path, name: str | None) -> None:
    """Refuses a name that no new run can have.

    Raises:
        RunError: When it is no plain folder name, or taken.
    """
    if name is None:
        return
    if Path(name).name != name or name in {"", ".", "..", "latest"}:
        raise RunError(f"{name!r} cannot be a run's name", instead="Use letters, digits and dashes.")
    if (runs / name).exists() and not _unbegun(runs / name):
        raise RunError(f"a run called {name} exists already in {runs}", instead="Choose another --name.")


def _new_folder(runs: Path, name: str | None) -> Path:
    for _ in range(1000):
        folder = runs / (name or f"{secrets.choice(COLOURS)}-{secrets.choice(ANIMALS)}")
        try:
            folder.mkdir()
        except FileExistsError:
            check_name(runs, name)  # another process may have taken it a moment ago
            if name is None:
                continue
        return folder
    raise RunError(f"no free name was found in {runs}", instead="Give one with --name.")


def _unbegun(folder: Path) -> bool:
    """Whether a folder is all that a start leaves when it is killed before anything was settled."""
    return folder.is_dir() and all(
        part.name in BEGINNING or part.name.startswith(".tmp") for part in folder.iterdir()
    )


def all_runs(runs: Path) -> list[Run]:
    """Every run in a folder, oldest first."""
    if not runs.is_dir():
        return []
    found = [p.parent for p in runs.glob("*/status.json") if not p.parent.is_symlink()]
    return [Run(p) for p in sorted(found, key=lambda p: (p / "status.json").stat().st_mtime_ns)]


class Journal:
    """A file of JSON lines that can be cut back to a known length.

    Args:
        path: The file; made when absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            with disk_errors(path):
                path.touch()
                sync_folder(path.parent)

    def add(self, event: str, **facts: Any) -> None:
        """Adds one line."""
        line = json.dumps({"event": event, **facts}, ensure_ascii=False, allow_nan=False)
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def sync(self) -> int:
        """Makes all lines survive a power cut and returns the file's length in bytes."""
        with disk_errors(self._path), self._path.open("rb+") as stream:
            os.fsync(stream.fileno())
            return stream.seek(0, os.SEEK_END)

    def cut(self, length: int) -> None:
        """Forgets everything after ``length`` bytes.

        Raises:
            RunError: When the file is shorter than that: somebody else has changed it.
        """
        if self._path.stat().st_size < length:
            raise RunError(
                f"{self._path.name} is shorter than when it was saved: lines of it are lost",
                instead="Put the file back, or train anew with --new.",
            )
        with disk_errors(self._path), self._path.open("rb+") as stream:
            stream.truncate(length)
            os.fsync(stream.fileno())

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The events, all of them or those of one kind; an unfinished last line is left out."""
        text = self._path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n")[:-1] if line]
        return [row for row in rows if event is None or row["event"] == event]
