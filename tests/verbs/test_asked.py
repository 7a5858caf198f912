"""What is said where a model was named and there is none."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from asking import ask

from pictune.verbs.asked import no_model


@pytest.fixture
def place(finished, here: Path) -> Path:
    """A run, an exported model, and things that are neither."""
    shutil.copytree(finished.run.path, here / "runs" / "teal-fox")
    (here / "exports").mkdir()
    (here / "exports" / "red-owl.pictune").write_bytes(b"not looked into")
    (here / "empty").mkdir()
    (here / "foreign").mkdir()
    (here / "foreign" / "a.txt").write_text("a")
    (here / "net.onnx").write_bytes(b"network")
    return here


@pytest.mark.parametrize(
    ("named", "found", "near"),
    [
        ("exports/red-olw.pictune", "there is nothing at exports/red-olw.pictune", "exports/red-owl.pictune"),
        ("teal-fox", "there is nothing at teal-fox", "runs/teal-fox"),
        ("runs", "runs is a folder, but neither a run nor an exported model", "runs/teal-fox"),
        ("empty", "empty is an empty folder", ""),
        ("foreign", "foreign is a folder, but neither a run nor an exported model", ""),
        ("net.onnx", "net.onnx is a file, but no exported model", ""),
    ],
)
def test_what_is_there_is_told_and_what_may_have_been_meant(place, named: str, found: str, near: str) -> None:
    answer = ask("predict", named, "a.png")
    wanted = "Name a run (runs/NAME) or an exported model (exports/NAME.pictune)"
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"pictune: {found}\n{wanted}{near and ', such as ' + near}.\n"


@pytest.mark.parametrize("verb", ["export", "evaluate"])
def test_verbs_that_need_a_run_name_runs_only(place, verb: str) -> None:
    answer = ask(verb, "runs/teal-fxo")
    assert answer.code == 2
    assert answer.err == (
        "pictune: there is nothing at runs/teal-fxo\nName a run (runs/NAME), such as runs/teal-fox.\n"
    )
    answer = ask(verb, "exports/red-owl.pictune")
    assert answer.code == 2
    told = {"export": "is exported already", "evaluate": "is an exported model, and no run"}[verb]
    assert answer.err.startswith(f"pictune: exports/red-owl.pictune {told}\n")


def test_a_few_names_are_told_at_most(here: Path) -> None:
    (here / "exports").mkdir()
    for number in range(9):
        (here / "exports" / f"{number}.pictune").touch()
    assert str(no_model(Path("exports/nowhere"))).count(".pictune") == 1 + 4


@pytest.mark.parametrize("verb", ["export", "evaluate", "predict"])
@pytest.mark.parametrize(
    ("status", "found", "instead"),
    [
        ({"state": "running"}, "its training was killed before its end", "Go on with it: pictune train "),
        ({"state": "stopped"}, "its training was stopped before its end", "Go on with it: pictune train "),
        (
            {"state": "failed", "reason": "The loss is no number."},
            "its training failed: The loss is no number.",
            "When that is mended, go on with it: pictune train ",
        ),
    ],
)
def test_a_run_that_was_not_finished(place, verb: str, status: dict, found: str, instead: str) -> None:
    _unfinished(place / "runs" / "teal-fox", status)
    answer = ask(verb, "runs/teal-fox", *["a.png"] * (verb == "predict"))
    assert answer.code == 2
    assert answer.err.startswith(f"pictune: the run teal-fox has no model yet: {found}\n{instead}")


def test_a_run_that_is_being_trained(place) -> None:
    run = place / "runs" / "teal-fox"
    _unfinished(run, {"state": "running"})
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()} since noon")
        lock.flush()
        answer = ask("export", run)
    assert answer.code == 2
    assert f"it is still being trained, by process {os.getpid()} since noon\nWait for" in answer.err
    assert "it is still being trained" not in ask("export", run).err


def _unfinished(run: Path, status: dict) -> None:
    shutil.rmtree(run / "model")
    (run / "status.json").write_text(json.dumps(status))


def test_a_name_stays_on_its_line(here: Path) -> None:
    assert len(str(no_model(here / "a\nb")).splitlines()) == 2
