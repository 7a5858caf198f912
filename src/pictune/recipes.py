"""The recipe: every setting that decides a run, declared once.

A recipe is read from YAML, from ``--set a.b=c`` and from Python alike; all mistakes come in one
`RecipeError`, each with the nearest known name. ``auto`` is a value like any other: the verb
resolves it, writes the answer into the run's ``recipe.yaml`` and the reason into ``made_by.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, cast, get_type_hints

from pictune.errors import RecipeError
from pictune.recipe_sections import (
    AugmentationSection,
    Choice,
    DataSection,
    EvaluationSection,
    ModelSection,
    SplitSection,
    TrainingSection,
    TransferSection,
)
from pictune.settings import Parts, Setting, check_value, setting_of, suggestion

Tables = Mapping[str, Parts[Any]]


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
    composition: Choice = field(default_factory=Choice)
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
            ``schedule``, ``mixing``, ``composition``) and the augmentation steps under ``augmentation``.

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
