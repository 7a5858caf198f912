"""What README and docs/ show must exist: verbs, flags, settings, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from pictune.cli import app
from pictune.recipe_text import parse_assignments
from pictune.recipes import Recipe, read_recipe
from pictune.verbs.tables import TABLES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
WEB = re.compile(r"https?://", re.IGNORECASE)


def _blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of pictune in a page's shell blocks, with its page."""
    for page in PAGES:
        for language, text in _blocks(page):
            lines = text.replace("\\\n", " ").splitlines() if language == "bash" else []
            calls = [shlex.split(line, comments=True) for line in lines]
            yield from (
                (page.name, words[1:]) for words in calls if words and Path(words[0]).name == "pictune"
            )


COMMANDS = list(_commands())


def test_pages_show_commands() -> None:
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_command_of_a_page_exists(page: str, words: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    verb, *rest = words
    if verb.startswith("--"):
        assert verb in {"--help", "--version"}
        return
    known = {flag for parameter in group.commands[verb].params for flag in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("--")} <= known, page


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_settings_of_a_page_are_accepted(page: str, words: list[str]) -> None:
    given = [value for flag, value in pairwise(words) if flag == "--set"]
    assert read_recipe(parse_assignments(given), TABLES), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_of_a_page_are_accepted(page: Path) -> None:
    for language, text in _blocks(page):
        assert language != "yaml" or isinstance(read_recipe(yaml.safe_load(text), TABLES), Recipe)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    absent = [t for t in targets if not WEB.match(t) and not (page.parent / t).exists()]
    assert absent == []
