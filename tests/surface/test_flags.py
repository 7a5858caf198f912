"""The command line's surface: verbs and flags that do not change without a line in CHANGELOG.md."""

from __future__ import annotations

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

import pictune
from pictune.cli import app

FLAGS = {
    "demo": ["--folder", "--task", "--seed", "--json"],
    "audit": ["DATA", "--group-by", "--out", "--follow-outside", "--set", "--json"],
    "train": [
        *["DATA", "--model", "--head", "--weights", "--images", "--image-size", "--epochs", "--batch-size"],
        *[
            "--lr",
            "--augment",
            "--loss",
            "--technique",
            "--freeze",
            "--layer-decay",
            "--rank",
            "--teacher",
            "--preset",
            "--time",
        ],
        *["--no-cache", "--group-by", "--seed", "--set", "--recipe", "--max-bad", "--follow-outside"],
        *["--allow-leaks", "--runs", "--name", "--new", "--json"],
    ],
    "evaluate": ["RUN", "--split", "--data", "--json"],
    "predict": ["RUN", "PICTURES", "--save", "--csv", "--follow-outside", "--json"],
    "export": [
        *["RUN", "--out", "--format", "--int8", "--fp16", "--dynamic-size", "--accept-loss", "--json"],
    ],
    "serve": ["MODELS", "--host", "--port", "--tokens", "--allow-host", "--threads", "--batch"],
    "convert": ["DATA", "OUT", "--to", "--follow-outside", "--set", "--json"],
    "recipe": ["FILE", "--set"],
    "layers": ["MODEL", "--freeze", "--fine", "--json"],
    "cache": ["--older-than", "--keep", "--clear", "--json"],
    "lr-find": [
        *["DATA", "--model", "--weights", "--image-size", "--batch-size", "--technique", "--freeze", "--out"],
        *["--set", "--recipe", "--json"],
    ],
}


def _verbs() -> dict[str, TyperCommand]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


def test_verbs_are_these() -> None:
    assert set(_verbs()) == set(FLAGS)


def test_every_verb_is_there_in_python_under_the_same_name() -> None:
    assert all(callable(getattr(pictune, name.replace("-", "_"))) for name in FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_flags_of_a_verb_are_these(verb: str) -> None:
    shown = [
        parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
        for parameter in _verbs()[verb].params
    ]
    assert shown == FLAGS[verb]


@pytest.mark.parametrize("verb", FLAGS)
def test_every_flag_says_what_it_is_for(verb: str) -> None:
    command = _verbs()[verb]
    assert command.help
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []
