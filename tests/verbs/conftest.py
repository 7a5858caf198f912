"""A finished run to ask, and an empty place to work in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from asking import QUICK, Answer, ask

import toys
from pictune.run import Run


@dataclass(frozen=True)
class Finished:
    """A finished run, the pictures it learnt from, and what training printed. Never to be changed."""

    photos: Path
    run: Run
    answer: Answer


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two epochs on sixty shapes in class folders."""
    place = tmp_path_factory.mktemp("finished")
    photos = toys.shape_folders(place / "photos")
    answer = ask("train", photos, *_two_epochs(), "--runs", place / "runs", "--name", "teal-fox")
    assert answer.code == 0, answer.err
    return Finished(photos, Run(place / "runs" / "teal-fox"), answer)


def _two_epochs() -> list[str]:
    words = list(QUICK)
    words[words.index("--epochs") + 1] = "2"
    return words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
