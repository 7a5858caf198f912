"""Checkpoints: one safetensors file that holds tensors and, in its header, everything else.

One file is one rename, so a checkpoint is whole or absent. No pickle is involved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pictune.errors import RunError
from pictune.files import write_tensors

Tensors = dict[str, torch.Tensor]


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and facts in one step.

    Args:
        path: The file.
        tensors: By name.
        facts: Anything JSON can hold.
    """
    write_tensors(path, tensors, facts={"facts": json.dumps(facts, allow_nan=False)})


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and facts of a checkpoint.

    Raises:
        RunError: When the file is absent or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            facts = json.loads((stream.metadata() or {}).get("facts", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"the checkpoint {path.name} cannot be read: {error}") from None
    return tensors, facts


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The same tensors under ``prefix/name``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under ``prefix/``, without the prefix."""
    return {
        name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")
    }


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """An optimizer's memory as tensors and plain values, both by ``parameter|group/number/key``.

    Most optimizers remember parameter by parameter; some count their steps in the parameter group.
    """
    packed = optimizer.state_dict()
    memory = {
        f"parameter/{number}/{key}": value
        for number, state in packed["state"].items()
        for key, value in state.items()
    }
    memory |= {
        f"group/{number}/{key}": value
        for number, group in enumerate(packed["param_groups"])
        for key, value in group.items()
        if isinstance(value, torch.Tensor | int | float)
    }
    tensors = {name: value for name, value in memory.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in memory.items() if name not in tensors}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> None:
    """Gives an optimizer its memory back, each tensor laid out in memory like its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in {**tensors, **plain}.items():
        kind, number, key = name.split("/", 2)
        if kind == "group":
            optimizer.param_groups[int(number)][key] = value
            continue
        parameter = parameters[int(number)]
        if isinstance(value, torch.Tensor) and value.ndim and value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = value


def load_network(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies tensors into a network; every name must fit."""
    network.load_state_dict(dict(tensors), strict=True)
