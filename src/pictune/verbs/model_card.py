"""The model card: what a shipped model is, for the people who rely on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pictune.exporting.artifact import SUFFIX
from pictune.exporting.formats import FORMATS
from pictune.tasks.specification import Specification

SHOWN = 12  # metrics


def model_card(
    name: str, spec: Specification, facts: Mapping[str, Any], *, format_name: str, precision: str
) -> str:
    """A card in Markdown.

    Args:
        name: Of the artifact's file or folder.
        spec: What the model is.
        facts: What model.json tells besides.
        format_name: Of the network's file.
        precision: In which it computes.
    """
    width, height = spec.canvas
    head = f" with the head {spec.head}" if spec.head else ""
    lines = [
        f"# {_plain(name.removesuffix(SUFFIX))}",
        "",
        f"A model for {spec.task} with {len(spec.classes)} classes: {', '.join(map(_plain, spec.classes))}.",
        "",
        "| | |",
        "|---|---|",
        f"| network | {spec.network}{head}, {width} x {height} pixels, fitted by `{spec.fit}` |",
        f"| file | {format_name}, {precision} |",
        f"| trained from | {_plain(facts['weights']['origin'])} |",
        f"| licence of those weights | {_plain(licence_told(facts['weights']))} |",
        f"| run | {_plain(str(facts['run']))} |",
        f"| data | {_images(facts['data']['images'])}, fingerprint `{facts['data']['fingerprint'][:16]}` |",
        "",
        *_quality(facts.get("metrics", {})),
        *_gate(facts["gate"], facts.get("kept_in_float", ())),
        "## Use",
        "",
        *_use(name, spec, format_name),
        "",
        "Pixels go in as they are decoded; normalisation lies inside the network. Confidences are not",
        "calibrated. All of this holds for pictures like those it was trained on, and for no others.",
        "",
        "## Made with",
        "",
        *(f"- {part} {version}" for part, version in facts["made_with"].items()),
        "",
    ]
    return "\n".join(lines)


def origin_told(weights: Mapping[str, Any], *, network: str) -> str:
    """What training started from, for the people whom a model is given to.

    Why it was that is left out: it may tell of the machine that trained it.

    Args:
        weights: What made_by.json of the run says of them.
        network: Its name.
    """
    source = str(weights.get("source", ""))
    told = {
        "none": "random start",
        "starter": f"Pictune's starter weights of {network}, learnt from drawn pictures alone",
        "hub": f"{source} of the hub",
        "file": f"the file {source}",
    }
    return told.get(str(weights.get("kind")), "not known")


def licence_told(weights: Mapping[str, Any]) -> str:
    """The licence of the weights that training started from.

    Args:
        weights: What model.json says of them.
    """
    if weights["kind"] == "none":
        return "no pretrained weights"
    return str(weights["licence"] or "none named")


def _use(name: str, spec: Specification, format_name: str) -> Iterator[str]:
    """How the model is asked."""
    if FORMATS[format_name].served:
        typed = shlex.quote(name)
        yield from ("```", f"pictune predict {typed} photos/", f"pictune serve {typed}", "```")
        return
    (file,) = FORMATS[format_name].files
    width, height = spec.canvas
    zipped = "; take it out of the zip first"
    yield from (
        "It needs PyTorch; `pictune predict` and `pictune serve` do not take it. Loading may run code, so",
        f"load {file} only if you trust whoever made it{zipped * name.endswith(SUFFIX)}:",
        "",
        "```python",
        f'network = torch.export.load("{file}").module()',
        f"outputs = network(pixels)  # uint8, n x {height} x {width} x 3",
        "```",
    )


def _images(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} pictures {name}" for name, count in counts.items())


def _quality(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The numbers of the run's report."""
    if not metrics:
        return
    percent = f"{100 * metrics['confidence']:g} %"
    yield from (
        "## How good it is",
        "",
        f"The trained model on {metrics['images']:,} pictures of the {metrics['split']} split, with "
        f"{percent} intervals:",
        "",
        "| metric | value | interval |",
        "|---|---|---|",
    )
    known = [(name, row) for name, row in metrics["values"].items() if row["value"] is not None]
    for name, row in known[:SHOWN]:
        ends = f"{row['low']:.3f} to {row['high']:.3f}" if row["low"] is not None else "none"
        yield f"| {name.replace('_', ' ')} | {row['value']:.3f} | {ends} |"
    yield ""


def _gate(gate: Mapping[str, Any], kept: Any) -> Iterator[str]:
    """What the exported model was found to be beside the trained one."""
    yield from ("## The exported model beside the trained one", "")
    if gate.get("overruled"):
        yield from (
            "**The gate refused this model, and it was written all the same (--accept-loss):**",
            "",
            *(f"- {reason}" for reason in gate["reasons"]),
            "",
        )
    yield from ("```", *str(gate["summary"]).splitlines(), "```", "")
    if kept:
        yield from (f"Layers that stayed in float: {', '.join(map(_plain, kept))}.", "")


def _plain(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")
    return " ".join(escaped.split())
