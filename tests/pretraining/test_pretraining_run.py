"""A tiny training from end to end: stopped, resumed, exported, loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pretraining.export import export
from pretraining.probes import Watched, probe
from pretraining.transfer import first_network
from safetensors.torch import load_file

from pictune.errors import StoppedError
from pictune.models.cnn import resnet9
from pretraining import run


def tiny_set() -> Watched:
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    pixels = (
        rng.integers(0, 100, (48, 32, 32, 3)).astype(np.uint8)
        + (labels * 100).astype(np.uint8)[:, None, None, None]
    )
    return Watched("tiny", pixels, labels, np.arange(48))


def trained(out: Path, name: str = "tiny") -> Path:
    asked = "--epochs 2 1 --images 32 --batch-size 16 --variants 1 --most 1 --precision fp32".split()
    given = run.arguments([*asked, "--out", str(out), "--name", name])
    return run.train(given, [tiny_set()])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SMALL", 32)
    monkeypatch.setattr(run, "LARGE", 40)


@pytest.mark.usefixtures("small")
def test_a_stopped_training_goes_on_to_the_same_weights_and_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "a")

    class Stopping(run.Told):
        def epoch(self, facts: object) -> None:
            raise StoppedError("as if a signal had come", signal=15)

    monkeypatch.setattr(run, "Told", Stopping)
    with pytest.raises(StoppedError):
        trained(tmp_path / "b")
    monkeypatch.setattr(
        run, "Told", run.Told.__base__ if run.Told.__base__ is not object else Stopping.__base__
    )
    again = trained(tmp_path / "b")
    first, second = (load_file(folder / "checkpoints/last.safetensors") for folder in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (whole / "journal.jsonl").read_text() == (again / "journal.jsonl").read_text()

    file = export(whole, tmp_path / "ship/resnet9.safetensors")
    tensors = load_file(file)
    expected = resnet9(outputs=0).state_dict()
    assert tensors.keys() == expected.keys()
    assert all(tensors[name].shape == expected[name].shape for name in expected)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}
    network = first_network(5, file, seed=0)
    name = "network.stages.0.0.weight"
    assert torch.equal(network.state_dict()[name].half(), tensors["stages.0.0.weight"])
    assert not torch.equal(network.state_dict()[name], first_network(5, None, seed=0).state_dict()[name])


def test_how_many_epochs_fit_is_measured_once(tmp_path: Path) -> None:
    plan = run.planned(tmp_path, 10.0, 0.25, lambda: (28.0, 48.0, 2.0))
    assert plan == {"small": 15, "large": 3}
    assert run.planned(tmp_path, 99.0, 0.9, lambda: (1.0, 1.0, 1.0)) == plan


def test_a_probe_finds_what_lies_on_a_line_and_nothing_in_noise() -> None:
    data = Watched("toy", np.zeros((200, 1, 1, 3), np.uint8), np.arange(200) % 4, np.arange(200))
    rng = np.random.default_rng(1)
    telling = rng.normal(size=(200, 12)).astype(np.float32)
    telling[np.arange(200), data.labels] += 6
    assert probe(telling, data) > 0.95
    assert 0.1 < probe(rng.normal(size=(200, 12)).astype(np.float32), data) < 0.4
