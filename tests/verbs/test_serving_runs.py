"""Serving a run: which file is taken, made or left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pictune.errors import ArtifactError, InputError, RunError
from pictune.exporting import artifact
from pictune.exporting.artifact import Artifact
from pictune.run import Run
from pictune.verbs import serve as verb
from pictune.verbs.export import export


def test_the_model_of_another_run_is_not_replaced(
    finished, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Run(shutil.copytree(finished.run.path, here / "runs" / "another"))
    place = export(finished.run, out="exports/another.pictune").path
    assert verb._exported(other.path) == place
    assert "is served (onnx, fp32): it was exported from another before" in capsys.readouterr().err
    monkeypatch.setattr(verb, "weights_sum", lambda _run: "those of another training")
    before = place.read_bytes()
    with pytest.raises(RunError) as caught:
        verb._exported(other.path)
    assert caught.value.message.endswith(f"holds the model of another run, {finished.run.name}")
    assert "--out" in caught.value.instead
    assert place.read_bytes() == before


def test_a_newer_training_of_the_same_run_is_exported_in_its_place(
    finished, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = here / "exports" / f"{finished.run.name}.pictune"
    export(finished.run, precision="fp16", out=place)
    monkeypatch.setattr(verb, "weights_sum", lambda _run: "those of another training")
    assert verb._exported(finished.run.path).resolve() == place
    assert Artifact.open(place).precision == "fp32"
    assert "It replaced the model" in capsys.readouterr().err


@pytest.mark.parametrize("left", [1000, 0])
def test_an_export_that_is_damaged_is_made_again(
    finished, here: Path, capsys: pytest.CaptureFixture[str], left: int
) -> None:
    place = export(finished.run, out=here / "exports" / f"{finished.run.name}.pictune").path
    place.write_bytes(place.read_bytes()[:left])
    assert verb._exported(finished.run.path).resolve() == place
    assert Artifact.open(place).content["run"] == finished.run.name
    said = capsys.readouterr().err
    assert f"What was exported to exports/{place.name} before cannot be served" in said
    assert "It replaced an exported model that was broken" in said


def test_an_export_that_a_newer_pictune_made_is_left_alone(
    finished, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = export(finished.run, out=here / "exports" / f"{finished.run.name}.pictune").path
    before = place.read_bytes()
    monkeypatch.setattr(artifact, "FORMAT", 0)
    with pytest.raises(ArtifactError) as refused:
        verb._exported(finished.run.path)
    assert refused.value.code == "newer_format"
    assert place.read_bytes() == before


def test_nothing_is_exported_for_an_address_that_cannot_be_had(finished, here: Path) -> None:
    with pytest.raises(InputError, match="there is no port 99999"):
        verb.serve(finished.run.path, port=99999)
    assert not (here / "exports").exists()
