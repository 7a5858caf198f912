"""The options of the command line that several verbs take, or that would make a verb hard to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MaxBad = Annotated[
    float | None,
    typer.Option(help="Share of unusable pictures that stops training, 0 to 1; 0.05 if not given."),
]
FollowOutside = Annotated[bool, typer.Option("--follow-outside", help="Follow links that leave the folder.")]

Data = Annotated[
    Path, typer.Argument(readable=False, help="A folder of class folders, or a table of paths and labels.")
]
RunFolder = Annotated[Path, typer.Argument(readable=False, help="A run folder, such as runs/latest.")]
RunOrExport = Annotated[
    Path,
    typer.Argument(readable=False, help="A run, or an exported model, such as exports/teal-fox.pictune."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting; all of them: pictune recipe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

DataOrRun = Annotated[
    Path,
    typer.Argument(readable=False, help="A folder of class folders or a table; or a run, to go on with it."),
]
Network = Annotated[str | None, typer.Option(help="cnn, resnet9, or any timm backbone.")]
Head = Annotated[str | None, typer.Option(help="What finds boxes or masks, such as fcos or unet.")]
Images = Annotated[
    Path | None, typer.Option(readable=False, help="Where the pictures of an annotation file are.")
]
Weights = Annotated[str | None, typer.Option(help="auto, hub, starter, none, or a file.")]
ImageSize = Annotated[int | None, typer.Option(help="Side of what the network sees, pixels.")]
Epochs = Annotated[str | None, typer.Option(help="Passes over the pictures; +N extends a finished run.")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures a step.")]
Rate = Annotated[float | None, typer.Option(help="Highest learning rate.")]
Augment = Annotated[str | None, typer.Option(help="none, light, medium or heavy.")]
Loss = Annotated[str | None, typer.Option(help="A loss by name, such as focal.")]
Technique = Annotated[
    str | None, typer.Option(help="Which layers learn: full, head, lp_ft, gradual or lora.")
]
Freeze = Annotated[
    str | None, typer.Option(help="backbone, a number of groups, a layer or a pattern; pictune layers.")
]
LayerDecay = Annotated[
    float | None, typer.Option(help="Rate of a group of layers beside the one above, 0 to 1.")
]
Rank = Annotated[int | None, typer.Option(help="Of the adapters of --technique lora.")]
Teacher = Annotated[Path | None, typer.Option(readable=False, help="A run whose model is imitated.")]
Preset = Annotated[str | None, typer.Option(help="How long it may take: fast, good or best.")]
Allowed = Annotated[str | None, typer.Option("--time", metavar="10m", help="Most it may take: 90s, 10m, 2h.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute frozen layers every time.")]
GroupBy = Annotated[
    str | None, typer.Option(help="What must stay in one split: a column, re:…, exif:date, exif:camera.")
]
Seed = Annotated[int | None, typer.Option(help="Where all randomness starts.")]
RecipeFile = Annotated[Path | None, typer.Option(readable=False, help="A YAML recipe.")]
AllowLeaks = Annotated[bool, typer.Option("--allow-leaks", help="Train even if a picture is in two splits.")]
Runs = Annotated[Path, typer.Option(readable=False, help="The folder that holds all runs.")]
Name = Annotated[str | None, typer.Option(help="Of the new run.")]
New = Annotated[bool, typer.Option("--new", help="Start anew where an unfinished run could go on.")]
