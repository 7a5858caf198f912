"""Run folders: made once, locked by one, named readably, and a journal that can be cut."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from pictune.errors import MachineError, RunError
from pictune.run import ANIMALS, COLOURS, Journal, Run, all_runs


def test_a_new_run_has_its_folders_and_is_the_latest(tmp_path):
    run = Run.create(tmp_path / "runs")
    colour, animal = run.name.split("-")
    assert colour in COLOURS
    assert animal in ANIMALS
    assert run.state == "running"
    assert run.checkpoints.is_dir()
    assert run.model.is_dir()
    assert Run(tmp_path / "runs" / "latest").path == run.path
    second = Run.create(tmp_path / "runs", name="second")
    assert Run(tmp_path / "runs" / "latest").path == second.path
    assert [other.name for other in all_runs(tmp_path / "runs")] == [run.name, "second"]
    assert all_runs(tmp_path / "none") == []


def test_a_run_shows_where_it_is(tmp_path):
    run = Run.create(tmp_path, name="teal-fox")
    assert repr(run) == f"Run({str(tmp_path / 'teal-fox')!r})"


def test_a_run_can_be_moved_with_its_siblings(tmp_path):
    Run.create(tmp_path / "runs", name="x")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert Run(tmp_path / "moved" / "latest").name == "x"


def test_a_run_is_never_made_over_another(tmp_path):
    run = Run.create(tmp_path, name="x")
    run.write("made_by.json", {})
    with pytest.raises(RunError, match="a run called x exists already"):
        Run.create(tmp_path, name="x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="a run called mine exists already"):
        Run.create(tmp_path, name="mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="a run called file exists already"):
        Run.create(tmp_path, name="file")


def test_a_start_killed_before_anything_was_settled_does_not_block_its_name(tmp_path):
    Run.create(tmp_path, name="x")
    assert Run.create(tmp_path, name="x").state == "running"
    (tmp_path / "y" / "checkpoints").mkdir(parents=True)
    assert Run.create(tmp_path, name="y").model.is_dir()


def test_drawn_names_never_collide(tmp_path, monkeypatch):
    monkeypatch.setattr("pictune.run.secrets.choice", lambda words: words[0])
    assert Run.create(tmp_path).name == "amber-ant"
    with pytest.raises(RunError, match="no free name"):
        Run.create(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "latest", "../up"])
def test_names_that_are_no_plain_folder_names(tmp_path, name):
    with pytest.raises(RunError, match="cannot be a run's name"):
        Run.create(tmp_path / "runs", name=name)


def test_what_is_no_run_names_those_beside_it(tmp_path):
    with pytest.raises(RunError, match="pictune train"):
        Run(tmp_path / "x")
    Run.create(tmp_path, name="teal-fox")
    with pytest.raises(RunError, match="Runs beside it: teal-fox"):
        Run(tmp_path / "tael-fox")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "has no x.json"), ("{", "cannot be read"), ("[]", "not a JSON object")]
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    run = Run.create(tmp_path)
    if content is not None:
        (run.path / "x.json").write_text(content)
    with pytest.raises(RunError, match=words):
        run.read("x.json")


def test_an_unknown_state_counts_as_failed(tmp_path):
    run = Run.create(tmp_path)
    run.write("status.json", {"state": "sleeping"})
    assert run.state == "failed"


def test_times_are_kept_apart(tmp_path):
    run = Run.create(tmp_path)
    run.note_time("stopped", seconds=1.5)
    run.note_time("resumed")
    lines = (run.path / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["stopped", "resumed"]


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    # Whoever runs the tests may be allowed everything, so the system's answer is simulated.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    run = Run.create(tmp_path / "runs")
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(MachineError, match="may write to: --runs"), run.lock():
        pytest.fail("a lock on a folder that may not be written to")
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(MachineError, match="could not be written"):
        Run.create(tmp_path / "other")


# ---------------------------------------------------------------- the lock

HOLDER = """
import sys, time
from pictune.run import Run
with Run(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_writer_at_a_time_and_the_lock_of_the_dead_is_free(tmp_path):
    run = Run.create(tmp_path, name="x")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(RunError) as caught, run.lock():
            pytest.fail("two hold one lock")
        assert caught.value.exit_code == 2
        said = (
            rf"the run x is in use by process {holder.pid} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{{4}}"
        )
        assert re.fullmatch(said, caught.value.message)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.lock():
        assert (run.path / ".lock").read_text().startswith(f"{os.getpid()} since ")
    with run.lock():
        pass


def test_the_lock_sweeps_what_a_kill_left(tmp_path):
    run = Run.create(tmp_path)
    left = [run.path, run.checkpoints, run.model, run.report("test"), run.report("val")]
    for folder in left:
        (folder / ".tmp-abc").write_text("half")
        (folder / ".tmpRust1").write_text("half")
    with run.lock():
        assert list(run.path.rglob(".tmp*")) == []


def test_the_lock_sweeps_nothing_that_another_process_is_writing(tmp_path):
    run = Run.create(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        written = run.report("test") / f".tmp-{writer.pid}-abc"
        written.write_text("half")
        with run.lock():
            assert written.exists()
        writer.communicate(b"\n")
    with run.lock():
        assert not written.exists()


def test_errors_inside_the_lock_are_not_taken_for_the_disks(tmp_path):
    run = Run.create(tmp_path)
    with pytest.raises(PermissionError), run.lock():
        raise PermissionError(13, "of something else")


# ---------------------------------------------------------------- the journal


def test_a_journal_is_cut_back_to_what_was_saved(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("epoch", loss=0.1, name="é")
    kept = journal.sync()
    journal.add("epoch", loss=0.2)
    journal.add("diverged", files=["a"])
    assert [row["loss"] for row in journal.lines("epoch")] == [0.1, 0.2]
    journal.cut(kept)
    assert journal.lines() == [{"event": "epoch", "loss": 0.1, "name": "é"}]
    assert journal.sync() == kept
    assert Journal(tmp_path / "journal.jsonl").lines() == journal.lines()


def test_an_unfinished_last_line_is_left_out(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "epoch", "loss": 1}\n{"event": "ep')
    assert Journal(path).lines() == [{"event": "epoch", "loss": 1}]


def test_a_journal_holds_no_nan(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        journal.add("epoch", loss=float("nan"))
    assert journal.lines() == []


def test_a_journal_that_lost_lines_is_refused(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("epoch", loss=0.1)
    with pytest.raises(RunError, match="shorter than when it was saved"):
        journal.cut(journal.sync() + 1)
    assert len(journal.lines()) == 1
