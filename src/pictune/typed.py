"""What was typed, as the verbs want it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pictune.errors import RecipeError


def with_flags(
    settings: list[str] | None,
    *,
    follow_outside: bool,
    max_bad: float | None = None,
    images: Path | None = None,
) -> list[str]:
    """The settings as given, and those that have a flag but no argument of the verb."""
    flags = ["data.follow_outside=true"] if follow_outside else []
    flags += [f"data.max_bad={max_bad}"] if max_bad is not None else []
    flags += [f"data.image_folder={json.dumps(str(images.resolve()))}"] if images is not None else []
    return [*(settings or ()), *flags]


def epochs_of(text: str | None) -> int | str | None:
    """A number of epochs, or +N as it is."""
    if text is None or text == "auto" or text.removeprefix("+").isdecimal():
        return int(text) if text and text.isdecimal() else text
    raise RecipeError(
        f"--epochs {text} is no number of epochs",
        instead="Give a whole number such as 20, or +5 to give a finished run five more.",
    )


def minutes_of(text: str) -> float:
    """A time such as 90s, 10m or 2h, in minutes."""
    unit = {"s": 1 / 60, "m": 1.0, "h": 60.0}.get(text[-1:])
    try:
        minutes = float(text[:-1]) * unit if unit else 0.0
    except ValueError:
        minutes = 0.0
    if minutes <= 0:
        raise RecipeError(f"--time {text} is no length of time", instead="Give it as 90s, 10m or 2h.")
    return minutes


def for_train(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the verb from what was typed: a few are called otherwise there."""
    typed = dict(given)
    epochs, allowed = typed.pop("epochs"), typed.pop("allowed")
    flags = {"follow_outside": typed.pop("follow_outside"), "max_bad": typed.pop("max_bad")}
    flags["images"] = typed.pop("images")
    del typed["as_json"]
    renamed = {
        "settings": with_flags(typed.pop("settings"), **flags),
        "epochs": epochs_of(epochs),
        "learning_rate": typed.pop("lr"),
        "augmentation": typed.pop("augment"),
        "minutes": None if allowed is None else minutes_of(allowed),
        "cache": False if typed.pop("no_cache") else None,
        "allow_leaks": typed.pop("allow_leaks") or None,
    }
    return {**typed, **renamed}


def precision_of(*, int8: bool, fp16: bool) -> str:
    """The precision of an export from its flags.

    Raises:
        RecipeError: When both are given.
    """
    if int8 and fp16:
        raise RecipeError("--int8 and --fp16 exclude each other", instead="Give one of them.")
    return "int8" if int8 else "fp16" if fp16 else "fp32"
