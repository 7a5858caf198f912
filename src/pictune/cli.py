"""The command line: one subcommand a verb. It parses, calls and prints; it decides nothing.

Results go to stdout (with ``--json`` as one JSON object), everything else to stderr. Heavy libraries
are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pictune.bars import bars
from pictune.errors import PictuneError, RecipeError
from pictune.threads import steady_threads
from pictune.version import __version__

if TYPE_CHECKING:
    from pictune.evaluation.reporting import Report

app = typer.Typer(
    name="pictune",
    help="Fine-tune image models that people can trust: every number has an interval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MaxBad = Annotated[
    float | None,
    typer.Option(help="Share of unusable pictures that stops training, 0 to 1; 0.05 if not given."),
]
FollowOutside = Annotated[bool, typer.Option("--follow-outside", help="Follow links that leave the folder.")]

Data = Annotated[Path, typer.Argument(help="A folder of class folders, or a table of paths and labels.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder, such as runs/latest.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Any setting; all of them: pictune recipe.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def main() -> None:
    """Runs the command line; user errors become one message and an exit code, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what a terminal cannot show
    try:
        app()
    except PictuneError as error:
        typer.echo(f"pictune: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}:
            raise
        typer.echo(f"pictune: {error.filename} cannot be read: {error.strerror}", err=True)
        sys.exit(2)
    except MemoryError:
        typer.echo(
            "pictune: memory ran out; close other programs or use smaller pictures and batches", err=True
        )
        sys.exit(3)
    except KeyboardInterrupt:
        typer.echo("pictune: stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone; there is nobody left to tell
        sys.exit(141)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pictune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _with_flags(
    settings: list[str] | None, *, follow_outside: bool, max_bad: float | None = None
) -> list[str]:
    """The settings as given, and those that have a flag but no argument of the verb."""
    flags = ["data.follow_outside=true"] if follow_outside else []
    flags += [f"data.max_bad={max_bad}"] if max_bad is not None else []
    return [*(settings or ()), *flags]


def _minutes(text: str) -> float:
    """A time such as 90s, 10m or 2h, in minutes."""
    unit = {"s": 1 / 60, "m": 1.0, "h": 60.0}.get(text[-1:])
    try:
        minutes = float(text[:-1]) * unit if unit else 0.0
    except ValueError:
        minutes = 0.0
    if minutes <= 0:
        raise RecipeError(f"--time {text} is no length of time", instead="Give it as 90s, 10m or 2h.")
    return minutes


def _print_json(verb: str, started: float, facts: Mapping[str, Any]) -> None:
    seconds = round(time.monotonic() - started, 2)
    typer.echo(json.dumps({"verb": verb, **facts, "seconds": seconds}, ensure_ascii=True, allow_nan=False))


def _shown(path: Path) -> str:
    """A path as people write it: relative to where they are when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _print_run(verb: str, started: float, run_path: Path, *, as_json: bool) -> None:
    from pictune.evaluation.reporting import Report
    from pictune.run import Run

    run = Run(run_path)
    report = Report.open(run.report(str(run.read("status.json")["report"])))
    _print_report(verb, started, run.path, report, as_json=as_json)


def _print_report(verb: str, started: float, run_path: Path, report: Report, *, as_json: bool) -> None:
    if as_json:
        facts = {"run": _shown(run_path), "report": _shown(report.folder), "metrics": report.metrics}
        _print_json(verb, started, facts)
    else:
        typer.echo(replace(report, folder=Path(_shown(report.folder))).summary())


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Gets the pictures and the run.")] = Path("pictune-demo"),
    seed: Annotated[int, typer.Option(help="Where all randomness starts.")] = 0,
    as_json: Json = False,
) -> None:
    """Train and judge a classifier on digits drawn into photographs; about a minute, no download."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.demo import demo as verb

    with bars() as shown:
        run = verb(folder, seed=seed, watcher=shown, progress=shown.opened)
    _print_run("demo", started, run.path, as_json=as_json)


@app.command()
def audit(
    data: Data,
    group_by: Annotated[
        str | None, typer.Option(help="A column, re:<regular expression>, exif:date, exif:camera.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Gets audit.html and audit.json.")] = Path("audit"),
    follow_outside: FollowOutside = False,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with the data, before any training; change nothing."""
    started = time.monotonic()
    from pictune.verbs.audit import audit as verb

    with bars() as shown:
        chosen = _with_flags(settings, follow_outside=follow_outside)
        result = verb(data, settings=chosen, group_by=group_by, folder=out, progress=shown.opened)
    if as_json:
        _print_json("audit", started, {"report": _shown(result.folder), "audit": result.content})
    else:
        typer.echo(result.summary())


@app.command()
def train(
    data: Annotated[
        Path, typer.Argument(help="A folder of class folders or a table; or a run, to go on with it.")
    ],
    model: Annotated[str | None, typer.Option(help="cnn, resnet9, or any timm backbone.")] = None,
    weights: Annotated[str | None, typer.Option(help="auto, hub, starter, none, or a file.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of what the network sees, pixels.")] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Passes over the pictures; +N extends a finished run.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light, medium or heavy.")] = None,
    loss: Annotated[str | None, typer.Option(help="A loss by name, such as focal.")] = None,
    technique: Annotated[
        str | None, typer.Option(help="Which layers learn: full, head, lp_ft, gradual or lora.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="backbone, a number of groups, a layer or a pattern; pictune layers.")
    ] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Rate of a group of layers beside the one above, 0 to 1.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapters of --technique lora.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="A run whose model is imitated.")] = None,
    preset: Annotated[str | None, typer.Option(help="How long it may take: fast, good or best.")] = None,
    allowed: Annotated[
        str | None,
        typer.Option("--time", metavar="10m", help="Most it may take: 90s, 10m, 2h."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute frozen layers every time.")] = False,
    group_by: Annotated[
        str | None, typer.Option(help="What must stay in one split: a column, re:…, exif:date.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Where all randomness starts.")] = None,
    settings: Settings = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe.")] = None,
    max_bad: MaxBad = None,
    follow_outside: FollowOutside = False,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train even if a picture is in two splits.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="The folder that holds all runs.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Of the new run.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start anew where an unfinished run could go on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model and report how good it is; called again, an unfinished run goes on."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.train import train as verb

    with bars() as shown:
        run = verb(
            data,
            recipe=recipe,
            settings=_with_flags(settings, follow_outside=follow_outside, max_bad=max_bad),
            model=model,
            weights=weights,
            image_size=image_size,
            epochs=int(epochs) if epochs is not None and epochs.isdecimal() else epochs,
            batch_size=batch_size,
            learning_rate=lr,
            augmentation=augment,
            loss=loss,
            technique=technique,
            freeze=freeze,
            layer_decay=layer_decay,
            rank=rank,
            teacher=teacher,
            preset=preset,
            minutes=None if allowed is None else _minutes(allowed),
            cache=False if no_cache else None,
            group_by=group_by,
            seed=seed,
            allow_leaks=True if allow_leaks else None,
            runs=runs,
            name=name,
            new=new,
            watcher=shown,
            progress=shown.opened,
        )
    _print_run("train", started, run.path, as_json=as_json)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str | None, typer.Option(help="test, val or train; test where there is one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Other labelled pictures to judge the model on.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a run's model and write its report."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.evaluate import evaluate as verb

    with bars() as shown:
        report = verb(run, split=split, data=data, progress=shown.opened)
    _print_report("evaluate", started, run.resolve(), report, as_json=as_json)


@app.command()
def predict(
    run: RunFolder,
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    as_json: Json = False,
) -> None:
    """Ask a run's model about pictures."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.predict import predict as verb

    result = verb(run, *pictures)
    if as_json:
        facts = {"run": _shown(run.resolve()), "predictions": result.rows(), "unreadable": result.unreadable}
        _print_json("predict", started, facts)
    else:
        typer.echo(result.summary())


@app.command()
def recipe(
    file: Annotated[Path | None, typer.Argument(help="A YAML recipe to complete and check.")] = None,
    settings: Settings = None,
) -> None:
    """Print every setting with its meaning, range and default."""
    from pictune.verbs.recipe import recipe as verb

    typer.echo(verb(file, settings=settings or ()), nl=False)


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="A network, such as resnet50.")],
    freeze: Annotated[str, typer.Option(help="What to show as frozen.")] = "none",
    fine: Annotated[bool, typer.Option("--fine", help="Blocks instead of stages.")] = False,
    as_json: Json = False,
) -> None:
    """Show a network's groups of layers, and what a setting would train."""
    started = time.monotonic()
    from pictune.verbs.layers import layers as verb

    result = verb(model, freeze=freeze, fine=fine)
    if as_json:
        _print_json("layers", started, {"model": model, "groups": result.rows()})
    else:
        typer.echo(result.summary())


@app.command()
def cache(
    older_than: Annotated[
        float | None, typer.Option(help="Remove what was not used for so many days.")
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Remove the oldest until so many GB are left.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: Json = False,
) -> None:
    """List or tidy up what was computed once: decoded pictures and features of frozen layers."""
    started = time.monotonic()
    from pictune.verbs.cache import cache as verb

    result = verb(older_than=older_than, keep=keep, clear=clear)
    if as_json:
        _print_json("cache", started, {"entries": result.rows()})
    else:
        typer.echo(result.summary())
