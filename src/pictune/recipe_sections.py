"""The sections of a recipe: every setting with its meaning, range and default, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pictune.settings import Search, Setting

Auto = Literal["auto"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A part chosen by name, with its settings.

    Args:
        name: The part's name in its table, or ``auto``.
        settings: The part's settings; those left out take the part's defaults.
    """

    name: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class DataSection:
    """Which pictures are used, and how they are read."""

    task: Annotated[
        str, Setting("what the model learns", choices=("auto", "classification", "detection", "segmentation"))
    ] = "auto"
    format: Annotated[str, Setting("how the data are laid out: auto, or a format by name")] = "auto"
    image_column: Annotated[str | None, Setting("table column with the picture's path")] = None
    label_column: Annotated[str | None, Setting("table column with the label or labels")] = None
    split_column: Annotated[str | None, Setting("table column that says train, val or test")] = None
    label_separator: Annotated[str | None, Setting("what separates several labels in one field")] = None
    image_folder: Annotated[
        str | None, Setting("where the pictures are that a file of annotations speaks of")
    ] = None
    classes: Annotated[
        tuple[str, ...] | None, Setting("names of the numbers in masks, in their order from 0 on")
    ] = None
    ignore: Annotated[tuple[int, ...], Setting("numbers in masks that belong to no class")] = ()
    group_by: Annotated[
        str | None,
        Setting("what must stay together: a column, re:<regular expression>, exif:date, exif:camera"),
    ] = None
    allow_leaks: Annotated[bool, Setting("train even if a picture is in two splits")] = False
    follow_outside: Annotated[bool, Setting("follow links that leave the folder")] = False
    max_bad: Annotated[float, Setting("share of unusable pictures that stops the run", low=0, high=1)] = 0.05
    min_side: Annotated[int, Setting("smallest side of a usable picture, pixels", low=1)] = 8
    value_range: Annotated[
        tuple[float, float] | None,
        Setting("what is black and what is white in pictures of floats or long integers"),
    ] = None
    max_pixels: Annotated[int, Setting("largest usable picture, pixels", low=1)] = 40_000_000


@dataclass(frozen=True)
class SplitSection:
    """Which pictures are learnt from, which choose, and which judge."""

    val: Annotated[float, Setting("share kept to choose the best weights", above=0, high=0.5)] = 0.15
    test: Annotated[
        float, Setting("share kept to judge at the end; 0 declares it absent", low=0, high=0.5)
    ] = 0.15
    near_duplicates: Annotated[bool, Setting("keep near-duplicate pictures in one split")] = True


@dataclass(frozen=True)
class ModelSection:
    """Which network, with which weights to start from."""

    name: Annotated[str, Setting("auto, cnn, resnet9, or any timm backbone")] = "auto"
    weights: Annotated[str, Setting("auto | hub | starter | none | <file>.safetensors or .pth")] = "auto"
    image_size: Annotated[
        int | Auto,
        Setting("width of what the network sees, pixels; its side, if a square", low=16, high=2048),
    ] = "auto"
    height: Annotated[
        int | Auto,
        Setting("height of what the network sees where that is no square, pixels; 0 is a square", low=0),
    ] = "auto"
    head: Annotated[
        str,
        Setting(
            "what stands on the network's maps, such as fcos for boxes or unet for masks; none is its own "
            "last layer",
            choices=(
                *("auto", "none", "fcos", "retinanet", "faster_rcnn", "rt_detr_v2", "d_fine"),
                *("unet", "fpn", "deeplabv3plus", "segformer"),
            ),
        ),
    ] = "auto"
    fit: Annotated[
        str,
        Setting(
            "how a picture of another shape than the network sees is fitted",
            choices=("auto", "crop", "squash", "pad"),
        ),
    ] = "auto"
    dropout: Annotated[
        float, Setting("dropout before the last layer", low=0, high=0.9, search=Search(0, 0.5))
    ] = 0.0
    stochastic_depth: Annotated[
        float,
        Setting("share of residual branches skipped in training", low=0, high=0.9, search=Search(0, 0.3)),
    ] = 0.0
    allow_licence: Annotated[str | None, Setting("accept weights under this non-permissive licence")] = None


@dataclass(frozen=True)
class TransferSection:
    """How much of what the network knows is kept, and what need not be computed twice."""

    freeze: Annotated[
        int | str,
        Setting("layers that stay as they are: none | backbone | a number of groups | a layer | a pattern"),
    ] = "none"
    layer_decay: Annotated[
        float,
        Setting(
            "rate of a group of layers beside the one above it", above=0, high=1, search=Search(0.5, 1.0)
        ),
    ] = 1.0
    l2_sp: Annotated[
        float, Setting("pull towards the pretrained weights instead of to zero; 0 is off", low=0, high=10)
    ] = 0.0
    reinitialise: Annotated[
        int, Setting("blocks below the head that start at random again", low=0, high=100)
    ] = 0
    teacher: Annotated[str | None, Setting("a run whose model is imitated")] = None
    teacher_share: Annotated[
        float, Setting("share of the loss that imitates the teacher", above=0, high=1)
    ] = 0.5
    temperature: Annotated[
        float, Setting("how much the teacher's and the student's answers are softened", low=1, high=20)
    ] = 2.0
    statistics: Annotated[
        str,
        Setting(
            "of batch normalisation, before a head learns on layers that will move: measured anew on the "
            "training pictures, or those of the weights",
            choices=("measured", "kept"),
        ),
    ] = "measured"
    views: Annotated[
        int | Auto,
        Setting("augmented looks at each picture that take turns; 0 draws new ones", low=0, high=64),
    ] = "auto"
    cache: Annotated[bool, Setting("compute once, and keep, what lies below everything that learns")] = True
    cache_gigabytes: Annotated[float, Setting("most that all cached features may take", above=0)] = 20.0


@dataclass(frozen=True)
class AugmentationSection:
    """How training pictures are varied."""

    preset: Annotated[
        str, Setting("a named list of steps", choices=("auto", "none", "light", "medium", "heavy", "custom"))
    ] = "auto"
    steps: Annotated[
        tuple[Mapping[str, Any], ...],
        Setting("the steps when preset is custom, such as {name: rotation, degrees: 15}"),
    ] = ()


@dataclass(frozen=True)
class TrainingSection:
    """How long and how carefully the weights move."""

    epochs: Annotated[int | Auto, Setting("passes over the training pictures", low=1)] = "auto"
    batch_size: Annotated[
        int | Auto, Setting("pictures a step", low=1, search=Search(choices=(16, 32, 64)))
    ] = "auto"
    accumulate: Annotated[int, Setting("batches whose gradients are added up to one step", low=1)] = 1
    precision: Annotated[
        str, Setting("arithmetic; auto measures this network", choices=("auto", "fp32", "bf16", "fp16"))
    ] = "auto"
    memory_format: Annotated[
        str,
        Setting("order of a tensor's axes; auto measures", choices=("auto", "channels_last", "contiguous")),
    ] = "auto"
    ema: Annotated[
        float, Setting("decay of the averaged weights; 0 switches it off", low=0, high=0.99999)
    ] = 0.998
    early_stopping: Annotated[
        int, Setting("epochs without gain before stopping; 0 switches it off", low=0)
    ] = 0
    class_weights: Annotated[
        str, Setting("weight of each class in the loss", choices=("none", "balanced"))
    ] = "none"
    sampling: Annotated[str, Setting("how often each class is drawn", choices=("uniform", "balanced"))] = (
        "uniform"
    )
    clip: Annotated[float, Setting("largest norm of the gradient; 0 switches it off", low=0)] = 5.0
    select_by: Annotated[
        str,
        Setting(
            "validation metric that chooses the best weights",
            choices=(
                "auto",
                "accuracy",
                "balanced_accuracy",
                "macro_f1",
                "log_loss",
                "map",
                "map50",
                "mean_iou",
                "pixel_accuracy",
            ),
        ),
    ] = "auto"
    preset: Annotated[
        str, Setting("how long what auto chooses may take", choices=("fast", "good", "best"))
    ] = "good"
    minutes: Annotated[float, Setting("how long all of it may take; 0 for no limit", low=0, high=100_000)] = (
        0.0
    )
    soup: Annotated[
        int,
        Setting("best epochs whose weights are averaged while that helps; 1 takes the best", low=1, high=20),
    ] = 1
    first_size: Annotated[
        int | None,
        Setting("side of the images in the first epoch, growing to model.image_size", low=16, high=2048),
    ] = None
    seed: Annotated[int, Setting("where all randomness starts", low=0, high=2**31 - 1)] = 0
    device: Annotated[str, Setting("auto, cpu, cuda or cuda:<n>")] = "auto"
    threads: Annotated[int, Setting("threads of arithmetic on the CPU; 0 takes all", low=0)] = 0
    workers: Annotated[
        int, Setting("threads that prepare pictures beside training; 0 prepares in line", low=0)
    ] = 1
    checkpoint_minutes: Annotated[float, Setting("longest time between checkpoints", above=0)] = 5.0


@dataclass(frozen=True)
class EvaluationSection:
    """How numbers and their intervals are computed."""

    resamples: Annotated[int, Setting("bootstrap resamples behind an interval", low=100, high=100_000)] = 1000
    goal: Annotated[
        str,
        Setting(
            "what thresholds of boxes are chosen for: f1, or most recall at precision:0.9, or recall:0.9"
        ),
    ] = "f1"
    confidence: Annotated[float, Setting("coverage of every interval", low=0.5, high=0.999)] = 0.95
