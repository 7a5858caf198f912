"""The machine under the training: device, precision, memory layout. The only file that imports accelerate."""

from __future__ import annotations

import copy
import ctypes
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from pictune.errors import DivergedError, MachineError, RecipeError
from pictune.models.freezing import train_mode

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
CLEAR_GAIN = 1.1  # half precision must be this much faster to be worth its rounding
ROUNDS = 2  # and faster in each of them: a stopwatch on a shared machine is not to be trusted once
KEEP_BYTES = 1 << 30  # freed memory up to this size is kept by the process for the next step


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How numbers are stored while training.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        memory_format: ``channels_last`` or ``contiguous``.
        reason: Why, as a phrase.
    """

    precision: str
    memory_format: str
    reason: str


class Machine:
    """Where a network is trained, and in which arithmetic.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        threads: CPU threads; 0 takes all that the process may use.

    Raises:
        RecipeError: When the device does not exist here.
    """

    def __init__(self, *, device: str = "auto", threads: int = 0) -> None:
        self.device = _device(device)
        self.threads = threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(self.threads)
        _full_precision()
        _repeatable(self.device)
        _keep_freed_memory()

    def accelerator(self, precision: str) -> Accelerator:
        """The accelerate handle for one training."""
        AcceleratorState._reset_state(reset_partial_state=True)
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)
        return Accelerator(cpu=self.device.type == "cpu", mixed_precision=ACCELERATE_PRECISION[precision])

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """The context in which a forward pass runs in this precision."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        return torch.autocast(self.device.type, dtype=kind, enabled=precision != "fp32")

    def choose(
        self,
        network: nn.Module,
        images: torch.Tensor,
        *,
        precision: str,
        memory_format: str,
        seconds: float = 0.3,
    ) -> Arithmetic:
        """Settles what is still ``auto`` by timing a few steps of this very network.

        Args:
            network: Left untouched; a copy is timed.
            images: A small batch as the network takes it.
            precision: ``auto`` or what the user wants.
            memory_format: ``auto`` or what the user wants.
            seconds: About how long each candidate may take.

        Raises:
            DivergedError: When the network's outputs are no finite numbers, even before it learns.
            MachineError: When a few images are already too many for the memory.
            RecipeError: When the device cannot compute in the wanted precision.
        """
        if precision == "fp16" and self.device.type == "cpu":
            raise RecipeError(
                "training.precision: fp16 needs a GPU, and this training runs on the CPU",
                instead="Use bf16, fp32 or auto.",
            )
        halves = ["bf16"] if self.device.type == "cpu" or torch.cuda.is_bf16_supported() else ["fp16"]
        precisions = ["fp32", *halves] if precision == "auto" else [precision]
        formats = ["contiguous", "channels_last"] if memory_format == "auto" else [memory_format]
        if len(precisions) == len(formats) == 1:
            return Arithmetic(precision, memory_format, "as given")
        pairs = [(p, f) for p in precisions for f in formats]
        # In turn, twice: what a neighbour takes for a moment then looks the same for all of them.
        rounds = [
            {pair: self._time(network, images, *pair, seconds / ROUNDS) for pair in pairs}
            for _ in range(ROUNDS)
        ]
        usable = {p: t for p in pairs if (t := _quickest([one[p] for one in rounds])) is not None}
        full = {pair: spent for pair, spent in usable.items() if pair[0] == precisions[0]}
        if not full:
            raise DivergedError(
                "the network's outputs are no finite numbers before it has learnt anything",
                instead="Its weights are broken; try --weights none or another file.",
            )
        best = min(full, key=full.__getitem__)
        fastest = min(usable, key=usable.__getitem__)
        clear = all((one[best] or 0) > CLEAR_GAIN * (one[fastest] or 0) for one in rounds)
        if clear:
            best = fastest
        figures = ", ".join(f"{p} {f} {1000 * t / len(images):.2f}" for (p, f), t in usable.items())
        return Arithmetic(*best, f"milliseconds an image measured here: {figures}")

    def seconds_per_image(self, network: nn.Module, images: torch.Tensor, arithmetic: Arithmetic) -> float:
        """How long a training step takes here, an image; the network is left untouched."""
        spent = self._time(network, images, arithmetic.precision, arithmetic.memory_format, 0.5)
        return (spent or 0.0) / len(images)

    def _time(
        self, network: nn.Module, images: torch.Tensor, precision: str, layout: str, seconds: float
    ) -> float | None:
        """Seconds of the quickest training step, or None when this arithmetic fails on this network."""
        try:
            return self._quickest_step(network, images, precision, layout, seconds)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise MachineError(
                    f"memory ran out with only {len(images)} images",
                    instead="Use a smaller --image-size or --model.",
                ) from error
            if precision == "fp32":
                raise
            return None  # some layer does not know half precision

    def _quickest_step(
        self, network: nn.Module, images: torch.Tensor, precision: str, layout: str, seconds: float
    ) -> float | None:
        trial = place(copy.deepcopy(network), self.device, layout)
        train_mode(trial)
        batch = images.to(self.device)
        quickest, steps, started = float("inf"), 0, time.perf_counter()
        while steps < 3 or (time.perf_counter() - started < seconds and steps < 12):
            before = time.perf_counter()
            with self.autocast(precision):
                outputs = _learning(trial(batch))
            size = torch.stack([output.float().square().mean() for output in outputs]).sum()
            size.backward()  # type: ignore[no-untyped-call]
            if not all(bool(torch.isfinite(output).all()) for output in outputs):
                return None
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            trial.zero_grad()
            quickest, steps = min(quickest, time.perf_counter() - before), steps + 1
        return quickest


def _learning(outputs: Any) -> list[torch.Tensor]:
    """A network's outputs through which a gradient flows; some networks give several, and these parts."""
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.requires_grad else []
    return [found for output in outputs for found in _learning(output)]


def _quickest(spent: list[float | None]) -> float | None:
    """The shortest of some times; None when one of them could not be taken."""
    known = [one for one in spent if one is not None]
    return min(known) if len(known) == len(spent) else None


def place(network: nn.Module, device: torch.device, layout: str) -> nn.Module:
    """Moves a network to a device and its filters into a memory layout, in place."""
    return network.to(device).to(memory_format=LAYOUTS[layout])


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise RecipeError(f"training.device: there is no kind of device called {wanted!r}") from None
    if device.type not in {"cpu", "cuda"}:
        raise RecipeError(f"training.device: {wanted} is not supported", instead="Use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"training.device: {wanted} is not there; {torch.cuda.device_count()} CUDA devices were found",
            instead="Use device=cpu, or check the driver.",
        )
    return device


def _full_precision() -> None:
    """Makes fp32 mean fp32 on GPUs, too.

    By default their convolutions round to ten bits (TF32): a model then answers otherwise than its export,
    with confidences that were measured to be up to 0.003 apart. Whoever wants speed trains in bf16.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _repeatable(device: torch.device) -> None:
    """Has a GPU add in the same order each time, so that the same run ends with the same bits.

    What knows no such order is computed all the same, and PyTorch's warning about it is not passed on: whose
    networks need that knows it from the README, and can do nothing about it.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # is read when CUDA is first used
    torch.backends.cudnn.benchmark = False  # it would choose by the clock
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next step instead of giving it back to the system.

    A training step on the CPU frees and asks for the same gigabytes again and again; handing them
    back each time costs page faults (measured: 20 to 45 % more images a second without).
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # another C library manages memory in its own way
    trim_threshold, mmap_threshold = -1, -3
    libc.mallopt(mmap_threshold, KEEP_BYTES)
    libc.mallopt(trim_threshold, KEEP_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the device or on the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("can't allocate memory", "std::bad_alloc"))
    )


@contextmanager
def addressed_randomness(seed: int, epoch: int, step: int, device: torch.device) -> Iterator[None]:
    """Dropout and stochastic depth inside drew from (seed, epoch, step); outside nothing changes."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0]))
        yield
