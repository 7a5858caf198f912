"""How threads share a small machine with its other users."""

from __future__ import annotations

import os

SMALL = 4  # processors; on larger machines several trainings would crowd onto the same few


def steady_threads() -> None:
    """Imports PyTorch so that its threads sleep while they wait and, on a small machine, keep apart.

    Threads that compute one layer together wait for the last of them. As a rule they wait in a busy loop,
    and may be put on one processor; then any other program that runs slows all of them down
    (benchmarks/busy_neighbour.py). OpenMP reads how to do it when it is loaded, so this is of use
    only before anything else has imported PyTorch. What the user's environment says already stays.
    """
    ours = os.sched_getaffinity(0)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if len(ours) <= SMALL and "GOMP_CPU_AFFINITY" not in os.environ:
        os.environ.setdefault("OMP_PROC_BIND", "true")
    import torch  # noqa: F401 - for what loading it does

    # OpenMP has bound this thread too, and those that it starts to read pictures would inherit that.
    os.sched_setaffinity(0, ours)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
