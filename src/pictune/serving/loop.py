"""The event loop of the server: uvloop, by which an answer, and above all a refusal, costs less."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine to its end, on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)
