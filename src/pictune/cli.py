"""The command line: one subcommand a verb. It parses, calls and prints; it decides nothing.

Results go to stdout (with ``--json`` as one JSON object), everything else to stderr. Heavy libraries
are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pictune import options
from pictune.bars import bars
from pictune.endings import endings
from pictune.printing import print_json, print_report, print_run, shown_path
from pictune.threads import steady_threads
from pictune.typed import for_train, precision_of, with_flags
from pictune.version import __version__

app = typer.Typer(
    name="pictune",
    help="Fine-tune image models that people can trust: every number has an interval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Runs the command line; user errors become one message and an exit code, without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what a terminal cannot show
    with endings():
        app()


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


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Gets the pictures and the run.")] = Path("pictune-demo"),
    task: Annotated[
        str, typer.Option(help="What is learnt: classification, detection or segmentation.")
    ] = "classification",
    seed: Annotated[int, typer.Option(help="Where all randomness starts.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Train and judge a model on digits drawn into photographs; about a minute, no download."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.demo import demo as verb

    with bars() as shown:
        run = verb(folder, task=task, seed=seed, watcher=shown, progress=shown.opened)
    print_run("demo", started, run.path, as_json=as_json)


@app.command()
def audit(
    data: options.Data,
    group_by: options.GroupBy = None,
    out: Annotated[Path, typer.Option(help="Gets audit.html and audit.json.")] = Path("audit"),
    follow_outside: options.FollowOutside = False,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Say what is wrong with the data, before any training; change nothing."""
    started = time.monotonic()
    from pictune.verbs.audit import audit as verb

    with bars() as shown:
        chosen = with_flags(settings, follow_outside=follow_outside)
        result = verb(data, settings=chosen, group_by=group_by, folder=out, progress=shown.opened)
    if as_json:
        print_json("audit", started, {"report": shown_path(result.folder), "audit": result.content})
    else:
        typer.echo(result.summary())


@app.command()
def train(
    context: typer.Context,
    data: options.DataOrRun,
    model: options.Network = None,
    head: options.Head = None,
    weights: options.Weights = None,
    images: options.Images = None,
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.Rate = None,
    augment: options.Augment = None,
    loss: options.Loss = None,
    technique: options.Technique = None,
    freeze: options.Freeze = None,
    layer_decay: options.LayerDecay = None,
    rank: options.Rank = None,
    teacher: options.Teacher = None,
    preset: options.Preset = None,
    allowed: options.Allowed = None,
    no_cache: options.NoCache = False,
    group_by: options.GroupBy = None,
    seed: options.Seed = None,
    settings: options.Settings = None,
    recipe: options.RecipeFile = None,
    max_bad: options.MaxBad = None,
    follow_outside: options.FollowOutside = False,
    allow_leaks: options.AllowLeaks = False,
    runs: options.Runs = Path("runs"),
    name: options.Name = None,
    new: options.New = False,
    as_json: options.Json = False,
) -> None:
    """Fine-tune a model and report how good it is; called again, an unfinished run goes on."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.train import train as verb

    # They all go on as they came, so they are taken together and not named a second time.
    given = for_train(context.params)
    with bars() as shown:
        run = verb(**given, watcher=shown, progress=shown.opened)
    print_run("train", started, run.path, as_json=as_json)


@app.command()
def evaluate(
    run: options.RunFolder,
    split: Annotated[str | None, typer.Option(help="test, val or train; test where there is one.")] = None,
    data: Annotated[
        Path | None, typer.Option(readable=False, help="Other labelled pictures to judge the model on.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Judge a run's model and write its report."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.evaluate import evaluate as verb

    with bars() as shown:
        report = verb(run, split=split, data=data, progress=shown.opened)
    print_report("evaluate", started, run.resolve(), report, as_json=as_json)


@app.command()
def predict(
    run: options.RunOrExport,
    pictures: Annotated[
        list[Path], typer.Argument(readable=False, help="Pictures, and folders of pictures.")
    ],
    save: Annotated[
        Path | None, typer.Option(help="A folder for pictures with boxes or masks drawn on them.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A table for all answers.")] = None,
    follow_outside: options.FollowOutside = False,
    as_json: options.Json = False,
) -> None:
    """Ask a run's model, or an exported one, about pictures."""
    started = time.monotonic()
    from pictune.exporting.artifact import is_artifact

    exported = is_artifact(run)
    if not exported:  # an exported model needs no PyTorch
        steady_threads()
    from pictune.verbs.predict import predict as verb

    result = verb(run, *pictures, save=save, csv=csv, follow_outside=follow_outside)
    if as_json:
        facts = {
            "model" if exported else "run": shown_path(run.resolve()),
            "predictions": result.rows(),
            "unreadable": result.unreadable,
            "ignored": result.ignored,
        }
        facts |= {"drawn": [shown_path(path) for path in result.drawn]} if save else {}
        facts |= {"table": shown_path(result.table)} if result.table else {}
        print_json("predict", started, facts)
    else:
        typer.echo(result.summary())


@app.command()
def export(
    run: options.RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="A file that ends in .pictune, or a new folder; exports/NAME.pictune.")
    ] = None,
    format_name: Annotated[str, typer.Option("--format", help="onnx, openvino or torch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers: smaller and quicker.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="16-bit floats: half the size.")] = False,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="A network that takes any size, for other programs.")
    ] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Write it even if it does worse; its card says so.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a run's model as a file that needs no PyTorch, if it answers as the run does."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.export import export as verb

    with bars() as shown:
        result = verb(
            run,
            out=out,
            format=format_name,
            precision=precision_of(int8=int8, fp16=fp16),
            dynamic_size=dynamic_size,
            accept_loss=accept_loss,
            progress=shown.opened,
        )
    if as_json:
        facts = {"run": shown_path(run.resolve()), "artifact": shown_path(result.path.resolve())}
        print_json("export", started, {**facts, **result.rows()})
    else:
        typer.echo(result.summary())


@app.command()
def serve(
    models: Annotated[
        list[Path], typer.Argument(readable=False, help="Exported models or runs, each a path or name=path.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; beyond loopback tokens are needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes any that is free.")] = 8080,
    tokens: Annotated[
        Path | None, typer.Option(help="A file of tokens; made, with new ones, when absent.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which the server may be called, besides localhost.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads that compute one picture; all processors.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Waiting pictures that a call takes at most.")] = 1,
) -> None:
    """Answer requests over HTTP, with a page to try it; stops on Ctrl-C when all is answered."""
    from pictune.verbs.serve import serve as verb

    verb(
        *models,
        host=host,
        port=port,
        tokens=tokens,
        allow_host=allow_host or (),
        threads=threads,
        batch=batch,
    )


@app.command()
def convert(
    data: Annotated[Path, typer.Argument(readable=False, help="A folder or file of boxes or masks.")],
    out: Annotated[Path, typer.Argument(help="A new folder, outside of the data.")],
    to: Annotated[str, typer.Option(help="coco, voc, yolo, box_table or masks.")],
    follow_outside: options.FollowOutside = False,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Write boxes or masks in another format, and name what that format cannot hold."""
    started = time.monotonic()
    from pictune.verbs.convert import convert as verb

    result = verb(data, to=to, out=out, settings=with_flags(settings, follow_outside=follow_outside))
    if as_json:
        print_json("convert", started, result.rows())
    else:
        typer.echo(result.summary())


@app.command()
def recipe(
    file: Annotated[
        Path | None, typer.Argument(readable=False, help="A YAML recipe to complete and check.")
    ] = None,
    settings: options.Settings = None,
) -> None:
    """Print every setting with its meaning, range and default."""
    from pictune.verbs.recipe import recipe as verb

    typer.echo(verb(file, settings=settings or ()), nl=False)


@app.command()
def layers(
    model: Annotated[str, typer.Argument(help="A network, such as resnet50.")],
    freeze: Annotated[str, typer.Option(help="What to show as frozen.")] = "none",
    fine: Annotated[bool, typer.Option("--fine", help="Blocks instead of stages.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show a network's groups of layers, and what a setting would train."""
    started = time.monotonic()
    from pictune.verbs.layers import layers as verb

    result = verb(model, freeze=freeze, fine=fine)
    if as_json:
        print_json("layers", started, {"model": model, "groups": result.rows()})
    else:
        typer.echo(result.summary())


@app.command()
def cache(
    older_than: Annotated[
        float | None, typer.Option(help="Remove what was not used for so many days.")
    ] = None,
    keep: Annotated[float | None, typer.Option(help="Remove the oldest until so many GB are left.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: options.Json = False,
) -> None:
    """List or tidy up what was computed once: decoded pictures and features of frozen layers."""
    started = time.monotonic()
    from pictune.verbs.cache import cache as verb

    result = verb(older_than=older_than, keep=keep, clear=clear)
    if as_json:
        print_json("cache", started, {"entries": result.rows()})
    else:
        typer.echo(result.summary())


@app.command("lr-find")
def lr_find(
    data: options.Data,
    model: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    batch_size: options.BatchSize = None,
    technique: options.Technique = None,
    freeze: options.Freeze = None,
    out: Annotated[Path, typer.Option(help="Gets lr.html and lr.json.")] = Path("lr-find"),
    settings: options.Settings = None,
    recipe: options.RecipeFile = None,
    as_json: options.Json = False,
) -> None:
    """Suggest a learning rate before training, with a plot."""
    started = time.monotonic()
    steady_threads()
    from pictune.verbs.lr_find import lr_find as verb

    with bars() as shown:
        result = verb(
            data,
            recipe=recipe,
            settings=settings or (),
            model=model,
            weights=weights,
            image_size=image_size,
            batch_size=batch_size,
            technique=technique,
            freeze=freeze,
            folder=out,
            watcher=shown,
            progress=shown.opened,
        )
    if as_json:
        print_json("lr-find", started, {"report": shown_path(result.folder), "suggestion": result.suggestion})
    else:
        typer.echo(result.summary())
