"""The recipe: every setting that decides a run, declared once.

A recipe is read from YAML, from ``--set a.b=c`` and from Python alike; all mistakes come in one
`RecipeError`, each with the nearest known name. ``auto`` is a value like any other: the verb
resolves it, writes the answer into the run's ``recipe.yaml`` and the reason into ``made_by.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast, get_type_hints

from pictune.errors import RecipeError
from pictune.settings import Parts, Search, Setting, check_value, setting_of, suggestion

Auto = Literal["auto"]
Tables = Mapping[str, Parts[Any]]


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
        int | Auto, Setting("width of what the network sees, pixels; its side, if a square", low=16, high=2048)
    ] = "auto"
    height: Annotated[
        int | Auto,
        Setting("height of what the network sees where that is no square, pixels; 0 is a square", low=0),
    ] = "auto"
    head: Annotated[
        str,
        Setting(
            "what stands on the network's maps: fcos for boxes, unet for masks",
            choices=("auto", "none", "fcos", "unet"),
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
            choices=("auto", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "map", "map50", "mean_iou", "pixel_accuracy"),
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
    confidence: Annotated[float, Setting("coverage of every interval", low=0.5, high=0.999)] = 0.95


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run. Frozen; made by `read_recipe`."""

    data: DataSection = field(default_factory=DataSection)
    split: SplitSection = field(default_factory=SplitSection)
    model: ModelSection = field(default_factory=ModelSection)
    technique: Choice = field(default_factory=Choice)
    transfer: TransferSection = field(default_factory=TransferSection)
    loss: Choice = field(default_factory=Choice)
    optimizer: Choice = field(default_factory=Choice)
    schedule: Choice = field(default_factory=Choice)
    augmentation: AugmentationSection = field(default_factory=AugmentationSection)
    mixing: Choice = field(default_factory=Choice)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)

    def with_values(self, **sections: Mapping[str, Any] | Choice) -> Recipe:
        """A copy with some values of some sections replaced; used to write down what ``auto`` became."""
        changed = {
            name: value if isinstance(value, Choice) else replace(getattr(self, name), **value)
            for name, value in sections.items()
        }
        return replace(self, **cast(Any, changed))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, ready for YAML or JSON."""
        return {section.name: _plain(getattr(self, section.name)) for section in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return {"name": value.name, **{key: _plain(v) for key, v in value.settings.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def settings_of(section: type) -> dict[str, tuple[Any, Setting, Any]]:
    """The declared settings of a section: type, `Setting` and default by name."""
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for item in fields(section):
        setting = setting_of(hints[item.name])
        assert setting is not None, f"{section.__name__}.{item.name} has no Setting"
        found[item.name] = (hints[item.name], setting, item.default)
    return found


def read_recipe(given: Mapping[str, Any], tables: Tables) -> Recipe:
    """Checks nested values and makes a recipe of them.

    Args:
        given: Sections and their values; what is left out takes its default.
        tables: The tables of parts by section name (``technique``, ``loss``, ``optimizer``,
            ``schedule``, ``mixing``) and the augmentation steps under ``augmentation``.

    Raises:
        RecipeError: With every mistake, each with the nearest known name.
    """
    mistakes: list[str] = []
    sections: dict[str, Any] = {}
    default = Recipe()
    known = [item.name for item in fields(Recipe)]
    for name, values in given.items():
        if name not in known:
            mistakes.append(f"{name}: there is no such section{_where_it_could_be(name, known)}")
        elif not isinstance(values, Mapping):
            mistakes.append(f"{name}: must hold settings, found {values!r}")
        elif isinstance(getattr(default, name), Choice):
            sections[name], found = _read_choice(name, values, tables[name])
            mistakes += found
        else:
            sections[name], found = _read_section(name, type(getattr(default, name)), values)
            mistakes += found
    augmentation = sections.get("augmentation", default.augmentation)
    mistakes += _augmentation_mistakes(augmentation, tables["augmentation"])
    if mistakes:
        raise RecipeError(
            f"the recipe has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}",
            causes=mistakes,
            instead="All settings with their meaning: pictune recipe",
        )
    return replace(default, **sections)


def _where_it_could_be(name: object, sections: Sequence[str]) -> str:
    """The section meant by a name that is none; people also name a setting without its section."""
    if near := suggestion(name, sections):
        return near
    homes = {
        setting.name: f"{section}.{setting.name}"
        for section in sections
        if not isinstance(getattr(Recipe(), section), Choice)
        for setting in fields(getattr(Recipe(), section))
    }
    return f" (did you mean {homes[name]}?)" if name in homes else ""


def _read_section(name: str, section: type, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
    settings, read, mistakes = settings_of(section), {}, []
    for key, value in values.items():
        if key not in settings:
            mistakes.append(f"{name}.{key}: there is no such setting{suggestion(str(key), settings)}")
            continue
        kind, setting, _ = settings[key]
        read[key], mistake = check_value(value, kind, setting)
        if mistake:
            mistakes.append(f"{name}.{key}: {mistake}")
    return (None if mistakes else section(**read)), mistakes


def _read_choice(name: str, values: Mapping[str, Any], table: Parts[Any]) -> tuple[Choice, list[str]]:
    chosen, given = values.get("name", "auto"), {k: v for k, v in values.items() if k != "name"}
    if isinstance(chosen, str) and chosen in table:
        complete, mistakes = table[chosen].check(given, name)
        return Choice(chosen, MappingProxyType(complete)), mistakes
    # Which part it is to be is not known (yet): a setting must belong to one of them, and fit it.
    known = {setting for part in table.values() for setting in part.settings}
    strangers = [key for key in given if key not in known]
    mistakes = [f"{name}.{key}: there is no such setting{suggestion(key, known)}" for key in strangers]
    mistakes += [m for key, value in given.items() if (m := _impossible(name, key, value, table))]
    if chosen != "auto":
        near = suggestion(str(chosen), table) or f"; choose one of {', '.join(table)}"
        mistakes.insert(0, f"{name}.name: there is no {table.kind} called {chosen!r}{near}")
    return Choice("auto", given), mistakes


def _impossible(name: str, key: str, value: Any, table: Parts[Any]) -> str | None:
    """Why no part of a table that has this setting takes this value; None when one does."""
    owners = [part for part in table.values() if key in part.settings]
    complaints = [found for part in owners if (found := part.check({key: value}, name)[1])]
    return complaints[0][0] if complaints and len(complaints) == len(owners) else None


def _augmentation_mistakes(section: AugmentationSection | None, steps: Parts[Any]) -> list[str]:
    if section is None:
        return []
    if section.steps and section.preset != "custom":
        return [f"augmentation.steps: contradicts augmentation.preset={section.preset}; use preset: custom"]
    if section.preset == "custom" and not section.steps:
        return ["augmentation.steps: preset custom needs at least one step"]
    mistakes = []
    for position, step in enumerate(section.steps):
        where = f"augmentation.steps[{position}]"
        name = step.get("name")
        if not isinstance(name, str) or name not in steps:
            mistakes.append(f"{where}: there is no step called {name!r}{suggestion(str(name), steps)}")
            continue
        mistakes += steps[name].check({k: v for k, v in step.items() if k != "name"}, where)[1]
    return mistakes


def merge(first: Mapping[str, Any], second: Mapping[str, Any], *, names: tuple[str, str]) -> dict[str, Any]:
    """Joins two sets of given values; a value given differently in both is a conflict.

    Args:
        first: Nested values.
        second: Nested values.
        names: How to call the two in a message, such as ``("--epochs", "--set")``.

    Raises:
        RecipeError: With every conflict.
    """
    joined: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in first.items()}
    conflicts = []
    for section, values in second.items():
        if not isinstance(values, Mapping) or not isinstance(joined.get(section, {}), Mapping):
            joined[section] = values
            continue
        target = joined.setdefault(section, {})
        for key, value in values.items():
            if key in target and target[key] != value:
                conflicts.append(f"{section}.{key}: {target[key]!r} by {names[0]}, {value!r} by {names[1]}")
            target[key] = value
    if conflicts:
        raise RecipeError("some settings are given twice with different values", causes=conflicts)
    return joined
