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
    """An optimizer's memory: tensors by ``parameter/key``, and what is left as plain values.

    Most optimizers remember parameter by parameter; some count their steps in the parameter group.
    """
    packed = optimizer.state_dict()
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    for number, memory in packed["state"].items():
        for key, value in memory.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}/{key}"] = value
            else:
                plain[f"{number}/{key}"] = value
    counted = [
        {key: value for key, value in group.items() if isinstance(value, int | float)}
        for group in packed["param_groups"]
    ]
    return tensors, {"parameters": plain, "groups": counted}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> None:
    """Gives an optimizer its memory back, each tensor laid out in memory like its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group, counted in zip(optimizer.param_groups, plain["groups"], strict=True):
        group.update(counted)
    for name, value in {**tensors, **plain["parameters"]}.items():
        number, key = name.split("/", 1)
        parameter = parameters[int(number)]
        if isinstance(value, torch.Tensor):
            value = (
                torch.empty_like(parameter).copy_(value)
                if value.shape == parameter.shape and value.ndim
                else value.clone()
            )
        optimizer.state[parameter][key] = value


def load_network(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies tensors into a network; every name must fit."""
    network.load_state_dict(dict(tensors), strict=True)
