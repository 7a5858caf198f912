"""Writes what ships: `python -m pretraining.export --run pretraining/out/starter`.

The averaged weights of the epoch that the probes liked best, in half precision, without the last layer.
"""

# ruff: noqa: T201 - a script speaks on standard output
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from pictune.files import write_tensors
from pictune.training.checkpoints import load_checkpoint

SHIPPED = Path(__file__).parents[1] / "src/pictune/models/starter/resnet9.safetensors"
LAST_LAYER = "fc."
PREFIX = "network."


def best(folder: Path) -> Path:
    """The file of the weights that the probes liked best so far.

    Args:
        folder: Of the run.
    """
    return next((folder / "checkpoints").glob("best-*.safetensors"))


def shipped(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's tensors under the network's own names, floating ones in half precision.

    Args:
        tensors: Of preprocessing and network, as `pretraining.run.build` names them.
    """
    backbone = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    return {
        name: (tensor.half() if tensor.is_floating_point() else tensor.long()).contiguous()
        for name, tensor in backbone.items()
        if not name.startswith(LAST_LAYER)
    }


def export(folder: Path, path: Path) -> Path:
    """Writes the file that ships.

    Args:
        folder: Of the run.
        path: The file.
    """
    source = best(folder)
    epoch = int(source.stem.removeprefix("best-"))
    tensors = shipped(load_checkpoint(source)[0])
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values()), (
        "half precision holds these weights"
    )
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    facts = {"network": "resnet9", "epoch": str(epoch + 1), "probes": json.dumps(journal[epoch])}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, facts=facts)
    return path


def main() -> None:
    """Exports as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "out/starter")
    parser.add_argument("--to", type=Path, default=SHIPPED)
    given = parser.parse_args()
    path = export(given.run, given.to)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
