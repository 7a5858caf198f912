"""Checkpoints: one file, whole or absent, that gives everything back bit for bit."""

from __future__ import annotations

import pytest
import torch

from pictune.errors import RunError
from pictune.training.checkpoints import below, load_checkpoint, prefixed, save_checkpoint

TENSORS = {
    "a/weight": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    "a/count": torch.tensor(7),
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}
FACTS = {"loss_sum": 0.1 + 0.2, "scores": [1e-300, -0.0], "name": "é", "none": None, "deep": {"done": True}}


def test_what_goes_in_comes_out(tmp_path):
    save_checkpoint(tmp_path / "last.safetensors", TENSORS, FACTS)
    tensors, facts = load_checkpoint(tmp_path / "last.safetensors")
    assert facts == FACTS
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_same_state_makes_the_same_bytes(tmp_path):
    save_checkpoint(tmp_path / "one", TENSORS, FACTS)
    save_checkpoint(tmp_path / "two", dict(reversed(TENSORS.items())), FACTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_facts_that_are_no_numbers_are_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, TENSORS, FACTS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, TENSORS, {"loss": float("nan")})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: bytes(8) + data[8:],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:9] + b"x" + data[10:],
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, TENSORS, FACTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"last\.safetensors cannot be read"):
        load_checkpoint(path)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"x\.safetensors cannot be read"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_tensors_under_a_prefix():
    inside = {"weight": torch.ones(1), "deep/bias": torch.zeros(1)}
    whole = {**prefixed("network", inside), **prefixed("network2", {"other": torch.ones(2)})}
    assert below("network", whole) == inside
    assert below("absent", whole) == {}
