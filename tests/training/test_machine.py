"""The machine: explicit wishes are kept, `auto` measures and says so, the impossible is refused."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest
import torch
from lessons import SIDE, tiny
from torch import nn

from pictune.errors import DivergedError, MachineError, RecipeError
from pictune.training import machine as module
from pictune.training.machine import Machine, addressed_randomness, is_out_of_memory, place

IMAGES = torch.zeros(4, SIDE, SIDE, 3, dtype=torch.uint8)
CPU = torch.device("cpu")


@pytest.fixture
def machine() -> Machine:
    return Machine(device="cpu", threads=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_what_was_given_is_kept_without_measuring(machine, monkeypatch, precision, memory_format):
    monkeypatch.setattr(Machine, "_time", lambda *_: pytest.fail("measured what was settled"))
    chosen = machine.choose(tiny(), IMAGES, precision=precision, memory_format=memory_format)
    assert (chosen.precision, chosen.memory_format, chosen.reason) == (precision, memory_format, "as given")


@pytest.mark.parametrize(
    ("precision", "memory_format"), [("auto", "auto"), ("bf16", "auto"), ("auto", "channels_last")]
)
def test_auto_measures_what_is_open_and_gives_its_figures(machine, precision, memory_format):
    network = tiny(normalised=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    chosen = machine.choose(network, IMAGES, precision=precision, memory_format=memory_format, seconds=0)
    assert precision in {"auto", chosen.precision}
    assert memory_format in {"auto", chosen.memory_format}
    assert chosen.reason.startswith("milliseconds an image measured here: ")
    assert f"{chosen.precision} {chosen.memory_format} " in chosen.reason
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), "the measurement moved the network"
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("seconds", "choice"),
    [
        ({"fp32": 1.0, "bf16": 0.5}, "bf16"),
        ({"fp32": 1.0, "bf16": 0.95}, "fp32"),
        ({"fp32": 1.0, "bf16": 2.0}, "fp32"),
        ({"fp32": 1.0, "bf16": None}, "fp32"),
    ],
)
def test_half_precision_must_be_clearly_faster(machine, monkeypatch, seconds, choice):
    monkeypatch.setattr(Machine, "_time", lambda self, network, images, p, layout, most: seconds[p])
    chosen = machine.choose(tiny(), IMAGES, precision="auto", memory_format="contiguous")
    assert chosen.precision == choice


def test_half_precision_must_be_faster_every_time(monkeypatch):
    machine = Machine(device="cpu", threads=1)
    spent = iter([1.0, 0.5, 1.0, 0.95])  # fp32, bf16, and both again

    monkeypatch.setattr(Machine, "_time", lambda *_: next(spent))
    chosen = machine.choose(tiny(), IMAGES, precision="auto", memory_format="contiguous")
    assert chosen.precision == "fp32"
    spent = iter([1.0, 0.5, 1.0, 0.6])
    chosen = machine.choose(tiny(), IMAGES, precision="auto", memory_format="contiguous")
    assert chosen.precision == "bf16"


class Broken(nn.Module):
    """Fails in a way of the test's choosing."""

    def __init__(self, failure: Exception | float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self._failure = failure

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if isinstance(self._failure, Exception):
            raise self._failure
        return self.scale * images.float().sum() * self._failure + self._failure


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (math.nan, DivergedError, "no finite numbers before it has learnt anything"),
        (torch.OutOfMemoryError("x"), MachineError, "memory ran out with only 4 images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MachineError, "memory ran out"),
        (RuntimeError("another one"), RuntimeError, "another one"),
    ],
)
def test_a_network_that_cannot_be_measured(machine, failure, kind, words):
    with pytest.raises(kind, match=words):
        machine.choose(Broken(failure), IMAGES, precision="auto", memory_format="contiguous", seconds=0)


def test_a_layer_that_knows_no_half_precision_leaves_full_precision(machine, monkeypatch):
    def quickest(self, network, images, precision, layout, seconds) -> float:
        if precision == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    monkeypatch.setattr(Machine, "_quickest_step", quickest)
    chosen = machine.choose(tiny(), IMAGES, precision="auto", memory_format="contiguous")
    assert chosen.precision == "fp32"
    assert "bf16" not in chosen.reason


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "no kind of device called 'gpu'"),
        ("cuda:77", "cuda:77 is not there"),
        ("meta", "meta is not supported"),
        ("", "no kind of device called ''"),
    ],
)
def test_devices_that_are_not_there(device, words):
    with pytest.raises(RecipeError, match=words) as caught:
        Machine(device=device)
    assert caught.value.exit_code == 2


def test_fp16_on_a_cpu_is_refused(machine):
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        machine.choose(tiny(), IMAGES, precision="fp16", memory_format="contiguous")


def test_threads_are_set_and_zero_takes_all(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2})
    before = torch.get_num_threads()
    try:
        assert Machine(device="cpu", threads=0).threads == torch.get_num_threads() == 3
        assert Machine(device="cpu", threads=1).threads == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_of_a_forward_pass(machine, precision, kind):
    with machine.autocast(precision):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind
    accelerator = machine.accelerator(precision)
    with accelerator.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind
    assert accelerator.scaler is None


def test_the_memory_layout():
    assert place(tiny(), CPU, "channels_last").first.weight.is_contiguous(memory_format=torch.channels_last)
    assert place(tiny(), CPU, "contiguous").first.weight.is_contiguous()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_running_out_of_memory(error, answer):
    assert is_out_of_memory(error) is answer


def test_randomness_is_addressed_and_leaves_the_outside_alone():
    def drawn(*place: int) -> float:
        with addressed_randomness(*place, CPU):
            return float(torch.rand(1))

    torch.manual_seed(3)
    outside = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(1)
    places = [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
        (5, 1, 2),
        (20240101, 0, 0),
        (2**31 - 1, 9999, 10**7),
    ]
    values = [drawn(*place) for place in places]
    assert len(set(values)) == len(places)
    assert [drawn(*place) for place in reversed(places)] == values[::-1]
    assert torch.equal(torch.cat([first, torch.rand(1)]), outside)


@pytest.fixture
def any_order() -> Iterator[None]:
    """PyTorch as it is by itself, and as it was afterwards."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_a_gpu_adds_in_the_same_order_each_time(any_order, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    machine = Machine()
    assert torch.are_deterministic_algorithms_enabled() == (machine.device.type == "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    Machine(device="cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_full_precision_is_full_on_a_gpu_too():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    machine = Machine()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    network = tiny().to(machine.device).eval()
    images = torch.randint(256, IMAGES.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        here = network(images.to(machine.device)).cpu()
        assert torch.allclose(here, network.cpu()(images), atol=1e-5)
