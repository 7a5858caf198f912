"""The rules of the house that no linter knows, each as a function from a syntax tree to its breaches."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

MOST_LINES = {ast.Module: 400, ast.ClassDef: 300, ast.FunctionDef: 60, ast.AsyncFunctionDef: 60}
# Modules that turn bytes into objects, and so into code.
UNPACKERS = frozenset("marshal shelve dill cloudpickle joblib jsonpickle".split())
# The one thing anybody may know of pickle is how its errors are called.
HARMLESS_PICKLE = frozenset({"UnpicklingError", "PickleError"})
CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "compile": "makes code of text",
    "__import__": "imports what a text names; importlib.import_module says so openly",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "yaml.load": "makes objects; use yaml.safe_load",
    "yaml.load_all": "makes objects; use yaml.safe_load_all",
    "yaml.unsafe_load": "makes objects; use yaml.safe_load",
    "yaml.full_load": "makes objects; use yaml.safe_load",
    "torch.hub.load": "downloads code and runs it",
    "pandas.read_pickle": "makes objects",
    "shutil.unpack_archive": "writes wherever an archive says",
    "hasattr": "decides by what an object happens to have; ask its type",
}

# Methods of archives that write wherever the archive says.
UNPACKING = frozenset({"extract", "extractall"})

Breaches = list[str]
Rule = Callable[[ast.Module], Breaches]


def too_long(tree: ast.Module) -> Breaches:
    """Functions and classes over their size, docstring and decorators included."""
    return [
        f"{node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := _length(node)) > MOST_LINES[type(node)]
    ]


def _length(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first to the last, without the docstring: words that teach are not a burden."""
    assert node.end_lineno is not None
    first = node.body[0]
    said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno
    docstring = said - first.lineno + 1 if said and isinstance(first.value.value, str) else 0
    return node.end_lineno - node.lineno + 1 - docstring


def unpacked_objects(tree: ast.Module) -> Breaches:
    """Pickle and its kin, whatever they are imported as."""
    breaches = []
    known = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
            if names == {"pickle"} and not {alias.name for alias in node.names} <= HARMLESS_PICKLE:
                breaches.append(f"{node.lineno}: imports from pickle")
        else:
            names = set()
        breaches += [f"{node.lineno}: imports {name}" for name in sorted(names & UNPACKERS)]
        if isinstance(node, ast.Attribute) and _meant(node.value, known) == "pickle":
            breaches += [f"{node.lineno}: pickle.{node.attr}"] * (node.attr not in HARMLESS_PICKLE)
    return breaches


def dangerous_calls(tree: ast.Module) -> Breaches:
    """Calls that run text, start a shell, or make objects of bytes, whatever they are imported as."""
    known = _imported(tree)
    return [
        f"{node.lineno}: {complaint}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for complaint in _complaints(node, known)
    ]


def _complaints(call: ast.Call, known: Mapping[str, str]) -> Iterator[str]:
    name = (_meant(call.func, known) or "").removeprefix("builtins.")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in CALLS:
        yield f"{name} {CALLS[name]}"
    if name == "torch.load" and not _is_true(given.get("weights_only")):
        yield "torch.load without weights_only=True"
    if isinstance(call.func, ast.Attribute) and call.func.attr in UNPACKING:
        yield f"{call.func.attr} writes wherever an archive says"
    if "allow_pickle" in given and not _is_false(given["allow_pickle"]):
        yield "allow_pickle is not False"
    if "shell" in given and not _is_false(given["shell"]):
        yield "shell is not False"
    if "trust_remote_code" in given and not _is_false(given["trust_remote_code"]):
        yield "trust_remote_code is not False"


def swallowed_errors(tree: ast.Module) -> Breaches:
    """``except`` without a type, and handlers or ``suppress`` that lose any error without a word."""
    breaches = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                breaches.append(f"{node.lineno}: except without a type")
            if all(isinstance(line, ast.Pass) or _is_ellipsis(line) for line in node.body):
                breaches.append(f"{node.lineno}: except that does nothing")
        if isinstance(node, ast.Call) and (_dotted(node.func) or "").endswith("suppress"):
            wide = {"Exception", "BaseException"} & {_dotted(argument) for argument in node.args}
            breaches += [f"{node.lineno}: suppresses every {name}" for name in wide]
    return breaches


def _imported(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``import numpy as np`` gives np: numpy."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _meant(node: ast.expr, known: Mapping[str, str]) -> str | None:
    """The same as `_dotted`, but as it is called where it is at home."""
    first, dot, rest = (_dotted(node) or "").partition(".")
    return known.get(first, first) + dot + rest or None


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` for names and attributes of names, None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


RULES: tuple[Rule, ...] = (too_long, unpacked_objects, dangerous_calls, swallowed_errors)
