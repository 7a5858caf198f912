"""Signals: the first is a question for the loop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pictune.training.signals import stop_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_signal() as stop:
        assert stop() == 0
        os.kill(os.getpid(), number)
        assert stop() == number
    assert signal.getsignal(number) is before


def test_the_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), stop_signal():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


TWICE = """
import os, signal, sys, time
from pictune.training.signals import stop_signal
with stop_signal() as stop:
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
    print("still here", stop())
"""


@pytest.mark.parametrize(
    ("names", "code", "output"),
    [
        (["SIGTERM"], 0, "still here 15\n"),
        (["SIGINT", "SIGINT"], 130, ""),
        (["SIGINT", "SIGTERM"], 143, ""),
    ],
)
def test_the_second_signal_ends_the_process(names, code, output):
    done = subprocess.run([sys.executable, "-c", TWICE, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, output), done.stderr


def test_outside_the_main_thread_there_is_nothing_to_catch():
    answers = []

    def ask() -> None:
        with stop_signal() as stop:
            answers.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [0]
