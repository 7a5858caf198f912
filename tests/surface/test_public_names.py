"""What a newcomer meets: `import pictune`, its names, and what is loaded for them."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pictune

NAMES = """
    ArtifactError Boxes ClassMap Client DataError Dataset DivergedError InputError Labels MachineError Mask
    Model PictuneError Prediction Recipe RecipeError Run RunError Sample ServerError StoppedError Task
    WeightsError __version__
    audit cache convert demo evaluate export layers lr_find predict recipe serve train
""".split()
# None of these is needed to say what pictune can do. (Typer loads pydantic for itself where it is there.)
HEAVY = frozenset(
    "torch torchvision timm pandas numpy scipy sklearn cv2 PIL matplotlib accelerate safetensors "
    "huggingface_hub jinja2".split()
)


def test_public_names_are_these() -> None:
    assert sorted(pictune.__all__) == sorted(NAMES)
    assert dir(pictune) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(pictune, name)
    if name == "__version__":
        assert value[0].isdigit()
    else:
        assert value.__name__ == name
        assert inspect.getdoc(value)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        pictune.fine_tune  # noqa: B018 - reading it is the test


def test_type_checkers_see_the_names_where_they_are() -> None:
    tree = ast.parse(Path(inspect.getfile(pictune)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"pictune.{home}" for name, home in pictune._HOMES.items()}
    assert seen == homes
    assert {*homes, "__version__"} == set(pictune.__all__)


def _loaded(code: str) -> set[str]:
    """Modules that a new process has loaded after some code."""
    ending = "\nimport json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def test_importing_pictune_loads_only_itself() -> None:
    loaded = {name for name in _loaded("import pictune") if name.split(".")[0] == "pictune"}
    assert loaded == {"pictune", "pictune.version"}


@pytest.mark.parametrize(
    "code",
    [
        "import pictune",
        "import pictune; pictune.DataError, pictune.Run, pictune.Sample",
        *(
            f"import sys; sys.argv = ['pictune', {words}]\n"
            "from pictune.cli import main\n"
            "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code"
            for words in ("'--help'", "'--version'", "'train', '--help'", "'predict', '--help'")
        ),
    ],
)
def test_nothing_heavy_is_loaded_before_work_begins(code: str) -> None:
    assert {name.split(".")[0] for name in _loaded(code)} & HEAVY == set()


def test_a_recipe_is_loaded_without_torch() -> None:
    loaded = {name.split(".")[0] for name in _loaded("import pictune; pictune.Recipe")}
    assert loaded & HEAVY == set()
