"""How long and how carefully a training goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long and how carefully the weights move.

    Args:
        cycles: Epochs of each run of the schedule; more than one after a run was extended.
        accumulate: Batches whose gradients make one step.
        clip: Largest norm of the gradient; 0 for none.
        ema: Decay of the averaged weights; 0 for none.
        early_stopping: Epochs without gain before stopping; 0 for never.
        select_by: Which of the task's quick numbers chooses the best weights; among equals ``log_loss`` does.
        seed: Where all randomness starts.
        checkpoint_seconds: Longest time between two checkpoints.
    """

    cycles: tuple[int, ...]
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    early_stopping: int = 0
    select_by: str = "accuracy"
    seed: int = 0
    checkpoint_seconds: float = 300.0

    @property
    def epochs(self) -> int:
        """All epochs of all cycles."""
        return sum(self.cycles)

    def place(self, done: float) -> tuple[float, int]:
        """Where a moment stands in its cycle: epochs done in it, and its length."""
        start = 0
        for length in self.cycles:
            if done < start + length or start + length == self.epochs:
                return done - start, length
            start += length
        raise AssertionError("a plan has at least one cycle")
