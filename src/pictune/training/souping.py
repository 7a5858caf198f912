"""A greedy soup: the best epochs' weights averaged, as long as validation does not get worse.

Wortsman et al. 2022, arXiv 2203.05482. Their ingredients are runs; ours are epochs of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from pictune.training import checkpoints
from pictune.training.fitting import epoch_path, merit_of
from pictune.training.job import Progress

Tensors = dict[str, torch.Tensor]


def greedy_soup(
    folder: Path,
    progress: Progress,
    network: nn.Module,
    validate: Callable[[nn.Module], Mapping[str, float]],
    *,
    select_by: str,
) -> tuple[int, ...]:
    """Loads the best epochs' weights into a network, averaged where that does not make validation worse.

    Args:
        folder: Where the weights of the best epochs lie.
        progress: Which epochs those are, best first.
        network: Is left with the result.
        validate: The task's quick numbers on the validation pictures.
        select_by: Which of them decides; among equals ``log_loss`` does.

    Returns:
        The epochs that went into it, counted from 0, the best one first.
    """
    epochs = [epoch for _, _, epoch in progress.kept]
    soup = checkpoints.load_checkpoint(epoch_path(folder, epochs[0]))[0]
    taken = [epochs[0]]
    checkpoints.load_network(network, soup)
    if len(epochs) == 1:
        return tuple(taken)
    best = merit_of(validate(network), select_by)
    for epoch in epochs[1:]:
        one = checkpoints.load_checkpoint(epoch_path(folder, epoch))[0]
        tried = _stirred(soup, one, share=1 / (len(taken) + 1))
        checkpoints.load_network(network, tried)
        found = merit_of(validate(network), select_by)
        if found >= best:
            soup, best = tried, found
            taken.append(epoch)
    checkpoints.load_network(network, soup)
    return tuple(taken)


def _stirred(soup: Tensors, one: Tensors, *, share: float) -> Tensors:
    """The soup with a share of one more ingredient; counters, which are no weights, stay as they are."""
    return {
        name: torch.lerp(tensor, one[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in soup.items()
    }
