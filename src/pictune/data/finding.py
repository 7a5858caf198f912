"""What was noticed about a file, a line or the whole dataset."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What happens because of a finding; every finding has exactly one."""

    REJECT = "reject"  # the command stops before any training
    QUARANTINE = "quarantine"  # the item is left out, counted and listed
    NORMALISE = "normalise"  # converted by a documented rule, counted
    WARN = "warn"  # used as it is, and reported


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing noticed.

    Args:
        code: A short stable name such as ``truncated``.
        outcome: What happens because of it.
        where: The sample's key, ``file:line``, a class name, or empty for the whole dataset.
        message: One plain sentence: what was found and what to do.
    """

    code: str
    outcome: Outcome
    where: str
    message: str
