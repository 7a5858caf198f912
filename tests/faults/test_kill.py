"""Faults from outside (RELIABILITY F1 to F3, F7, F8, F10, F16, F19) on a real `pictune train`.

The promise: whatever ends the process, the same command goes on, and the model, the journal and the report
are those of a training that nothing ever happened to, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from starter import Ended, Starter

import toys
from pictune.run import Run
from pictune.training.checkpoints import load_checkpoint

KILLS = 20
WORDS = (
    *("train", "../toy", "--name", "x", "--json", "--model", "cnn", "--weights", "none"),
    *("--image-size", "32", "--epochs", "3", "--batch-size", "8", "--augment", "medium"),
    *("--set", "training.threads=1", "--set", "training.precision=fp32"),
    *("--set", "training.memory_format=contiguous", "--set", "training.ema=0.9"),
    *("--set", "training.checkpoint_minutes=0.0002", "--set", "evaluation.resamples=100"),
)
KEPT = ("model/weights.safetensors", "model/model.json", "journal.jsonl", "reports/test/report.json")


@dataclass(frozen=True)
class Place:
    """Where trainings are started, and what an undisturbed one left and took."""

    starter: Starter
    root: Path
    whole: dict[str, str]
    seconds: float

    def folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        return folder

    def train(self, folder: Path, words: tuple[str, ...] = WORDS, **befalls) -> Ended:
        environment = {"PICTUNE_CACHE": str(folder / "cache"), **befalls.pop("environment", {})}
        return self.starter.run(words, folder, environment=environment, **befalls)

    def ends_like_the_whole(self, folder: Path) -> None:
        """Runs the same command to its end, and compares; a kill may also come when all is finished."""
        run = folder / "runs" / "x"
        if not finished(run):
            ended = self.train(folder)
            assert ended.code == 0, ended.err
            assert json.loads(ended.out)["run"] == "runs/x"
            assert list((folder / "runs").rglob(".tmp*")) == []
        assert checksums(run) == self.whole


def checksums(run: Path) -> dict[str, str]:
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in KEPT}


def finished(run: Path) -> bool:
    return (run / "status.json").exists() and Run(run).state == "finished"


def check_what_a_kill_left(run: Path, *, before: tuple[int, int] = (-1, -1)) -> tuple[int, int]:
    """The newest checkpoint loads, and no more was lost than since the one before.

    Args:
        run: The run's folder; it need not be there yet.
        before: What an earlier call returned.

    Returns:
        The epoch and the batch from which training will go on.
    """
    last = run / "checkpoints" / "last.safetensors"
    if not last.exists():
        assert before == (-1, -1), "the checkpoint was lost"
        assert not (run / "journal.jsonl").exists() or not (run / "journal.jsonl").read_text()
        return before
    tensors, facts = load_checkpoint(last)
    assert tensors
    journal = (run / "journal.jsonl").read_bytes()
    progress = facts["progress"]
    assert len(journal) >= progress["journal"]
    reached = (progress["epoch"], progress["batch"])
    assert reached >= before, "training began anew"
    # The interval is shorter than an epoch here, so at most the epoch that was just written down is lost.
    assert progress["epoch"] >= journal.count(b"\n") - 1
    return reached


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("faults")
    toys.shape_folders(root / "toy")
    with Starter() as starter:
        unmeasured = Place(starter, root, {}, 0)
        rehearsal = unmeasured.train(unmeasured.folder("rehearsal"))
        assert rehearsal.code == 0, rehearsal.err
        folder = unmeasured.folder("whole")
        ended = unmeasured.train(folder)
        assert ended.code == 0, ended.err
        yield Place(starter, root, checksums(folder / "runs" / "x"), ended.seconds)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(place):
    generator = np.random.default_rng(1)
    kills = resumed = 0
    for number in range(3 * KILLS):
        folder = place.folder(f"random{number}")
        reached = (-1, -1)
        # Three kills a round: the later ones strike while the run goes on, or begins anew.
        for after in generator.uniform(0, place.seconds, 3):
            if finished(folder / "runs" / "x"):
                break
            ended = place.train(folder, send=signal.SIGKILL, after=float(after))
            assert ended.code in {0, -signal.SIGKILL}, ended.err
            kills += ended.code == -signal.SIGKILL
            reached = check_what_a_kill_left(folder / "runs" / "x", before=reached)
        resumed += reached > (0, 0)
        place.ends_like_the_whole(folder)
        shutil.rmtree(folder)
        if kills >= KILLS:
            break
    assert kills >= KILLS, "the kills came too late"
    assert resumed, "no kill came in the middle of training"


@pytest.mark.slow
def test_killed_at_a_write_it_ends_as_if_nothing_had_happened(place):
    """The first writes make the run and its beginning; the last ones ship the model and its report."""
    for number in (1, 2, 3, 5, 8, 14, 27):
        folder = place.folder(f"write{number}")
        ended = place.train(folder, strike=number)
        assert ended.code == -signal.SIGKILL, f"write {number}: {ended.err}"
        check_what_a_kill_left(folder / "runs" / "x")
        place.ends_like_the_whole(folder)
        shutil.rmtree(folder)


def test_an_extension_killed_at_a_write_is_extended_once(place):
    extend = ("train", "runs/x", "--epochs", "+1", "--json")
    before = place.folder("before")
    assert place.train(before).code == 0
    whole = shutil.copytree(before, place.root / "extended", symlinks=True)
    assert place.train(whole, extend).code == 0
    assert (whole / "runs/x/journal.jsonl").read_text().count("\n") == 4
    for number in (2, 4, 9):
        folder = shutil.copytree(before, place.root / f"extension{number}", symlinks=True)
        assert place.train(folder, extend, strike=number).code == -signal.SIGKILL
        ended = place.train(folder, extend)
        assert ended.code == 0, ended.err
        assert checksums(folder / "runs" / "x") == checksums(whole / "runs" / "x")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(place, number, code):
    folder = place.folder(f"signal{int(number)}")
    journal = str(folder / "runs/x/journal.jsonl")
    ended = place.train(folder, send=number, lines=1, journal=journal)
    assert ended.code == code
    assert "Stopped and saved at epoch" in ended.err
    assert ended.out == ""
    assert Run(folder / "runs" / "x").state == "stopped"
    place.ends_like_the_whole(folder)


def test_a_full_disk_stops_with_what_was_saved_intact(place):
    folder = place.folder("full")
    run = folder / "runs" / "x"
    place.train(folder, send=signal.SIGTERM, lines=1, journal=str(run / "journal.jsonl"))
    before = (run / "checkpoints" / "last.safetensors").read_bytes()
    ended = place.train(folder, file_size=len(before) // 2)
    assert ended.code == 3, ended.err
    assert "pictune: the disk is full: " in ended.err
    assert "Traceback" not in ended.err
    assert (run / "checkpoints" / "last.safetensors").read_bytes() == before
    place.ends_like_the_whole(folder)


def test_a_run_folder_that_vanishes_stops_with_the_reason(place):
    folder = place.folder("gone")
    run = folder / "runs" / "x"
    ended = place.train(folder, remove=str(run), lines=1, journal=str(run / "journal.jsonl"))
    assert ended.code == 3, ended.err
    assert "could not be written" in ended.err
    assert "Traceback" not in ended.err


def test_a_second_trainer_is_turned_away(place):
    folder = place.folder("twice")
    run = folder / "runs" / "x"
    place.train(folder, send=signal.SIGTERM, lines=1, journal=str(run / "journal.jsonl"))
    before = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    with Run(run).lock():
        ended = place.train(folder)
        holder = (run / ".lock").read_text()
    assert ended.code == 2
    assert f"the run x is in use by process {holder}\n" in ended.err
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == before
    place.ends_like_the_whole(folder)


@pytest.mark.parametrize(
    ("name", "befalls"),
    [
        ("few-files", {"open_files": 64}),
        ("own-mask", {"umask": 0o077}),
        ("homeless", {"environment": {"HOME": None, "XDG_CACHE_HOME": None, "TZ": "Antarctica/Troll"}}),
    ],
)
def test_in_a_narrow_place_it_works_all_the_same(place, name, befalls):
    folder = place.folder(name)
    ended = place.train(folder, **befalls)
    assert ended.code == 0, ended.err
    assert checksums(folder / "runs" / "x") == place.whole


def test_a_start_in_the_c_locale_is_like_any_other(place):
    folder = place.folder("locale")
    environment = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}
    environment |= {"PICTUNE_CACHE": str(folder / "cache"), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pictune", *WORDS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checksums(folder / "runs" / "x") == place.whole
