"""A file of weights made in code: layers at random whose normalisation knows the pictures' statistics.

Its features tell colours and shapes apart well enough for a head to learn from; no training is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import toys
from pictune.models.backbones import build_network

PICTURES = 64


def backbone_file(path: Path, *, network: str = "test_resnet", side: int = 32, seed: int = 7) -> Path:
    """Writes the file, without a last layer; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_network(network, outputs=len(toys.SHAPES), image_size=side)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            # Residual branches begin switched off, and a frozen switch would let nothing in them learn.
            torch.nn.init.ones_(module.weight)
    shown = [toys.picture([toys.SHAPES[number % 3]], 5000 + number, side=side) for number in range(PICTURES)]
    images = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 128 - 1
    with torch.no_grad():
        for _ in range(50):  # running means forget their beginning slowly
            backbone(images)
    tensors = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}, path)
    return path
