"""The rules of the house, held against every module of src."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import house_rules
import pytest
from house_rules import MOST_LINES, RULES, dangerous_calls, swallowed_errors, too_long, unpacked_objects

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "src" / "pictune").rglob("*.py"))
VAGUE = frozenset("utils util helpers helper common misc base manager managers stuff tools lib".split())


def _named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: house_rules.Rule) -> None:
    trees = {path: ast.parse(path.read_text()) for path in MODULES}
    assert [f"{_named(path)}:{breach}" for path, tree in trees.items() for breach in rule(tree)] == []


def test_no_module_is_too_long() -> None:
    lengths = {_named(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES[ast.Module]} == {}


def test_names_of_modules_and_folders_say_what_is_inside() -> None:
    parts = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert parts & VAGUE == set()
    assert all(re.fullmatch(r"_{0,2}[a-z0-9]+(_[a-z0-9]+)*_{0,2}", part) for part in parts), parts


def test_a_room_imports_only_rooms_below_it() -> None:
    # In a process of its own: import-linter switches off the loggers that exist when it starts.
    call = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_package_has_the_lowest_version_that_will_do() -> None:
    """Without one, an old version with known holes may stay where it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        *project["dependencies"],
        *(name for more in project["optional-dependencies"].values() for name in more),
    ]
    assert [name for name in named if not re.fullmatch(r"[A-Za-z0-9-]+>=[0-9.]+", name)] == []


def test_what_reads_strangers_bytes_is_named_with_a_version() -> None:
    """Not only what brings it along: that one may be content with an older version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name.partition(">=")[0] for name in project["dependencies"]}
    assert named >= set(
        "h11 starlette uvicorn python-multipart pillow opencv-python-headless onnxruntime".split()
    )


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (unpacked_objects, "import pickle\npickle.loads(b'')"),
        (unpacked_objects, "from pickle import Unpickler"),
        (unpacked_objects, "import pickle as harmless\nharmless.loads(b'')"),
        (unpacked_objects, "import joblib"),
        (unpacked_objects, "from joblib.numpy_pickle import load"),
        (dangerous_calls, "eval('1')"),
        (dangerous_calls, "exec('x = 1')"),
        (dangerous_calls, "import yaml\nyaml.load(text, Loader=yaml.Loader)"),
        (dangerous_calls, "torch.load(path)"),
        (dangerous_calls, "torch.load(path, weights_only=False)"),
        (dangerous_calls, "np.load(path, allow_pickle=True)"),
        (dangerous_calls, "np.load(path, allow_pickle=asked)"),
        (dangerous_calls, "subprocess.run('ls', shell=True)"),
        (dangerous_calls, "os.system('ls')"),
        (dangerous_calls, "from os import system as run\nrun('ls')"),
        (dangerous_calls, "import builtins\nbuiltins.eval('1')"),
        (dangerous_calls, "import yaml as y\ny.load(text, y.Loader)"),
        (dangerous_calls, "from torch import load\nload(path)"),
        (dangerous_calls, "zipfile.ZipFile(path).extractall(folder)"),
        (dangerous_calls, "archive.extract(name, folder)"),
        (dangerous_calls, "from shutil import unpack_archive\nunpack_archive(path, folder)"),
        (dangerous_calls, "hasattr(model, 'classes')"),
        (swallowed_errors, "try:\n    x()\nexcept:\n    y()"),
        (swallowed_errors, "try:\n    x()\nexcept ValueError:\n    pass"),
        (swallowed_errors, "try:\n    x()\nexcept ValueError:\n    ..."),
        (swallowed_errors, "with contextlib.suppress(Exception):\n    x()"),
        (too_long, "def long():\n" + "    x = 1\n" * 60),
        (too_long, "class Long:\n" + "    x = 1\n" * 300),
    ],
)
def test_a_breach_is_found(rule: house_rules.Rule, source: str) -> None:
    assert rule(ast.parse(source))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (unpacked_objects, "import pickle\ntry:\n    x()\nexcept pickle.UnpicklingError:\n    y()"),
        (dangerous_calls, "network.eval()\nre.compile('a')"),
        (dangerous_calls, "from re import compile\ncompile('a')"),
        (dangerous_calls, "yaml.safe_load(text)\njson.load(stream)"),
        (dangerous_calls, "torch.load(path, weights_only=True)"),
        (dangerous_calls, "np.load(path, allow_pickle=False)\nnp.load(path, mmap_mode='r')"),
        (swallowed_errors, "try:\n    x()\nexcept ValueError:\n    continue_without(x)"),
        (swallowed_errors, "with contextlib.suppress(FileNotFoundError):\n    x()"),
        (too_long, "def long():\n    '''" + "Said.\n" * 70 + "'''\n" + "    x = 1\n" * 50),
    ],
)
def test_what_is_allowed_is_no_breach(rule: house_rules.Rule, source: str) -> None:
    assert rule(ast.parse(source)) == []
