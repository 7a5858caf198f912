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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pictune.errors import PictuneError
from pictune.threads import steady_threads
from pictune.version import __version__

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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


def _print_json(verb: str, started: float, facts: Mapping[str, Any]) -> None:
    seconds = round(time.monotonic() - started, 2)
    typer.echo(json.dumps({"verb": verb, **facts, "seconds": seconds}, ensure_ascii=True, allow_nan=False))


def _shown(path: Path) -> str:
    """A path as people write it: relative to where they are when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class _Bars:
    """Shows work as progress bars on stderr, and one line an epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._opening: TaskID | None = None

    def opened(self, done: int, total: int) -> None:
        if self._opening is None:
            self._opening = self._progress.add_task("opening pictures", total=total)
        self._progress.update(self._opening, completed=done, visible=done < total)

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        text = f"epoch {epoch + 1}/{epochs}  loss {loss:.3f}"
        if self._bar is None:
            self._bar = self._progress.add_task(text, total=epochs * steps)
        self._progress.update(self._bar, completed=epoch * steps + step, description=text)

    def epoch(self, facts: Mapping[str, Any]) -> None:
        star = "  best so far" if facts["best"] else ""
        self._progress.console.print(
            f"epoch {facts['epoch']:>3}  loss {facts['train_loss']:.4f}  validation accuracy "
            f"{facts['val_accuracy']:.4f}  macro F1 {facts['val_macro_f1']:.4f}{star}",
            highlight=False,
        )

    def say(self, sentence: str) -> None:
        self._progress.console.print(sentence, highlight=False, markup=False)


@contextmanager
def _bars() -> Iterator[_Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # In a file or a pipe a bar is only noise; the sentences and the lines of the epochs are not
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Bars(progress)


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

    with _bars() as bars:
        run = verb(folder, seed=seed, watcher=bars, progress=bars.opened)
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

    with _bars() as bars:
        chosen = _with_flags(settings, follow_outside=follow_outside)
        result = verb(data, settings=chosen, group_by=group_by, folder=out, progress=bars.opened)
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
    weights: Annotated[str | None, typer.Option(help="auto, hub, none, or a file.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of what the network sees, pixels.")] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Passes over the pictures; +N extends a finished run.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light, medium or heavy.")] = None,
    loss: Annotated[str | None, typer.Option(help="A loss by name, such as focal.")] = None,
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

    with _bars() as bars:
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
            group_by=group_by,
            seed=seed,
            allow_leaks=True if allow_leaks else None,
            runs=runs,
            name=name,
            new=new,
            watcher=bars,
            progress=bars.opened,
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

    with _bars() as bars:
        report = verb(run, split=split, data=data, progress=bars.opened)
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
