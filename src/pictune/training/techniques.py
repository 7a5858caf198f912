"""Techniques of fine-tuning: which layers learn, and when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from pictune.models.freezing import LayerGroup
from pictune.settings import Parts, Search, Setting

ProbeEpochs = Annotated[int, Setting("epochs of the linear probe over cached features", low=1, high=1000)]
Heads = Annotated[
    int,
    Setting("settings of the head that the probe tries at once; 1 tries the recipe's own", low=1, high=25),
]


@dataclass(frozen=True, slots=True)
class Adapters:
    """What low-rank adapters look like.

    Args:
        rank: Of each adapter.
        alpha: An adapter counts alpha / rank times.
        targets: A pattern over the names of modules, or ``all``.
    """

    rank: int
    alpha: float
    targets: str


@dataclass(frozen=True, slots=True)
class Technique:
    """Which layers learn, and when.

    Args:
        head_only: Nothing but the last layer learns.
        probe_epochs: Epochs in which heads alone learn beforehand, on cached features; 0 for no probe.
        heads: How many settings of the head the probe tries.
        thawed_by: Share of the epochs after which all layers learn; 0 when they do from the start.
        adapters: Low-rank adapters that learn instead of the layers; None for none.
    """

    head_only: bool = False
    probe_epochs: int = 0
    heads: int = 1
    thawed_by: float = 0.0
    adapters: Adapters | None = None

    @property
    def head_first(self) -> bool:
        """Whether the head learns for a while on layers that learn later."""
        return self.probe_epochs > 0 or self.thawed_by > 0


def full() -> Technique:
    """All layers learn from the first step on."""
    return Technique()


def head(*, heads: Heads = 25) -> Technique:
    """Feature extraction: only the last layer learns, on features that are computed once.

    Known as linear probing, too (Alain and Bengio 2017, arXiv 1610.01644).
    """
    return Technique(head_only=True, heads=heads)


def lp_ft(*, probe_epochs: ProbeEpochs = 20, heads: Heads = 25) -> Technique:
    """Linear probe, then fine-tuning from there, so that a random head does not distort the features.

    Kumar et al. 2022, arXiv 2202.10054.
    """
    return Technique(probe_epochs=probe_epochs, heads=heads)


def gradual(
    *,
    thawed_by: Annotated[
        float,
        Setting("share of the epochs after which all layers learn", above=0, high=1, search=Search(0.2, 0.8)),
    ] = 0.5,
) -> Technique:
    """Gradual unfreezing: the head first, then one group of layers after the other, from the top down.

    Howard and Ruder 2018, arXiv 1801.06146.
    """
    return Technique(thawed_by=thawed_by)


def lora(
    *,
    rank: Annotated[
        int, Setting("rank of each adapter", low=1, high=512, search=Search(choices=(4, 8, 16, 32)))
    ] = 8,
    alpha: Annotated[float, Setting("an adapter counts alpha / rank times", above=0, high=1024)] = 16.0,
    targets: Annotated[str, Setting("all, or a pattern over the names of the modules to adapt")] = "all",
) -> Technique:
    """Low-rank adapters beside frozen layers, merged into them in the end.

    Hu et al. 2022, arXiv 2106.09685; for convolutions as well.
    """
    return Technique(adapters=Adapters(rank, alpha, targets))


TECHNIQUES: Parts[Technique] = Parts("technique", (full, head, lp_ft, gradual, lora))


def thawing(
    groups: Sequence[LayerGroup], *, thawed_by: float, epochs: int
) -> Callable[[int], Collection[str]]:
    """Which tensors still wait in an epoch of gradual unfreezing.

    Args:
        groups: From the input to the head; the head learns from the first epoch on.
        thawed_by: Share of the epochs after which all of them learn, above 0.
        epochs: In all.
    """
    steps = len(groups) - 1
    last = max(thawed_by * epochs, 1.0)  # the epoch from which on nothing waits

    def waiting(epoch: int) -> Collection[str]:
        # Without the small number 11 epochs of 13.75 would not quite be four fifths.
        thawed = min(int(epoch * steps / last + 1e-9), steps)
        return frozenset(name for group in groups[: steps - thawed] for name in group.tensors)

    return waiting


def layer_rates(groups: Sequence[LayerGroup], *, decay: float) -> dict[str, float]:
    """Discriminative rates: each group's share of the highest rate, by tensor name.

    Args:
        groups: From the input to the head.
        decay: Of a group beside the one above it, above 0 and at most 1. Howard and Ruder 2018
            (arXiv 1801.06146); as in BEiT, Bao et al. 2022 (arXiv 2106.08254).
    """
    top = len(groups) - 1
    return {name: decay ** (top - place) for place, group in enumerate(groups) for name in group.tensors}
