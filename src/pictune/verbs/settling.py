"""What ``auto`` becomes: each choice with its reason. A value that the user gave is never touched.

Why the constants are what they are stands in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pictune.data.sample import Dataset
from pictune.errors import RecipeError
from pictune.models.freezing import EVERYTHING_BELOW, NOTHING
from pictune.models.weights import Weights
from pictune.recipe_sections import Choice
from pictune.recipes import Recipe
from pictune.settings import Part
from pictune.tasks.average_precision import read_goal
from pictune.tasks.kinds import KINDS, Kind
from pictune.verbs.tables import TABLES

SCRATCH = "resnet9"
PRETRAINED, GPU_PRETRAINED = "mobilenetv4_conv_small", "resnet50"  # where the hub's weights can be had
SIZES = (64, 96, 128)  # pixels; the network sees the largest that the pictures fill
SCRATCH_SIZES = (64, 96)  # without the hub's weights, on a CPU: many epochs are needed, so they must be cheap
GPU_SIZE = 224
GPU_DENSE_SIZE = 640  # longer side of the canvas where what is learnt lies on the picture
DENSE_STEP = 32  # pixels: sides of such a canvas are multiples, so that all maps fit on one another
ALIKE = 0.05  # pictures whose shapes differ by less than this get a canvas of their own shape
DENSE_VIEWS = {"fast": 4_000, "good": 10_000, "best": 25_000}
DENSE_EPOCHS = (10, 60)
DENSE_BATCH = 8
PUBLISHED = {"hub", "file"}  # weights that others have learnt from very many photographs
PUBLISHED_RATE = 5e-4  # of AdamW, where layers with such weights move
VIEWS = {"fast": 50_000, "good": 150_000, "best": 300_000}  # in training, when nothing is said about epochs
VIEWS_FROM_WEIGHTS = {"fast": 50_000, "good": 50_000, "best": 150_000}
TURNS = 4  # augmented looks at each picture that take turns where layers are frozen
BEST_SOUP = 3
WATCHED = 256  # training pictures on which progress is measured as on validation pictures
LOOKING = 0.35  # of the time of a training step is taken by a forward pass alone
OVERHEAD = 1.15  # for what an epoch does besides
CACHED_SHARE = 0.3  # of an epoch's time, at most, is left where features are cached; the loop measures it
RESERVE = 0.08  # of the time is kept back
REPORT_SECONDS = 6.0
FEWEST_EPOCHS, MOST_EPOCHS = 15, 100
MOST_FROM_WEIGHTS = 40
BATCH, GPU_BATCH = 32, 64
UNEVEN = 3.0  # from this ratio between the largest and the smallest class on, macro F1 chooses

Reasons = dict[str, str]


def settle_network(
    recipe: Recipe, *, gpu: bool, find: Callable[[str], Weights]
) -> tuple[Recipe, Weights, Reasons]:
    """Chooses the network and the weights it starts from.

    Args:
        recipe: What the user asked for.
        gpu: Whether training runs on one.
        find: Finds the weights of a network by its name.

    Raises:
        RecipeError: When a file of weights is given without the name of its network.
        WeightsError: When the weights asked for cannot be had.
    """
    model = recipe.model
    if model.name != "auto":
        return recipe, find(model.name), {}
    if model.weights not in {"auto", "hub", "starter", "none"}:
        raise RecipeError(
            "model.weights names a file, and model.name does not say of which network",
            instead="Name it, such as --model resnet18.",
        )
    if model.weights in {"none", "starter"}:
        reason = "auto: from scratch" if model.weights == "none" else "auto: it has starter weights"
        return recipe.with_values(model={"name": SCRATCH}), find(SCRATCH), {"model.name": reason}
    candidate = GPU_PRETRAINED if gpu else PRETRAINED
    weights = find(candidate)
    if weights.kind == "hub":
        return recipe.with_values(model={"name": candidate}), weights, {"model.name": "auto: pretrained"}
    own = find(SCRATCH)
    if own.kind == "starter":
        told = f"No weights of the hub could be had: {weights.obstacle}. {own.sentence}"
        weights = replace(own, sentence=told)
    reason = "auto: quick to train, as no pretrained weights could be had"
    return recipe.with_values(model={"name": SCRATCH}), weights, {"model.name": reason}


def settle_size(recipe: Recipe, dataset: Dataset, *, gpu: bool, scratch: bool) -> tuple[Recipe, Reasons]:
    """Chooses the image size, which must be known before pictures are stored.

    Args:
        recipe: What the user asked for.
        dataset: A few pictures whose sizes are known.
        gpu: Whether training runs on one.
        scratch: Whether the network has no weights of the hub to start from.
    """
    kind = KINDS[dataset.task]
    model: dict[str, object] = {}
    if recipe.model.head == "auto":
        model["head"] = kind.heads[0]
    elif recipe.model.head not in kind.heads:
        raise RecipeError(
            f"model.head={recipe.model.head} is not for {dataset.task}",
            instead=f"Leave it at auto, or choose one of {', '.join(kind.heads)}.",
        )
    if recipe.model.fit == "auto":
        model["fit"] = "pad" if kind.dense else "crop"
    recipe = recipe.with_values(model=model)
    if kind.dense:
        return _settle_canvas(recipe, dataset, gpu=gpu)
    if recipe.model.height == "auto":
        recipe = recipe.with_values(model={"height": 0})
    if recipe.model.image_size != "auto":
        return recipe, {}
    sizes = (*SIZES, GPU_SIZE) if gpu else SCRATCH_SIZES if scratch else SIZES
    size, reason = sizes[-1], "auto"
    if dataset.samples and dataset.samples[0].width:
        side = float(np.median([min(s.width, s.height) for s in dataset.samples]))
        size = max([s for s in sizes if s <= 1.15 * side], default=sizes[0])
        reason = f"auto: half of the pictures have a shorter side of {side:.0f} pixels or more"
    return recipe.with_values(model={"image_size": size}), {"model.image_size": reason}


def _settle_canvas(recipe: Recipe, dataset: Dataset, *, gpu: bool) -> tuple[Recipe, Reasons]:
    """Width and height of what a dense network sees: of the pictures' shape where they have one."""
    model, sized = recipe.model, [sample for sample in dataset.samples if sample.width]
    shapes = np.array([sample.height / sample.width for sample in sized] or [1.0])
    usual = float(np.median(shapes))
    alike = float(np.mean(np.abs(shapes / usual - 1) < ALIKE)) > 0.9
    shape = usual if alike else 1.0
    longer = GPU_DENSE_SIZE if gpu else KINDS[dataset.task].canvas
    largest = float(np.median([max(s.width, s.height) for s in sized])) if sized else longer
    longer = min(longer, _stepped(largest))
    width = longer / max(shape, 1.0) if model.image_size == "auto" else float(model.image_size)
    height = width * shape if model.height == "auto" else float(model.height or width)
    settled = {"image_size": _stepped(width), "height": _stepped(height)}
    told = "of the pictures' shape" if alike else "a square, as pictures have several shapes"
    reasons = {f"model.{name}": f"auto: {told}" for name in settled if getattr(model, name) == "auto"}
    given = {name: getattr(model, name) for name in settled if getattr(model, name) != "auto"}
    off = [f"model.{name}={value}" for name, value in given.items() if int(value) % DENSE_STEP]
    if off:
        raise RecipeError(
            f"{' and '.join(off)}: sides are multiples of {DENSE_STEP} pixels where objects are looked for",
            instead=f"Take {', '.join(str(_stepped(float(value))) for value in given.values())}.",
        )
    return recipe.with_values(model=settled), reasons


def _stepped(side: float) -> int:
    """The nearest multiple of the step, at least one."""
    return max(round(side / DENSE_STEP), 1) * DENSE_STEP


def settle_training(recipe: Recipe, dataset: Dataset, *, gpu: bool, start: str) -> tuple[Recipe, Reasons]:
    """Chooses everything that depends on how many pictures of which class there are.

    Args:
        recipe: What the user asked for.
        dataset: With its splits.
        gpu: Whether training runs on one.
        start: Kind of the weights that the network starts from: ``hub``, ``file``, ``starter`` or ``none``.

    Raises:
        RecipeError: With every setting that does not fit what was chosen, or contradicts another.
    """
    kind = KINDS[dataset.task]
    _refuse_misplaced(recipe, dataset.task)
    train = dataset.split("train")
    counts = [n for n in train.count().values() if n]
    ratio = max(counts) / min(counts)
    reasons: Reasons = {}
    training: dict[str, object] = {}
    settings = recipe.training
    if settings.epochs == "auto":
        views, least, most = VIEWS[settings.preset], FEWEST_EPOCHS, MOST_EPOCHS
        if start != "none":
            views, most = VIEWS_FROM_WEIGHTS[settings.preset], MOST_FROM_WEIGHTS
        if kind.dense:
            views, (least, most) = DENSE_VIEWS[settings.preset], DENSE_EPOCHS
        training["epochs"] = int(np.clip(round(views / len(train)), least, most))
        reasons["training.epochs"] = f"auto: about {views:,} views of {len(train):,} pictures"
    if settings.batch_size == "auto":
        batch = DENSE_BATCH if kind.dense else GPU_BATCH if gpu else BATCH
        while batch > 8 and len(train) < 16 * batch:
            batch //= 2
        why = f"auto: of {kind.unit}" if kind.dense else "auto: at least 16 steps an epoch"
        training["batch_size"], reasons["training.batch_size"] = batch, why
    if settings.preset == "best" and settings.soup == 1:
        training["soup"], reasons["training.soup"] = BEST_SOUP, "preset best"
    if settings.select_by not in {"auto", *kind.selects}:
        raise RecipeError(
            f"training.select_by={settings.select_by} is no number of {dataset.task}",
            instead=f"Choose one of {', '.join(kind.selects)}.",
        )
    if settings.select_by == "auto" and kind.dense:
        training["select_by"], reasons["training.select_by"] = kind.selects[0], "auto"
    elif settings.select_by == "auto":
        uneven = ratio >= UNEVEN or dataset.multilabel
        training["select_by"] = "macro_f1" if uneven else "accuracy"
        reasons["training.select_by"] = (
            f"auto: the largest class has {ratio:.1f} times the pictures of the smallest"
        )
    settled = recipe.with_values(training=training)
    settled, more = _settle_parts(settled, dataset, start=start)
    settled, views_reason = _settle_views(settled)
    return settled, {**reasons, **more, **views_reason}


def _refuse_misplaced(recipe: Recipe, task: str) -> None:
    """What makes no sense for this task, or is not there for it.

    Raises:
        RecipeError: With everything of the kind.
    """
    whole = {
        "mixing.name": recipe.mixing.name not in {"auto", "none"},
        "transfer.teacher": recipe.transfer.teacher is not None,
        "training.first_size": recipe.training.first_size is not None,
    }
    dense = {"composition.name": recipe.composition.name not in {"auto", "none"}}
    read_goal(recipe.evaluation.goal)
    other = {"evaluation.goal": recipe.evaluation.goal != "f1" and not KINDS[task].thresholds}
    found = [name for name, wished in {**other, **(whole if KINDS[task].dense else dense)}.items() if wished]
    if found:
        raise RecipeError(
            f"{task} does not know these settings",
            causes=found,
            instead="Leave them out.",
        )


def settle_time(
    recipe: Recipe, dataset: Dataset, *, seconds: float, per_image: float, given: bool, cached: bool
) -> tuple[Recipe, float, Reasons]:
    """How many epochs fit into the time that is left.

    Args:
        recipe: Settled otherwise.
        dataset: With its splits.
        seconds: Left of what the user allows.
        per_image: Seconds of a training step, an image.
        given: Whether the user said how many epochs; then later ones may be cut, but nothing is chosen.
        cached: Whether epochs read features of frozen layers.

    Returns:
        The recipe, the seconds that the epochs may take, and why.

    Raises:
        RecipeError: When not even one epoch fits.
    """
    train, val = len(dataset.splits["train"]), len(dataset.splits["val"])
    looked = per_image * LOOKING
    technique = recipe.technique.name
    before = looked * (train + val) if technique in {"lp_ft", "head"} else 0.0
    if cached:
        before += looked * train * max(int(recipe.transfer.views), 1)
    after = looked * len(dataset.splits.get("test", ())) + REPORT_SECONDS
    epoch = OVERHEAD * (looked * (val + WATCHED) + per_image * train)
    if cached:
        epoch *= CACHED_SHARE
    left = (1 - RESERVE) * seconds - before - after
    fitting = int(left / epoch) if epoch else 0
    told = _in_words(recipe.training.minutes)
    if left <= 0 or (fitting < 1 and not given):
        raise RecipeError(
            f"{told} is too short: an epoch of {train:,} pictures takes about {max(epoch, 1):.0f} s here",
            instead="Allow more time, or use a smaller --model, --image-size, or --technique head.",
        )
    wanted = int(recipe.training.epochs)
    if given or fitting >= wanted:
        return recipe, left, {}
    settled = recipe.with_values(training={"epochs": fitting})
    return settled, left, {"training.epochs": f"auto: {fitting} of {wanted} epochs fit into {told}"}


def _in_words(minutes: float) -> str:
    """A length of time as people say it."""
    if minutes < 1:
        return f"{60 * minutes:g} s"
    return "1 minute" if minutes == 1 else f"{minutes:g} minutes"


def _technique(recipe: Recipe, *, pretrained: bool, dense: bool) -> tuple[str, str]:
    """The technique's name, and why."""
    if recipe.technique.name != "auto":
        return recipe.technique.name, ""
    if recipe.transfer.freeze == EVERYTHING_BELOW:
        return "head", "auto: all but the head is frozen"
    if not pretrained:
        return "full", "auto: from scratch"
    if dense:
        return "full", "auto: a head of many layers learns best with those below"
    if recipe.training.preset == "fast":
        return "head", "auto: the quickest way from pretrained weights"
    return "lp_ft", "auto: from pretrained weights"


def _settle_views(recipe: Recipe) -> tuple[Recipe, Reasons]:
    """How many augmented views take turns: new ones every time, unless features of them can be cached."""
    if recipe.transfer.views != "auto":
        return recipe, {}
    frozen = recipe.technique.name == "head" or recipe.transfer.freeze != NOTHING
    varied = recipe.augmentation.preset != "none" and {recipe.mixing.name, recipe.composition.name} == {
        "none"
    }
    enough = int(recipe.training.epochs) >= 2 * TURNS
    views = TURNS if frozen and varied and enough and recipe.transfer.teacher is None else 0
    reason = "auto: so that frozen layers see each of them once" if views else "auto: new ones in every epoch"
    return recipe.with_values(transfer={"views": views}), {"transfer.views": reason}


def _settle_parts(recipe: Recipe, dataset: Dataset, *, start: str) -> tuple[Recipe, Reasons]:
    kind = KINDS[dataset.task]
    technique, why = _technique(recipe, pretrained=start != "none", dense=kind.dense)
    chosen = {
        "technique": technique,
        "loss": kind.loss(recipe.loss.name, dataset.multilabel),
        "optimizer": recipe.optimizer.name if recipe.optimizer.name != "auto" else "adamw",
        "schedule": recipe.schedule.name if recipe.schedule.name != "auto" else "cosine",
        "mixing": recipe.mixing.name if recipe.mixing.name != "auto" else "none",
        "composition": recipe.composition.name if recipe.composition.name != "auto" else "none",
    }
    reasons: Reasons = {}
    mistakes: list[str] = []
    parts: dict[str, Choice] = {}
    gentle = (
        start in PUBLISHED and recipe.optimizer.name == "auto" and technique in {"full", "lp_ft", "gradual"}
    )
    for section, name in chosen.items():
        wanted: Choice = getattr(recipe, section)
        given = {"learning_rate": PUBLISHED_RATE} if gentle and section == "optimizer" else {}
        table = kind.losses if section == "loss" else TABLES[section]
        settings, found = table[name].check({**given, **_said(wanted, section, table[name])}, section)
        mistakes += found
        parts[section] = Choice(name, settings)
        if wanted.name == "auto":
            reasons[f"{section}.name"] = why if section == "technique" else "auto"
    if gentle and "learning_rate" not in recipe.optimizer.settings:
        reasons["optimizer.learning_rate"] = "auto: gentle on weights that have learnt much"
    _check_own_losses(recipe, kind, parts["loss"])
    if mistakes:
        raise RecipeError(
            "some settings do not fit what auto chose",
            causes=mistakes,
            instead="Put them right, or name the part that they belong to, such as --set loss.name=focal.",
        )
    if recipe.transfer.l2_sp and start == "none":
        raise RecipeError(
            f"transfer.l2_sp={recipe.transfer.l2_sp:g} pulls towards pretrained weights, and there are none",
            instead="Leave it at 0, or name weights with --weights.",
        )
    augmentation = {}
    if recipe.augmentation.preset == "auto":
        augmentation["preset"], reasons["augmentation.preset"] = "medium", "auto: for photographs"
    return recipe.with_values(augmentation=augmentation, **parts), reasons


def _said(wanted: Choice, section: str, part: Part[Any]) -> dict[str, Any]:
    """A wish's settings, without those that a part of the same name in another task has brought along."""
    table = TABLES[section]
    usual = table[wanted.name].check({}, section)[0] if wanted.name in table else {}
    return {
        name: value
        for name, value in wanted.settings.items()
        if name in part.settings or usual.get(name) != value
    }


def _check_own_losses(recipe: Recipe, kind: Kind, loss: Choice) -> None:
    """Refuses settings of the loss that the head would not heed.

    Raises:
        RecipeError: When there are any.
    """
    usual = kind.losses[loss.name].check({}, "loss")[0]
    if recipe.training.class_weights != "none" and "class_weights" in kind.own(recipe.model.head):
        raise RecipeError(
            f"training.class_weights: {recipe.model.head} has losses of its own, which know none",
            instead="Leave it out, choose another --head, or draw rare classes more often with "
            "training.sampling=balanced.",
        )
    ignored = {
        name
        for name in kind.own(recipe.model.head) - {"class_weights"}
        if loss.settings.get(name) != usual[name]
    }
    if ignored:
        raise RecipeError(
            f"{recipe.model.head} has losses of its own, and would ignore "
            f"{' and '.join(f'loss.{name}' for name in sorted(ignored))}",
            instead="Leave them out, or choose another --head.",
        )
