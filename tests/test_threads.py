"""How PyTorch's threads are set up; each case in a process of its own, as only the first import counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pictune.threads import SMALL

NAMES = ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY")
ASK = f"""
import json, os
ours = os.sched_getaffinity(0)
from pictune.threads import steady_threads
steady_threads()
import torch
torch.set_num_threads(2)
torch.ones(400, 400) @ torch.ones(400, 400)
free = os.sched_getaffinity(0) == ours
print(json.dumps([free, [os.environ.get(name) for name in {NAMES}]]))
"""
BOUND = "true" if len(os.sched_getaffinity(0)) <= SMALL else None


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, ["passive", BOUND, None]),
        ({"OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "false"}, ["active", "false", None]),
        ({"GOMP_CPU_AFFINITY": "0"}, ["passive", None, "0"]),
    ],
)
def test_threads_are_set_up_once_and_a_users_word_stays(given, settings) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment | given, capture_output=True, text=True, check=True
    )
    free, found = json.loads(done.stdout)
    assert found == settings
    assert free, "the main thread, and all that it starts, may run anywhere"
