"""`pictune recipe`: the whole documented recipe, or a recipe checked."""

from __future__ import annotations

import yaml
from asking import ask

from pictune.recipes import Recipe, read_recipe
from pictune.verbs.recipe import recipe
from pictune.verbs.tables import TABLES

MISTAKEN = """
model: {nam: resnet50}
trainin: {epochs: 3}
loss: {name: focl}
optimizer: {name: sgd, momentun: 0.9}
training: {epochs: -1}
"""


def test_defaults_are_printed_with_their_meaning_and_can_be_read_back() -> None:
    answer = ask("recipe")
    assert answer.code == 0
    assert answer.err == ""
    assert read_recipe(yaml.safe_load(answer.out), TABLES) == Recipe()
    assert "# passes over the training pictures" in answer.out
    assert answer.out == recipe()


def test_a_recipe_of_yours_is_completed(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training: {epochs: 7}\nloss: {name: focal}\n")
    answer = ask("recipe", file, "--set", "loss.gamma=3")
    read = yaml.safe_load(answer.out)
    assert (read["training"]["epochs"], read["loss"]["name"], read["loss"]["gamma"]) == (7, "focal", 3)
    assert read["model"]["fit"] == "auto"


def test_five_mistakes_are_five_lines_with_suggestions(tmp_path) -> None:
    file = tmp_path / "mistaken.yaml"
    file.write_text(MISTAKEN)
    for words in (["recipe", file], ["train", tmp_path, "--recipe", file]):
        answer = ask(*words)
        assert answer.code == 2
        assert answer.out == ""
        assert answer.err.startswith("pictune: the recipe has 5 mistakes\n")
        lines = [line for line in answer.err.split("\n") if line.startswith("  - ")]
        assert len(lines) == 5
        near = ("name", "training", "focal", "momentum")
        assert all(any(f"did you mean {word}?" in line for line in lines) for word in near)
        assert any("at least 1" in line for line in lines)


def test_an_absent_recipe(tmp_path) -> None:
    answer = ask("recipe", tmp_path / "absent.yaml")
    assert answer.code == 2
    assert "absent.yaml" in answer.err
