"""Freezing and cutting, for the smallest network of every family of timm.

    python benchmarks/families.py [--only vit] [--largest 30]

For each family: the number of layer groups, and where the network is cut when all but the head is frozen,
and when the lower half of its groups is. A cut counts only if outputs and gradients of the two parts equal
those of the whole network. Weights are random. ``--largest`` leaves out networks of more million parameters.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict

import timm
import torch
from torch import nn

from pictune.errors import PictuneError
from pictune.models.blueprint import draw_blueprint
from pictune.models.boundary import cut
from pictune.models.freezing import freeze_layers, frozen_tensors, layer_groups
from pictune.models.preprocess import Preprocess


def smallest() -> dict[str, tuple[str, float]]:
    """The smallest network of each family, with its size in million parameters."""
    found: dict[str, tuple[str, float]] = {}
    for name in timm.list_models():
        family = timm.models._registry._model_to_module[name]
        with torch.device("meta"):
            try:
                size = sum(p.numel() for p in timm.create_model(name).parameters()) / 1e6
            except (RuntimeError, ValueError, NotImplementedError):
                continue
        if family not in found or size < found[family][1]:
            found[family] = (name, size)
    return found


def whole(name: str) -> tuple[nn.Module, int]:
    blueprint = draw_blueprint(name, dropout=0.0, stochastic_depth=0.0)
    size = blueprint.default_size if blueprint.fixed_size else min(blueprint.default_size, 224)
    preprocess = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    network = blueprint.make(7, image_size=size)
    return nn.Sequential(OrderedDict(preprocess=preprocess, backbone=network)), size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--largest", type=float, default=30)
    given = parser.parse_args()
    counts = {"families": 0, "head": 0, "half": 0}
    for family, (name, size) in sorted(smallest().items()):
        if given.only not in family:
            continue
        if size > given.largest:
            print(f"{family:<28} {name:<36} left out: {size:.0f} M parameters", flush=True)
            continue
        counts["families"] += 1
        try:
            network, side = whole(name)
        except PictuneError as error:
            print(f"{family:<28} {name:<36} {error.message[:90]}", flush=True)
            continue
        groups = layer_groups(network.backbone)
        shown = []
        for way, freeze in (("head", "backbone"), ("half", str(max(1, (len(groups) - 1) // 2)))):
            freeze_layers(network.backbone, frozen_tensors(network.backbone, freeze))
            made = cut(network, image_size=side)
            counts[way] += made is not None
            shown.append(f"{made.module.removeprefix('backbone.')} {made.shape}" if made else "no cut")
        print(f"{family:<28} {name:<36} {len(groups):>3} groups; " + "; ".join(shown), flush=True)
    print(
        f"{counts['families']} families: cut below the head in {counts['head']}, "
        f"in the middle in {counts['half']}"
    )


if __name__ == "__main__":
    main()
