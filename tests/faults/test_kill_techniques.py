"""A kill in the middle of a probe, of cached features or of what follows them changes nothing in the end."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from starter import Ended, Starter

import toys
from backbones import backbone_file
from pictune.run import Journal

KEPT = ("model/weights.safetensors", "model/model.json", "journal.jsonl", "reports/test/report.json")
WORDS = (
    *("train", "../toy", "--name", "x", "--model", "test_resnet", "--weights", "../known.safetensors"),
    *("--image-size", "32", "--epochs", "4", "--batch-size", "8"),
    *("--set", "training.threads=1", "--set", "training.precision=fp32"),
    *("--set", "training.memory_format=contiguous", "--set", "training.checkpoint_minutes=0.0002"),
    *("--set", "evaluation.resamples=100", "--set", "technique.heads=4"),
)
TECHNIQUES = {
    "head": ("--technique", "head", "--set", "transfer.views=2"),
    "lp_ft": ("--technique", "lp_ft", "--set", "technique.probe_epochs=3"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("techniques")
    toys.shape_folders(root / "toy")
    backbone_file(root / "known.safetensors")
    shutil.copytree(root / "toy", root / "half" / "toy")
    shutil.copy(root / "known.safetensors", root / "half")
    return root


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with Starter() as started:
        yield started


def trained(starter: Starter, folder: Path, technique: str, **befalls) -> Ended:
    folder.mkdir(exist_ok=True)
    environment = {"PICTUNE_CACHE": str(folder / "cache")}
    return starter.run((*WORDS, *TECHNIQUES[technique]), folder, environment=environment, **befalls)


def checksums(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / "runs/x" / name).read_bytes()).hexdigest() for name in KEPT}


def killed_while_features_are_computed(starter: Starter, root: Path, technique: str) -> Path:
    """A folder in which the first features are begun, and nothing of the probe is written down."""
    for write in range(28, 60, 3):
        folder = root / f"{technique}-{write}"
        assert trained(starter, folder, technique, strike=write).code == -signal.SIGKILL
        if list((folder / "cache/features").glob("*.bin")):
            assert not (folder / "runs/x/journal.jsonl").read_text()
            return folder
    raise AssertionError("no write of features was met")


@pytest.fixture(scope="module", params=TECHNIQUES)
def whole(request: pytest.FixtureRequest, starter: Starter, root: Path) -> tuple[str, dict[str, str]]:
    """A technique, and what a training that nothing happens to leaves."""
    folder = root / f"{request.param}-whole"
    ended = trained(starter, folder, request.param)
    assert ended.code == 0, ended.err
    return request.param, checksums(folder)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(starter, root, whole):
    technique, expected = whole
    folder = killed_while_features_are_computed(starter, root, technique)
    journal = folder / "runs/x/journal.jsonl"
    reached = []
    for befalls in (
        {"strike": 14},
        {"send": signal.SIGKILL, "lines": 1, "journal": str(journal)},  # the probe is written down
        {"send": signal.SIGKILL, "lines": 3, "journal": str(journal)},  # so are two epochs
    ):
        ended = trained(starter, folder, technique, **befalls)
        assert ended.code == -signal.SIGKILL, ended.err
        reached.append(len(Journal(journal).lines("epoch")))
    assert reached == sorted(reached)
    assert reached[0] == 0 < reached[-1]
    ended = trained(starter, folder, technique)
    assert ended.code == 0, ended.err
    assert "Going on with the unfinished run x" in ended.err
    assert checksums(folder) == expected
    assert list((folder / "runs").rglob(".tmp*")) == []


@pytest.mark.slow
def test_features_that_a_kill_left_half_computed_are_completed(starter, root, whole):
    """Another run meets them in the cache; what is missing, or was never vouched for, is computed anew."""
    technique, expected = whole
    killed = killed_while_features_are_computed(starter, root / "half", technique)
    again = root / f"{technique}-again"
    again.mkdir()
    (killed / "cache").rename(again / "cache")
    ended = trained(starter, again, technique)
    assert ended.code == 0, ended.err
    assert "Computing features" in ended.err
    assert checksums(again) == expected
