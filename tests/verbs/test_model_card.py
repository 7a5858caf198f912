"""The model card: what it says holds for this very model, and nothing of the machine is in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pictune.exporting.artifact import Artifact
from pictune.verbs.export import export
from pictune.verbs.model_card import licence_told, origin_told

HUB_GONE = (
    "Every layer starts at random, because no pretrained weights could be had: "
    "the hub at https://mirror.example cannot be reached ([Errno -2] Name or service not known)."
)


@pytest.mark.parametrize(
    ("kind", "source", "licence", "origin", "said"),
    [
        ("none", "", None, "random start", "no pretrained weights"),
        ("starter", "starter/n.safetensors", "mit", "Pictune's starter weights of n, learnt", "mit"),
        ("hub", "timm/n.in1k", "apache-2.0", "timm/n.in1k of the hub", "apache-2.0"),
        ("file", "mine.pth", None, "the file mine.pth", "none named"),
        ("newer", "", None, "not known", "none named"),
    ],
)
def test_what_training_started_from(kind: str, source: str, licence, origin: str, said: str) -> None:
    begun = {"kind": kind, "source": source, "licence": licence, "sentence": HUB_GONE}
    assert origin_told(begun, network="n").startswith(origin)
    assert licence_told(begun) == said


def test_why_it_started_so_stays_with_the_run(finished, here: Path) -> None:
    """An old run's record carries what the hub said when it could not be reached."""
    run = shutil.copytree(finished.run.path, here / "runs" / "teal-fox")
    made_by = json.loads((run / "made_by.json").read_text())
    made_by["weights"]["sentence"] = HUB_GONE
    (run / "made_by.json").write_text(json.dumps(made_by))
    artifact = Artifact.open(export(run).path)
    whole = b"".join(artifact.files.values()).decode("latin-1")
    assert "| trained from | random start |" in artifact.files["MODEL_CARD.md"].decode()
    assert "| licence of those weights | no pretrained weights |" in artifact.files["MODEL_CARD.md"].decode()
    assert artifact.specification.origin == artifact.content["weights"]["origin"] == "random start"
    assert "hub" not in artifact.content["specification"]["origin"]
    assert "mirror.example" not in whole
    assert "because" not in whole


@pytest.mark.parametrize(
    ("out", "format_name", "said", "unsaid"),
    [
        ("a.pictune", "onnx", "pictune predict a.pictune photos/\npictune serve a.pictune\n", "torch.export"),
        ("v1.2", "onnx", "pictune predict v1.2 photos/\npictune serve v1.2\n", ".pictune"),
        ("my cells", "onnx", "pictune predict 'my cells' photos/", ".pictune"),
        ("a.pictune", "torch", 'torch.export.load("model.pt2")', "pictune predict a"),
        ("folder", "torch", 'torch.export.load("model.pt2")', "zip"),
    ],
)
def test_what_it_says_of_use_can_be_done(
    finished, here: Path, out: str, format_name: str, said: str, unsaid: str
) -> None:
    card = (
        Artifact.open(export(finished.run, out=out, format=format_name).path).files["MODEL_CARD.md"].decode()
    )
    assert card.startswith(f"# {out.removesuffix('.pictune')}\n")
    assert said in card
    assert unsaid not in card
