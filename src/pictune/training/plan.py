"""How long and how carefully a training goes."""

from __future__ import annotations

from dataclasses import dataclass, replace


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
        soup: How many of the best epochs' weights are kept, to be averaged in the end; at least 1.
        seconds: How long training may take, 0 for no limit; epochs that would take longer are left out.
    """

    cycles: tuple[int, ...]
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    early_stopping: int = 0
    select_by: str = "accuracy"
    seed: int = 0
    checkpoint_seconds: float = 300.0
    soup: int = 1
    seconds: float = 0.0

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

    def cut_to(self, epochs: int) -> Plan:
        """The plan with its last cycle shortened, so that it has this many epochs in all."""
        before = self.epochs - self.cycles[-1]
        assert epochs > before, "only the last cycle can be cut"
        return replace(self, cycles=(*self.cycles[:-1], epochs - before))
