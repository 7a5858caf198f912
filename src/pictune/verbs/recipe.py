"""`recipe`: every setting with its meaning, its range and its default; or a recipe checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pictune.recipe_text import dump_yaml, load_yaml, parse_assignments
from pictune.recipes import Recipe, merge, read_recipe
from pictune.verbs.tables import TABLES


def given_settings(
    *, file: Path | str | None, assignments: Sequence[str], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Joins what the user gave in a file, by ``--set`` and by short flags.

    A flag or ``--set`` may override a file, because both are given with the file in view; a flag and
    a ``--set`` that contradict one another are an error.

    Args:
        file: A YAML recipe.
        assignments: Texts such as ``loss.gamma=2``.
        flags: Values by ``section.setting``; None means not given.

    Raises:
        RecipeError: When something cannot be read, or two values contradict.
    """
    short: dict[str, Any] = {}
    for path, value in flags.items():
        if value is not None:
            section, _, key = path.partition(".")
            short.setdefault(section, {})[key] = value
    typed = merge(short, parse_assignments(assignments), names=("a flag", "--set"))
    given = load_yaml(Path(file)) if file is not None else {}
    for section, values in typed.items():
        below = given.get(section)
        renamed = isinstance(below, dict) and "name" in values and values["name"] != below.get("name")
        # Another part has other settings: those of the file's part would only be mistakes.
        given[section] = {**below, **values} if isinstance(below, dict) and not renamed else values
    return given


def recipe(file: Path | str | None = None, *, settings: Sequence[str] = ()) -> str:
    """The whole documented recipe as YAML: the defaults, or a recipe of yours completed.

    Args:
        file: A YAML recipe to complete and check; None for the defaults.
        settings: Texts such as ``loss.name=focal``.

    Raises:
        RecipeError: With every mistake.
    """
    read = read_recipe(given_settings(file=file, assignments=settings, flags={}), TABLES)
    return dump_yaml(read, TABLES)


def parse(file: Path | str | None, *, assignments: Sequence[str], flags: Mapping[str, Any]) -> Recipe:
    """The checked recipe from everything the user gave."""
    return read_recipe(given_settings(file=file, assignments=assignments, flags=flags), TABLES)
