"""Recipes: all mistakes at once, YAML there and back, and values that are never overridden."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.cli import main
from pictune.errors import RecipeError
from pictune.recipe_sections import Choice
from pictune.recipe_text import dump_yaml, load_yaml, parse_assignments
from pictune.recipes import Recipe, merge, read_recipe, settings_of
from pictune.verbs.recipe import parse
from pictune.verbs.recipe import recipe as print_recipe
from pictune.verbs.tables import TABLES

FIVE = [
    "trainig.epochs=3",
    "training.epoch=3",
    "training.batch_size=many",
    "split.val=0.9",
    "loss.name=fokal",
]


def mistakes(given) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        read_recipe(given, TABLES)
    return list(caught.value.causes)


# ---------------------------------------------------------------- mistakes


def test_five_mistakes_come_in_one_error_each_with_a_way_out():
    found = mistakes(parse_assignments(FIVE))
    assert found == [
        "trainig: there is no such section (did you mean training?)",
        "training.epoch: there is no such setting (did you mean epochs?)",
        found[2],
        "split.val: must be at most 0.5, found 0.9",
        "loss.name: there is no loss called 'fokal' (did you mean focal?)",
    ]
    assert found[2].startswith("training.batch_size: should be a valid integer")
    assert found[2].endswith("found 'many'")


def test_five_mistakes_on_the_command_line_are_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys):
    words = [word for mistake in FIVE for word in ("--set", mistake)]
    monkeypatch.setattr("sys.argv", ["pictune", "train", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pictune: the recipe has 5 mistakes\n")
    assert len([line for line in err.splitlines() if line.startswith("  - ")]) == 5
    assert "did you mean training?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"training": 3}, "training: must hold settings, found 3"),
        ({"training": None}, "training: must hold settings, found None"),
        ({3: {}}, "3: there is no such section"),
        ({"training": {True: 1}}, "training.True: there is no such setting"),
        ({"loss": {7: 1}}, "loss.7: there is no such setting"),
        ({"loss": {"name": "focal", 7: 1}}, "loss.7: focal has no such setting"),
        ({"loss": {"name": None}}, "loss.name: there is no loss called None"),
        ({"loss": {"name": ["focal"]}}, "loss.name: there is no loss called ['focal']"),
        ({"loss": {"gama": 1}}, "loss.gama: there is no such setting (did you mean gamma?)"),
        ({"loss": {"name": "focal", "gamma": 99}}, "loss.gamma: must be at most"),
        ({"epochs": 3}, "epochs: there is no such section (did you mean training.epochs?)"),
        ({"training": {"epochs": 0}}, "training.epochs: must be at least 1, found 0"),
        ({"training": {"ema": float("nan")}}, "training.ema: must be a finite number"),
        ({"training": {"select_by": "acuracy"}}, "did you mean accuracy?"),
        ({"augmentation": {"preset": "custom"}}, "custom needs at least one step"),
        ({"augmentation": {"preset": "light", "steps": [{"name": "rotation"}]}}, "contradicts"),
        ({"augmentation": {"preset": "custom", "steps": [{"name": "rotate"}]}}, "did you mean rotation?"),
        ({"augmentation": {"preset": "custom", "steps": [{"degrees": 3}]}}, "no step called None"),
        (
            {"augmentation": {"preset": "custom", "steps": [{"name": "rotation", "degrees": "x"}]}},
            "augmentation.steps[0].degrees",
        ),
    ],
)
def test_every_mistake_names_its_place(given, words):
    found = mistakes(given)
    assert len(found) == 1
    assert words in found[0]


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2)
)
keys = st.one_of(st.text(max_size=8), st.integers(), st.sampled_from(["name", "epochs", "gamma", "steps"]))
sections = st.one_of(st.sampled_from([item.name for item in fields(Recipe)]), keys)


@given(st.dictionaries(sections, st.one_of(scalars, st.dictionaries(keys, scalars, max_size=3)), max_size=4))
def test_whatever_stands_in_a_file_gives_a_recipe_or_a_recipe_error(given):
    try:
        read_recipe(given, TABLES)
    except RecipeError as error:
        assert error.causes  # noqa: PT017 - both outcomes are right


# ---------------------------------------------------------------- the default, and there and back


def test_the_printed_default_is_the_default(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(print_recipe(), encoding="utf-8")
    assert read_recipe(load_yaml(path), TABLES) == Recipe()


def test_the_printed_default_documents_every_setting():
    lines = print_recipe().splitlines()
    for section in fields(Recipe):
        start = lines.index(f"{section.name}:") + 1
        shown = {line.split(":")[0].strip(): line for line in reversed(lines[start:])}
        value = getattr(Recipe(), section.name)
        if not isinstance(value, Choice):
            for name, (_, setting, _) in settings_of(type(value)).items():
                assert setting.help in shown[name]
                assert setting.range_text() in shown[name]


@pytest.mark.parametrize("section", ["loss", "optimizer", "schedule", "mixing"])
def test_every_part_prints_all_its_settings_and_is_read_back(tmp_path, section):
    for name, part in TABLES[section].items():
        text = print_recipe(settings=[f"{section}.name={name}"])
        written = yaml.safe_load(text)[section]
        assert written["name"] == name
        assert set(written) == {"name", *part.settings}
        for setting_name, (_, setting, _) in part.settings.items():
            assert any(
                line.strip().startswith(f"{setting_name}:") and setting.help in line
                for line in text.splitlines()
            )
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        assert dump_yaml(read_recipe(load_yaml(path), TABLES), TABLES) == text


def test_reasons_stand_behind_the_values_they_explain():
    text = dump_yaml(Recipe(), TABLES, reasons={"training.epochs": "auto: because", "loss.name": "for you"})
    assert any("epochs: auto" in line and "# auto: because" in line for line in text.splitlines())
    assert any("name: auto" in line and "# for you" in line for line in text.splitlines())


printable = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12
) | st.sampled_from(
    ["|", "#", ": ", "a\nb", "\t", "null", "yes", "1", "'", '"', "- x", "\u2028", "é #x", "~", " "]
)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {},
            optional={
                "label_separator": st.none() | printable,
                "group_by": st.none() | printable,
                "max_bad": st.floats(0, 1),
                "value_range": st.none() | st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)),
                "allow_leaks": st.booleans(),
            },
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.just("auto") | st.integers(1, 10**6),
                "clip": st.floats(0, 1e30),
                "ema": st.floats(0, 0.99999),
                "checkpoint_minutes": st.floats(1e-300, 1e300),
            },
        ),
        "loss": st.fixed_dictionaries({"name": st.just("focal")}, optional={"gamma": st.floats(0, 5)}),
        "schedule": st.fixed_dictionaries(
            {"name": st.just("multistep")},
            optional={"milestones": st.lists(st.floats(0.001, 1), max_size=4)},
        ),
        "augmentation": st.fixed_dictionaries(
            {
                "preset": st.just("custom"),
                "steps": st.lists(
                    st.fixed_dictionaries({"name": st.just("rotation"), "degrees": st.floats(0.1, 90)}),
                    min_size=1,
                    max_size=3,
                ),
            }
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(given=recipes)
def test_any_recipe_is_read_back_as_it_was_written(tmp_path_factory, given):
    recipe = read_recipe(given, TABLES)
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(dump_yaml(recipe, TABLES), encoding="utf-8")
    again = read_recipe(load_yaml(path), TABLES)
    assert again.to_dict() == {
        **recipe.to_dict(),
        # A part left to auto and a part with its defaults are told apart by their names alone.
        **{
            name: again.to_dict()[name]
            for name in ("loss", "optimizer", "schedule", "mixing")
            if name not in given
        },
    }


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training:\n  epochs: [3\n", "line 3, column 1"),
        ("- epochs\n", "holds no settings, found list"),
        ("just words", "holds no settings, found str"),
        ("a: !!python/object:os.system {}\n", "not readable YAML, line 1"),
        ("training:\n  epochs: 3\n  epochs: 4\n", "training.epochs, again in line 3"),
        ("training: {epochs: 3}\ntraining: {ema: 0}\n", "training, again in line 2"),
    ],
)
def test_a_broken_file_is_explained(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_yaml(path)
    assert words in str(caught.value)


def test_no_file_a_folder_and_bytes_are_no_recipes(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00a")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "bytes.yaml"):
        with pytest.raises(RecipeError):
            load_yaml(path)


def test_an_empty_file_changes_nothing(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing\n")
    assert load_yaml(path) == {}


# ---------------------------------------------------------------- assignments and flags


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.label_separator=|", "|"),
        ("data.label_separator=#", "#"),
        ("data.label_separator=;", ";"),
        ("data.label_separator= ", " "),
        ("data.label_separator=", ""),
        ("data.group_by=re:^(\\d+)_.*=x: y", "re:^(\\d+)_.*=x: y"),
        ("data.group_by=null", None),
        ("training.epochs=7", 7),
        ("training.ema=1e-3", "1e-3"),
        ("split.near_duplicates=no", False),
        ("data.value_range=[0, 1]", [0, 1]),
        ("model.name='cnn'", "cnn"),
    ],
)
def test_what_stands_behind_the_equals_sign(text, value):
    section, _, key = text.partition("=")[0].partition(".")
    assert parse_assignments([text]) == {section: {key: value}}


def test_texts_that_are_no_assignments_come_together():
    with pytest.raises(RecipeError) as caught:
        parse_assignments(["epochs", "epochs=3", "training.=3", "training.epochs=3", "training.epochs=4"])
    assert len(caught.value.causes) == 4
    assert "given twice, as 3 and as 4" in caught.value.causes[-1]


def test_the_same_value_twice_is_no_conflict():
    assert parse_assignments(["training.epochs=3", "training.epochs=3"]) == {"training": {"epochs": 3}}
    joined = merge({"training": {"epochs": 3}}, {"training": {"epochs": 3, "ema": 0}}, names=("a", "b"))
    assert joined == {"training": {"epochs": 3, "ema": 0}}


def test_a_flag_and_an_assignment_that_contradict_are_an_error():
    with pytest.raises(RecipeError) as caught:
        parse(
            None,
            assignments=["training.epochs=6", "model.name=resnet18"],
            flags={"training.epochs": 5, "model.name": "cnn", "training.seed": None},
        )
    assert caught.value.causes == (
        "training.epochs: 5 by a flag, 6 by --set",
        "model.name: 'cnn' by a flag, 'resnet18' by --set",
    )


def test_a_typed_value_goes_before_the_files(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {epochs: 3, ema: 0.5}\nloss: {name: focal, gamma: 1.5}\n")
    read = parse(path, assignments=["training.epochs=6"], flags={"loss.name": "cross_entropy"})
    assert (read.training.epochs, read.training.ema) == (6, 0.5)
    assert read.loss.name == "cross_entropy"
    assert "gamma" not in read.loss.settings
    same = parse(path, assignments=[], flags={"loss.name": "focal"})
    assert same.loss.settings["gamma"] == 1.5


def test_a_recipe_is_frozen_and_its_copy_changed():
    recipe = Recipe()
    changed = recipe.with_values(training={"epochs": 3}, loss=Choice("focal", {"gamma": 1.0}))
    assert recipe == Recipe()
    assert changed.training.epochs == 3
    assert changed.to_dict()["loss"] == {"name": "focal", "gamma": 1.0}
    with pytest.raises(AttributeError):
        recipe.training.epochs = 3
