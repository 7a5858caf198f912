"""A table of losses in which weighted sums of mask losses have names, too: ``dice+cross_entropy``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pictune.errors import RecipeError
from pictune.models.mask_losses import MASK_LOSSES, MaskLoss, combined, parse_sum
from pictune.settings import Part, Parts, Setting


class LossesAndSums(Parts[Any]):
    """A table of losses that also knows every sum of mask losses.

    A setting of a sum is called as in its part where only one part has it, and ``part.setting`` otherwise.

    Args:
        builders: The functions; a part's name is its function's name.
    """

    def __init__(self, builders: Sequence[Callable[..., Any]]) -> None:
        super().__init__("loss", builders)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and _is_sum(name))

    def __getitem__(self, name: str) -> Part[Any]:
        if super().__contains__(name) or not _looks_like_a_sum(name):
            return super().__getitem__(name)
        return _summed(name)


def _looks_like_a_sum(name: str) -> bool:
    return "+" in name or "*" in name


def _is_sum(name: str) -> bool:
    if not _looks_like_a_sum(name):
        return False
    try:
        parse_sum(name)
    except RecipeError:
        return False
    return True


def _summed(name: str) -> Part[MaskLoss]:
    """The sum as a part of its own, with the settings of its parts."""
    parts = [MASK_LOSSES[part] for _, part in parse_sum(name)]
    common = Counter(setting for part in parts for setting in part.settings)
    settings: dict[str, tuple[Any, Setting, Any]] = {
        setting if common[setting] == 1 else f"{part.name}.{setting}": declared
        for part in parts
        for setting, declared in part.settings.items()
    }

    def build(**given: Any) -> MaskLoss:
        """A weighted sum of losses."""
        return combined(name, given)

    return Part(name, build, settings)
