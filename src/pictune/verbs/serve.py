"""`serve`: models that answer over HTTP."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pictune.errors import ArtifactError, InputError, RunError
from pictune.exporting.artifact import SUFFIX, Artifact, is_artifact
from pictune.run import weights_sum
from pictune.serving.capacity import Capacity
from pictune.serving.limits import ServerLimits
from pictune.serving.server import Settings, check_address, check_open, serve_forever
from pictune.serving.tokens import Tokens
from pictune.threads import processors
from pictune.verbs.asked import run_of
from pictune.verbs.targets import check_file

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
EXPORTS = Path("exports")
MOST_THREADS, MOST_BATCH = 1024, 256


def serve(
    *models: Path | str,
    host: str = "127.0.0.1",
    port: int = 8080,
    tokens: Path | str | None = None,
    allow_host: Sequence[str] = (),
    threads: int | None = None,
    batch: int = 1,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Answers requests until a signal comes; then answers what was asked, and returns.

    Args:
        models: Exported models, or runs, which are exported first; each a path, or ``name=path``. The first
            is the default. A run whose export is there already is not exported again.
        host: Address to listen at. Beyond loopback tokens are needed.
        port: Port to listen at; 0 is any that is free.
        tokens: A file of tokens, one ``role token`` a line, which only its owner may read; made, with new
            tokens, when absent.
        allow_host: Names, besides ``localhost``, by which the server may be called.
        threads: That compute one call of a network; as many as there are processors when None.
        batch: Pictures a call takes at most, of those that wait; on a processor 1 is as quick.
        listening: Is told the address once pictures can be answered.

    Raises:
        InputError: When the address cannot be had, tokens are needed, a name is none, or threads or batch
            are no number of them.
        RunError: When there is neither a run nor an exported model at a path.
        ArtifactError: When a model cannot be served, or may not be exported.
        MachineError: When workers die again and again.
    """
    _log_to_stderr()
    limits = ServerLimits()
    _check_numbers(threads, batch)
    named = _named(models)
    for path in named.values():
        if not is_artifact(path):
            run_of(path)
    if tokens is None:
        check_open(host, None)
    check_address(host, port)
    known = _tokens(Path(tokens)) if tokens is not None else None
    settings = Settings(
        models={name: path if is_artifact(path) else _exported(path) for name, path in named.items()},
        host=host,
        port=port,
        tokens=known,
        hosts=tuple(allow_host),
        capacity=Capacity(
            threads=threads or processors(),
            max_batch=batch,
            queue=limits.queue_images,
            deadline=limits.request_s,
        ),
        limits=limits,
    )
    serve_forever(settings, listening=listening or _tell)


def _check_numbers(threads: int | None, batch: int) -> None:
    wanted = {"threads": (1 if threads is None else threads, MOST_THREADS), "batch": (batch, MOST_BATCH)}
    causes = [
        f"{name} is a number from 1 to {most}, not {found}"
        for name, (found, most) in wanted.items()
        if not 1 <= found <= most
    ]
    if causes:
        raise InputError("the server cannot be set up so", causes=causes)


def _named(models: Sequence[Path | str]) -> dict[str, Path]:
    """Each model's path by its name, which is its file's where none is given.

    Raises:
        InputError: When there is none, a name is none, or two have the same.
    """
    causes = [] if models else ["no model was named"]
    found: dict[str, Path] = {}
    for given in models:
        text = str(given)
        name, equals, rest = text.partition("=")
        if not equals or "/" in name:
            path = Path(text)
            name = re.sub(r"[^a-z0-9_-]+", "-", path.resolve().stem.lower()).strip("-_")[:64]
        else:
            path = Path(rest)
        if equals and not rest and path == Path():
            causes.append(f"{text} names no path")
        elif NAME.fullmatch(name) is None:
            causes.append(f"{name!r} is no name of a model: small letters, digits, dashes, underscores")
        elif name in found:
            causes.append(f"two models are called {name}: {found[name]} and {path}")
        found[name] = path
    if causes:
        raise InputError(
            "the models cannot be served", causes=causes, instead="Name them: pictune serve name=path …"
        )
    return found


def _tokens(path: Path) -> Tokens:
    """The tokens of a file, which is made when absent; new ones are printed, once."""
    if not path.exists():
        check_file(path, pictures=(), flag="--tokens")
        made = Tokens.make(path)
        sys.stderr.write(f"New tokens, also in {path}, which only you may read:\n")
        sys.stderr.write("".join(f"  {role:<9} {token}\n" for role, token in made.items()))
    return Tokens.read(path)


def _exported(path: Path) -> Path:
    """The artifact of a run, made when it is not there or of another model.

    Raises:
        RunError: When there is no run, it has no model, or another run's model is in that place.
        ArtifactError: When the gate refuses it.
    """
    run = run_of(path)
    place = EXPORTS / f"{run.name}{SUFFIX}"
    if place.is_file() and (there := _whole(place)) is not None:
        if there.content.get("weights", {}).get("sha256") == weights_sum(run):
            kind = f"{there.content['format_name']}, {there.precision}"
            sys.stderr.write(f"{place} is served ({kind}): it was exported from {run.name} before\n")
            return place
        if (other := there.content.get("run")) != run.name:
            raise RunError(
                f"{place} holds the model of another run, {other}",
                instead=f"Export this one to another place and serve that: pictune export {path} --out FILE",
            )
    sys.stderr.write(f"{run.name} is exported to {place} first: a run itself cannot be served\n")
    from pictune.verbs.export import export  # it needs PyTorch; serving does not

    made = export(run, out=place)
    if made.replaced is not None:
        sys.stderr.write(f"It replaced {made.replaced.sentence()}\n")
    return made.path


def _whole(place: Path) -> Artifact | None:
    """What was exported to a place earlier; None, and a word on it, when it is damaged.

    Raises:
        ArtifactError: When it may be whole, but cannot be read here.
    """
    try:
        return Artifact.open(place)
    except ArtifactError as error:
        if error.code in {"unreadable", "newer_format"}:
            raise
        sys.stderr.write(f"What was exported to {place} before cannot be served: {error.message}\n")
        return None


def _tell(address: str) -> None:
    sys.stderr.write(f"Ready: {address}\n")
    sys.stderr.flush()


def _log_to_stderr() -> None:
    """What the server has to say goes to standard error, with the time."""
    logger = logging.getLogger("pictune.serving")
    # Nobody is told which thread or process of the server a line is from, so that nobody looks it up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO)
