"""Recipes as text: documented YAML out, plain YAML and ``a.b=c`` in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from pictune.errors import RecipeError
from pictune.recipe_sections import Choice
from pictune.recipes import Recipe, Tables, settings_of

COLUMN = 44


def load_yaml(path: Path) -> dict[str, Any]:
    """The nested values of a YAML file.

    Raises:
        RecipeError: When the file is absent, is not YAML (with line and column) or holds no settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value, repeated = yaml.safe_load(text), list(_repeated(yaml.compose(text, yaml.SafeLoader)))
    except OSError as error:
        raise RecipeError(f"there is no recipe at {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{path.name} is not readable YAML{where}") from None
    if repeated:
        raise RecipeError(f"{path.name} gives some settings twice", causes=repeated)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(f"{path.name} holds no settings, found {type(value).__name__}")
    return value


def _repeated(node: yaml.Node | None, where: str = "") -> Iterator[str]:
    """Settings that stand twice in one mapping; YAML itself would take the last one without a word."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        path = f"{where}{key.value}"
        if path in seen:
            yield f"{path}, again in line {key.start_mark.line + 1}"
        seen.add(path)
        yield from _repeated(value, f"{path}.")


def dump_yaml(recipe: Recipe, tables: Tables, *, reasons: Mapping[str, str] | None = None) -> str:
    """A recipe as YAML, every setting with its meaning and range as a comment.

    Args:
        recipe: What to write.
        tables: The tables of parts, for the names that could be chosen.
        reasons: For ``section.setting``, why this value was chosen; written behind the value.
    """
    reasons = reasons or {}
    lines: list[str] = []
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        lines += ["" if lines else "# Pictune recipe: every setting of a run.", f"{item.name}:"]
        if isinstance(value, Choice):
            lines += _choice_lines(item.name, value, tables, reasons)
            continue
        for name, (_, setting, _) in settings_of(type(value)).items():
            current = getattr(value, name)
            bounds = setting.range_text()
            note = reasons.get(f"{item.name}.{name}") or setting.help + (f" [{bounds}]" if bounds else "")
            lines.append(_line(name, current, note))
    return "\n".join(lines) + "\n"


def _choice_lines(section: str, choice: Choice, tables: Tables, reasons: Mapping[str, str]) -> list[str]:
    table = tables[section]
    names = " | ".join(["auto", *table])
    lines = [_line("name", choice.name, reasons.get(f"{section}.name") or names)]
    if choice.name == "auto":
        return [*lines, *(_line(name, value, "") for name, value in choice.settings.items())]
    for name, (_, setting, default) in table[choice.name].settings.items():
        bounds = setting.range_text()
        note = reasons.get(f"{section}.{name}") or setting.help + (f" [{bounds}]" if bounds else "")
        lines.append(_line(name, choice.settings.get(name, default), note))
    return lines


def _line(name: str, value: object, note: str) -> str:
    plain = (
        [dict(v) if isinstance(v, Mapping) else v for v in value]
        if isinstance(value, tuple | list)
        else value
    )
    text = (
        yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    )
    line = f"  {name}: {text}"
    return f"{line:<{COLUMN}} # {note}" if note else line


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turns ``a.b=c`` texts into nested values; the right side is read as YAML.

    Raises:
        RecipeError: With every text that is no assignment and every setting given twice.
    """
    nested: dict[str, Any] = {}
    mistakes = []
    for text in assignments:
        path, equals, value = text.partition("=")
        section, dot, key = path.strip().partition(".")
        if not equals or not dot or not key:
            mistakes.append(f"{text!r} is not of the form section.setting=value")
            continue
        read = _read_value(value)
        values = nested.setdefault(section, {})
        if key in values and values[key] != read:
            mistakes.append(f"{path}: given twice, as {values[key]!r} and as {read!r}")
        values[key] = read
    if mistakes:
        raise RecipeError("some settings could not be understood", causes=mistakes)
    return nested


def _read_value(text: str) -> Any:
    """The value that a text means: a number, yes or no, a list in brackets, else the text itself.

    YAML reads ``|`` as an empty block, ``#`` as nothing and ``re: x`` as a mapping; typed behind an
    equals sign they are meant as they stand.
    """
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    bare = text.strip()
    if isinstance(read, Mapping | list | str) and bare[:1] not in tuple("[{'\""):
        return bare
    return (bare or text) if read is None and bare.lower() not in {"null", "~"} else read
