"""Which layers learn: groups of layers, what a setting freezes, and how frozen layers are kept still.

Frozen means three things at once: no gradient, normalisation statistics as they are, and no place in the
optimizer. The first two are done here; the optimizer takes only what has a gradient.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from timm.models import group_parameters
from torch import nn

from pictune.errors import RecipeError
from pictune.settings import suggestion

HEAD = "head"
NOTHING, EVERYTHING_BELOW = "none", "backbone"
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that are frozen, thawed and slowed together.

    Args:
        name: The module they share, such as ``layer3``, or the modules; ``head`` for the last layer.
        tensors: Names of their parameters in the network.
        parameters: How many numbers those hold.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: int


@runtime_checkable
class _Grouped(Protocol):
    """A network that knows its own layer groups, as nearly all of timm's do."""

    def group_matcher(self, coarse: bool = False) -> Any:  # noqa: FBT001, FBT002 - timm's signature
        """Rules that give each parameter the number of its group."""


@runtime_checkable
class _Enclosing(Protocol):
    """A network whose layers below the head are those of another one, as a detector's are."""

    @property
    def within(self) -> tuple[str, nn.Module]:
        """What stands before the other network's tensors' names, and the other network."""


def layer_groups(network: nn.Module, *, fine: bool = False) -> tuple[LayerGroup, ...]:
    """A network's layer groups from the input to the head.

    Args:
        network: A backbone with its last layer.
        fine: Blocks instead of stages, where the family tells them apart.

    Returns:
        At least two groups; the last one is the head.
    """
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    head = head_tensors(network)
    groups = [[name for name in names if name not in head] for names in _grouped(network, fine=fine)]
    named = [(_name_of(names, network), names) for names in groups if names]
    return tuple(
        LayerGroup(name, tuple(names), sum(sizes[n] for n in names))
        for name, names in [*named, (HEAD, sorted(head, key=list(sizes).index))]
    )


def head_tensors(network: nn.Module) -> frozenset[str]:
    """Names of the parameters of the last layer, or of the last layers where a network has several."""
    classifier: Any = network.get_classifier()  # type: ignore[operator]
    parts = classifier if isinstance(classifier, tuple | list) else (classifier,)
    ours = {id(parameter) for part in parts for parameter in part.parameters()}
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) in ours)


def _grouped(network: nn.Module, *, fine: bool) -> list[list[str]]:
    """Parameter names by group, in the order of the layers."""
    if isinstance(network, _Enclosing):
        before, inner = network.within
        return [[f"{before}{name}" for name in names] for names in _grouped(inner, fine=fine)]
    matcher = None
    if isinstance(network, _Grouped):
        try:
            matcher = network.group_matcher(coarse=not fine)
        except AssertionError:  # a few families know one of the two only
            matcher = network.group_matcher(coarse=fine)
    if matcher is None:
        own = [name for name, _ in network.named_parameters(recurse=False)]
        return [
            own,
            *([f"{at}.{name}" for name, _ in part.named_parameters()] for at, part in _children(network)),
        ]
    numbered: dict[int, list[str]] = group_parameters(network, matcher)
    return [numbered[number] for number in sorted(numbered)]


def _children(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Top-level modules, with those that are only lists of others opened up."""
    for name, module in network.named_children():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            yield from ((f"{name}.{inner}", part) for inner, part in module.named_children())
        else:
            yield name, module


def _name_of(tensors: Sequence[str], network: nn.Module) -> str:
    """What a group is called: the largest modules that it holds whole, joined; so no two are called alike.

    A few families have a module called ``head`` below their last layer; that name is the last layer's.
    """
    whole, ours = _holders(name for name, _ in network.named_parameters()), _holders(tensors)
    largest = dict.fromkeys(
        next((at for at in _prefixes(name) if ours[at] == whole[at] and at != HEAD), name) for name in tensors
    )
    found = list(largest)
    return " + ".join(found if len(found) <= 3 else [found[0], "...", found[-1]])


def _holders(tensors: Iterable[str]) -> Counter[str]:
    """How many tensors each module holds, by name."""
    return Counter(holder for name in tensors for holder in _prefixes(name))


def _prefixes(tensor: str) -> Iterator[str]:
    """Names of the modules around a tensor, the outermost first."""
    parts = tensor.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def frozen_tensors(network: nn.Module, freeze: str) -> frozenset[str]:
    """Which parameters a setting freezes.

    Args:
        network: A backbone with its last layer.
        freeze: ``none``; ``backbone``, all but the head; a number of groups, counted from the input; a
            module such as ``layer3``, with everything up to the end of its group; or a pattern with
            ``*``, ``?`` or ``[]``, such as ``layer[12].*``, that freezes just the tensors it fits.

    Returns:
        Names of parameters.

    Raises:
        RecipeError: When there is no such layer or group, or nothing would be left to learn.
    """
    groups = layer_groups(network)
    if not freeze:
        raise RecipeError(
            "transfer.freeze: it is empty",
            instead=f"Its groups are {', '.join(group.name for group in groups[:-1])}; none freezes nothing.",
        )
    if freeze == NOTHING:
        return frozenset()
    if freeze == EVERYTHING_BELOW:
        return _of(groups[:-1])
    if freeze.isdecimal():
        return _of(groups[: _count(freeze, groups)])
    if WILDCARDS & set(freeze):
        return _fitting(network, freeze)
    return _of(groups[: _place_of(freeze, network, groups) + 1])


def _of(groups: Sequence[LayerGroup]) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.tensors)


def _count(freeze: str, groups: Sequence[LayerGroup]) -> int:
    if int(freeze) < len(groups):
        return int(freeze)
    raise RecipeError(
        f"transfer.freeze: {freeze} groups are to be frozen, and {len(groups) - 1} lie below the head",
        instead=f"Give a number up to {len(groups) - 1}, or {EVERYTHING_BELOW} for all of them.",
    )


def _fitting(network: nn.Module, pattern: str) -> frozenset[str]:
    names = [name for name, _ in network.named_parameters()]
    found = frozenset(n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*"))
    if not found:
        raise RecipeError(
            f"transfer.freeze: no layer fits the pattern {pattern!r}",
            instead="In a pattern * stands for anything and ? for one sign, as in a shell. "
            f"The network's tensors are called {names[0]}, ..., {names[-1]}; see pictune layers.",
        )
    if len(found) == len(names):
        raise RecipeError(
            f"transfer.freeze: {pattern!r} freezes every layer, and nothing is left to learn",
            instead=f"Use {EVERYTHING_BELOW} to keep only the head learning.",
        )
    return found


def _place_of(freeze: str, network: nn.Module, groups: Sequence[LayerGroup]) -> int:
    """The number of the last group that holds a module of this name."""
    names = [group.name for group in groups]
    if freeze in names[:-1]:
        return names.index(freeze)
    places = [i for i, group in enumerate(groups) if any(_below(name, freeze) for name in group.tensors)]
    if places and places[-1] < len(groups) - 1 and freeze != HEAD:
        return places[-1]
    if places or freeze == HEAD:
        raise RecipeError(
            f"transfer.freeze: {freeze} holds the head, and nothing would be left to learn",
            instead=f"Use {EVERYTHING_BELOW} to keep only the head learning.",
        )
    modules = [name for name, module in network.named_modules() if name and list(module.parameters())]
    near = suggestion(freeze, [*names, *modules])
    raise RecipeError(
        f"transfer.freeze: the network has no layer called {freeze!r}{near}",
        instead=f"Its groups are {', '.join(names[:-1])}; a number of groups and a pattern will do as well.",
    )


def _below(tensor: str, module: str) -> bool:
    return re.match(rf"{re.escape(module)}(\.|$)", tensor) is not None


def freeze_layers(network: nn.Module, frozen: Collection[str]) -> None:
    """Freezes parameters by name, and thaws all others, in place."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name not in frozen


def train_mode(network: nn.Module) -> None:
    """Training mode, but for the modules that hold parameters of which none learns.

    Those stay in evaluation mode with all that is in them: their normalisation statistics do not move,
    and nothing in them is dropped.
    """
    network.train()
    _still(network)


def _still(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _still(child)


def head_modules(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules that hold the last layer's parameters; one for nearly all networks."""
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in sorted(head_tensors(network))))


def reinitialise(network: nn.Module, fresh: nn.Module, *, blocks: int) -> tuple[str, ...]:
    """Gives the last blocks below the head the values of a network that has learnt nothing, in place.

    The uppermost layers know most about the old task (Zhang et al. 2021, arXiv 2006.05987).

    Args:
        network: A backbone.
        fresh: The same one, at random.
        blocks: How many of the finest layer groups.

    Returns:
        Names of the groups.

    Raises:
        RecipeError: When the network has fewer.
    """
    groups = layer_groups(network, fine=True)[:-1]
    if blocks > len(groups):
        raise RecipeError(
            f"transfer.reinitialise: {blocks} blocks are to start anew, and {len(groups)} lie below the head",
            instead="Give a smaller number, or train from scratch with model.weights=none.",
        )
    modules = {name.rpartition(".")[0] for group in groups[-blocks:] for name in group.tensors}
    values = fresh.state_dict()
    anew = {name: t for name, t in values.items() if name.rpartition(".")[0] in modules}
    network.load_state_dict(anew, strict=False)
    return tuple(group.name for group in groups[-blocks:])
