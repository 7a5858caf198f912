"""Optimizers by name. Weight decay never touches biases and normalisation (all one-dimensional tensors)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated

import torch
from torch import nn

from pictune.settings import Parts, Search, Setting

Groups = list[dict[str, object]]
MakeOptimizer = Callable[[Groups], torch.optim.Optimizer]

Rate = Annotated[
    float, Setting("highest learning rate", above=0, high=10, search=Search(1e-4, 1e-1, log=True))
]
Decay = Annotated[float, Setting("weight decay (L2)", low=0, high=1, search=Search(1e-6, 1e-1, log=True))]
Beta = Annotated[float, Setting("memory of the running mean", low=0, high=0.9999)]


def parameter_groups(
    network: nn.Module,
    *,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
    anchored: Collection[str] = (),
) -> Groups:
    """The learning parameters in groups: matrices and filters decay, all else does not.

    Args:
        network: Parameters without a gradient are left out.
        weight_decay: For matrices and filters.
        rates: Share of the highest rate by parameter name; 1 for those not named.
        anchored: Names of parameters that are pulled elsewhere than to zero, and so do not decay.

    Returns:
        One group for each rate and decay, with its share of the highest rate as ``rate``.
    """
    rates = rates or {}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.ndim > 1 and name not in anchored else 0.0
            groups.setdefault((rates.get(name, 1.0), decay), []).append(parameter)
    order = sorted(groups, key=lambda pair: (-pair[0], -pair[1]))
    return [{"params": groups[rate, decay], "weight_decay": decay, "rate": rate} for rate, decay in order]


def sgd(
    *,
    learning_rate: Rate = 0.05,
    weight_decay: Decay = 5e-4,
    momentum: Beta = 0.9,
    nesterov: Annotated[bool, Setting("look ahead by one step (Nesterov 1983)")] = True,
) -> MakeOptimizer:
    """Stochastic gradient descent with momentum."""
    return lambda groups: torch.optim.SGD(
        groups,
        lr=learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
    )


def adam(
    *, learning_rate: Rate = 1e-3, weight_decay: Decay = 0.0, beta1: Beta = 0.9, beta2: Beta = 0.999
) -> MakeOptimizer:
    """Adam; its weight decay is L2 in the gradient (Kingma and Ba 2015, arXiv 1412.6980)."""
    return lambda groups: torch.optim.Adam(
        groups, lr=learning_rate, weight_decay=weight_decay, betas=(beta1, beta2)
    )


def adamw(
    *, learning_rate: Rate = 2e-3, weight_decay: Decay = 0.05, beta1: Beta = 0.9, beta2: Beta = 0.999
) -> MakeOptimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    return lambda groups: torch.optim.AdamW(
        groups, lr=learning_rate, weight_decay=weight_decay, betas=(beta1, beta2)
    )


def lion(
    *, learning_rate: Rate = 3e-4, weight_decay: Decay = 0.3, beta1: Beta = 0.9, beta2: Beta = 0.99
) -> MakeOptimizer:
    """Lion: the sign of a momentum (Chen et al. 2023, arXiv 2302.06675)."""
    return _timm("lion", learning_rate, weight_decay, (beta1, beta2))


def _timm(
    algorithm: str, learning_rate: float, weight_decay: float, betas: tuple[float, float] | None = None
) -> MakeOptimizer:
    from timm.optim import create_optimizer_v2

    def make(groups: Groups) -> torch.optim.Optimizer:
        given = {} if betas is None else {"betas": betas}
        made = create_optimizer_v2(
            groups, opt=algorithm, lr=learning_rate, weight_decay=weight_decay, **given
        )
        assert isinstance(made, torch.optim.Optimizer)
        return made

    return make


def _from_timm(algorithm: str, summary: str, rate: float, decay: float) -> Callable[..., MakeOptimizer]:
    def build(*, learning_rate: Rate = rate, weight_decay: Decay = decay) -> MakeOptimizer:
        return _timm(algorithm, learning_rate, weight_decay)

    build.__name__ = algorithm
    build.__doc__ = f"{summary} (timm's implementation)."
    return build


_TIMM = (
    (
        "adabelief",
        "AdaBelief: trusts a step by how well the gradient was foreseen (arXiv 2010.07468)",
        1e-3,
        1e-2,
    ),
    ("adan", "Adan: adaptive Nesterov momentum (arXiv 2208.06677)", 1e-3, 0.02),
    ("adopt", "ADOPT: Adam that converges for any beta2 (arXiv 2411.02853)", 1e-3, 0.05),
    ("lamb", "LAMB: per-layer scaled Adam for large batches (arXiv 1904.00962)", 5e-3, 0.02),
    ("lars", "LARS: per-layer scaled momentum (arXiv 1708.03888)", 0.5, 1e-4),
    ("laprop", "LaProp: momentum after normalisation (arXiv 2002.04839)", 4e-4, 0.05),
    ("nadamw", "Adam with Nesterov momentum and decoupled decay (Dozat 2016)", 1e-3, 0.05),
    ("radam", "Rectified Adam: warms up by itself (arXiv 1908.03265)", 1e-3, 1e-2),
    ("rmsprop", "RMSProp: divides by the running size of the gradient (Hinton 2012)", 1e-3, 1e-5),
)

OPTIMIZERS: Parts[MakeOptimizer] = Parts(
    "optimizer", (sgd, adam, adamw, lion, *(_from_timm(*row) for row in _TIMM))
)
