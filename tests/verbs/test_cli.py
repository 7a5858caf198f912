"""The command line itself: streams, exit codes, messages; whatever the verb."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from asking import QUICK, ask, learn

import pictune.verbs.recipe
import toys
from pictune.errors import MachineError, RunError, StoppedError
from pictune.version import __version__


def test_version() -> None:
    assert ask("--version").out == f"pictune {__version__}\n"


@pytest.mark.parametrize("words", [["fly"], ["train"], ["train", "a", "--colour", "red"], ["predict", "run"]])
def test_misused_words_end_with_two_and_a_hint(words: list[str]) -> None:
    answer = ask(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert "--help" in answer.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("it is broken", causes=["here", "there"], instead="Mend it."), 2, "  - there\nMend it.\n"),
        (MachineError("the disk is full"), 3, "pictune: the disk is full\n"),
        (StoppedError("Stopped and saved.", signal=2), 130, "pictune: Stopped and saved.\n"),
        (StoppedError("Stopped and saved.", signal=15), 143, "pictune: Stopped and saved.\n"),
        (MemoryError(), 3, "smaller pictures"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_has_its_exit_code_and_one_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(pictune.verbs.recipe, "recipe", fails)
    answer = ask("recipe")
    assert answer.code == code
    assert answer.out == ""
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(pictune.verbs.recipe, "recipe", fails)
    with pytest.raises(ZeroDivisionError):
        ask("recipe")


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    command = f"{sys.executable} -m pictune recipe | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "# Pictune recipe: every setting of a run.\n"
    assert done.stderr == ""


def test_a_reader_that_takes_nothing_is_told_by_the_exit_code() -> None:
    command = f"{sys.executable} -m pictune recipe | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.parametrize("redirected", [">", "2>&1 >"])
def test_results_that_cannot_be_written_are_one_message(redirected: str) -> None:
    command = f"{sys.executable} -m pictune recipe {redirected} /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    said = "pictune: what it found could not be written to stdout: No space left on device\n"
    assert done.stdout + done.stderr == said


def test_where_even_errors_cannot_be_written_the_exit_code_tells() -> None:
    command = f"{sys.executable} -m pictune recipe > /dev/full 2>&1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize(
    "words",
    [
        *(["train", "A"], ["train", "A", "--recipe", "A"], ["train", "A", "--images", "A"], ["audit", "A"]),
        *(["evaluate", "A", "--data", "A"], ["predict", "A", "A"], ["export", "A"], ["serve", "A"]),
        *(["convert", "A", "out", "--to", "coco"], ["recipe", "A"], ["lr-find", "A"]),
    ],
    ids=" ".join,
)
def test_what_may_not_be_read_is_told_by_the_verb(
    here, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """The parser would stop everything for one file, and not say what to do."""
    (here / "a.txt").write_text("no picture")
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    answer = ask(*("a.txt" if word == "A" else word for word in words))
    assert answer.code == 2
    assert answer.err.startswith("pictune: ")
    assert "Invalid value" not in answer.err


def test_names_that_a_terminal_cannot_show_are_escaped(here) -> None:
    root = toys.shape_folders(here / "photos", counts={"round-\u5186": 8, "cross": 8})
    answer = ask("train", root, *QUICK, encoding="latin-1")
    assert answer.code == 0, answer.err
    assert "round-\\u5186" in answer.out


def test_bars_go_to_a_terminal_and_the_answer_to_stdout(here, monkeypatch: pytest.MonkeyPatch) -> None:
    root = toys.shape_folders(here / "photos", counts={"circle": 8, "cross": 8})
    plain = learn(root, "--json")
    assert "\x1b" not in plain.err
    assert "opening pictures" not in plain.err
    monkeypatch.setenv("FORCE_COLOR", "1")  # this is how rich is told that stderr is a terminal
    drawn = learn(root, "--json", "--seed", "1")
    assert "opening pictures" in drawn.err
    assert "epoch 1/1" in drawn.err
    assert set(drawn.json) == set(plain.json) == {"verb", "run", "report", "metrics", "seconds"}


@pytest.mark.parametrize(
    "words",
    [["train", "LONG"], ["audit", "LONG"], ["evaluate", "LONG"], ["predict", "LONG", "a.png"]],
    ids=lambda words: words[0],
)
def test_a_path_that_the_system_refuses(here, words: list[str]) -> None:
    answer = ask(*("x" * 300 if word == "LONG" else word for word in words))
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert "File name too long" in answer.err


@pytest.mark.parametrize(
    "words", [["train", "photos", "--runs"], ["audit", "photos", "--out"], ["demo", "--folder"]]
)
def test_a_file_where_a_folder_is_needed(here, words: list[str]) -> None:
    toys.shape_folders(here / "photos", counts={"circle": 3, "cross": 3})
    (here / "notes.txt").write_text("mine")
    answer = ask(*words, "notes.txt")
    assert answer.code == 2
    assert (
        f"notes.txt is a file, and a folder is needed\nChoose another place with {words[-1]}." in answer.err
    )
    assert (here / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("verb", ["export", "predict", "evaluate"])
def test_a_verb_that_is_stopped_says_so(here, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pictune.verbs.{verb}.{verb}", stopped)
    answer = ask(verb, "runs/a", *["a.png"] * (verb == "predict"))
    assert (answer.code, answer.out, answer.err) == (130, "", "pictune: stopped\n")
