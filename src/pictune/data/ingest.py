"""The one pass over all files: every picture is opened once, and all that is wanted of it is taken.

That is its checksum, size, look, EXIF fields, whatever is wrong with it and, where a side is given,
its shrunk pixels. The results are kept in a cache folder; a second pass over unchanged files opens
none of them. The dataset's own folder is only ever read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pictune.data.decoding import DECODER, FileState, Limits, Picture, decode, read_bytes
from pictune.data.facts import Facts, Gathering, Opened, Seen, recall, remember
from pictune.data.finding import Finding, Outcome
from pictune.data.formats.boxes import HARMLESS, LOST_BOXES, box_losses
from pictune.data.formats.fitting import fit_sample
from pictune.data.formats.sizes import upright_size
from pictune.data.hashing import Appearance, appearance
from pictune.data.headers import SUFFIXES, Note
from pictune.data.pixels import PixelStore, PixelWriter, shrink, store_name
from pictune.data.sample import Dataset, Sample
from pictune.errors import DataError, MachineError
from pictune.files import disk_errors

_VERSION = 1  # of what is remembered; older memories are then not found
_MOST_SHOWN = 50
_CHUNK = 8  # pictures a task: handing them over one by one costs more than decoding small ones
_REJECTED = {"needs_range"}  # the user must decide something before any such picture can be used
_PASSING = {"missing", "unreadable", "special_file", "changed"}  # may be over next time, so not remembered
_FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Ingested:
    """A dataset whose files were opened.

    Args:
        dataset: Without the samples that cannot be used; sizes and checksums filled in, findings added.
        facts: What is known about each picture.
        store: The shrunk pixels of each picture; None when no side was given.
    """

    dataset: Dataset
    facts: Facts
    store: PixelStore | None


def ingest(
    dataset: Dataset,
    *,
    cache: Path,
    limits: Limits | None = None,
    side: int | None = None,
    threads: int = 1,
    max_bad: float = 0.05,
    value_range: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Opens every file of a dataset once.

    Args:
        dataset: As a format read it.
        cache: Where results and pixels are kept; made when absent.
        limits: Which pictures are accepted.
        side: Shorter side of the stored pixels; None stores none.
        threads: How many pictures are decoded at once.
        max_bad: Share of unusable pictures above which the work stops; with ``math.inf`` nothing stops it,
            for those who want to see what there is.
        value_range: What is black and what is white in pictures whose values say nothing about it.
        progress: Called with how many pictures are done, and how many there are.

    Raises:
        DataError: ``too_many_bad``, ``too_many_bad_boxes``, ``class_lost`` or
            ``needs_range``, with the unusable files.
        MachineError: When disk or memory run out.
    """
    order = _Order(cache, limits or Limits(), side, value_range)
    with disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    states = [FileState.find(sample.path) for sample in dataset.samples]
    memory = cache / f"facts-{_digest(dataset.samples, states, order)}.npz"
    seen = recall(memory)
    store = _find_store(order, seen) if seen else None
    if seen is None or (side is not None and store is None):
        seen, store = _open_all(dataset.samples, states, order, threads, progress)
        if None not in states and not any(finding.code in _PASSING for finding in seen.findings):
            remember(memory, seen)
    elif progress:
        progress(len(dataset), len(dataset))
    fitted, kept = _without_unusable(dataset, seen, max_bad)
    if len(kept) == len(seen.positions):
        return Ingested(fitted, seen.facts, store)
    return Ingested(fitted, seen.facts.select(kept), store and store.select(kept))


@dataclass(frozen=True, slots=True)
class _Order:
    """What is wanted of every picture."""

    cache: Path
    limits: Limits
    side: int | None
    value_range: tuple[float, float] | None

    @property
    def decoder(self) -> str:
        return f"{DECODER} range={self.value_range}"


def _open_all(
    samples: Sequence[Sample],
    states: Sequence[FileState | None],
    order: _Order,
    threads: int,
    progress: Progress | None,
) -> tuple[Seen, PixelStore | None]:
    """Opens every file, and writes the store as the pictures come."""
    gathered = Gathering(len(samples))
    with ExitStack() as stack:
        writer = None if order.side is None else stack.enter_context(PixelWriter(order.cache))
        for position, opened in enumerate(_in_order(samples, states, order, threads)):
            gathered.add(position, samples[position].key, opened)
            if writer and isinstance(opened, Opened) and opened.pixels is not None:
                writer.add(opened.pixels)
            if progress:
                progress(position + 1, len(samples))
        seen = gathered.seen()
        return seen, writer.commit(_name_of_store(order, seen)) if writer else None


def _in_order(
    samples: Sequence[Sample], states: Sequence[FileState | None], order: _Order, threads: int
) -> Iterator[Opened | Finding]:
    """What each file gave, in order, with only a few pictures in memory at any time."""

    def open_chunk(start: int) -> list[Opened | Finding]:
        stop = min(start + _CHUNK, len(samples))
        return [_open(samples[i], states[i], order) for i in range(start, stop)]

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="pictune-ingest") as pool:
        waiting: deque[Future[list[Opened | Finding]]] = deque()
        try:
            for start in range(0, len(samples), _CHUNK):
                waiting.append(pool.submit(open_chunk, start))
                if len(waiting) > 2 * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _open(sample: Sample, state: FileState | None, order: _Order) -> Opened | Finding:
    """Reads, decodes and measures one file; what is wrong with it becomes a finding."""
    try:
        data = read_bytes(sample.path, limits=order.limits, expected=state)
        picture = decode(data, limits=order.limits, value_range=order.value_range)
    except DataError as error:
        outcome = Outcome.REJECT if error.code in _REJECTED else Outcome.QUARANTINE
        return Finding(error.code, outcome, sample.key, f"{error.message} {error.instead}".strip())
    except MemoryError as error:
        raise MachineError(
            f"memory ran out while opening {sample.key}",
            instead="Use fewer threads, or lower the largest picture.",
        ) from error
    look = appearance(picture.pixels)
    height, width = picture.pixels.shape[:2]
    return Opened(
        hashlib.sha256(data).hexdigest(),
        width,
        height,
        len(data),
        picture.format,
        picture.exif,
        look,
        (*picture.notes, *_further_notes(sample, picture, look)),
        None if order.side is None else shrink(picture.pixels, order.side),
    )


def _further_notes(sample: Sample, picture: Picture, look: Appearance) -> Iterator[Note]:
    suffix = sample.path.suffix.lower()
    if _FORMAT_OF_SUFFIX.get(suffix, picture.format) != picture.format:
        message = f"The name ends in {suffix}, the content is {picture.format.upper()}; the content counts."
        yield Note("wrong_extension", Outcome.WARN, message)
    if look.constant:
        yield Note("constant", Outcome.WARN, "All pixels are of one colour; is this a picture?")


def _without_unusable(dataset: Dataset, seen: Seen, max_bad: float) -> tuple[Dataset, list[int]]:
    """The usable samples with what is now known about them, and which of those that were opened they are.

    Raises:
        DataError: When too much was lost.
    """
    usable = dataset.select(seen.positions)
    samples: list[Sample] = []
    findings: list[Finding] = []
    kept: list[int] = []
    for number, (sample, checksum, (width, height)) in enumerate(
        zip(usable.samples, seen.checksums, seen.sizes, strict=True)
    ):
        fitted, noticed = fit_sample(
            replace(sample, checksum=checksum),
            width=width,
            height=height,
            orientation=_orientation(sample, (width, height)),
        )
        findings += noticed
        if fitted is not None:
            samples.append(fitted)
            kept.append(number)
    usable = replace(usable, samples=tuple(samples), findings=(*dataset.findings, *seen.findings, *findings))
    if max_bad != math.inf:
        _refuse_misfits(findings)
        for loss in losses(dataset, usable, max_bad):
            raise loss
    return usable, kept


def _orientation(sample: Sample, size: tuple[int, int]) -> int:
    """The EXIF orientation of a picture whose annotations speak of another size; 1 for all others."""
    if not sample.width or (sample.width, sample.height) == size:
        return 1
    found = upright_size(sample.path)
    return 1 if found is None else found.orientation


def _refuse_misfits(findings: Sequence[Finding]) -> None:
    """Raises one error with every picture that has another size than its annotations speak of."""
    messages = [finding.message for finding in findings if finding.outcome is Outcome.REJECT]
    if not messages:
        return
    more = [f"and {len(messages) - _MOST_SHOWN:,} more"] if len(messages) > _MOST_SHOWN else []
    raise DataError(
        f"{len(messages):,} picture{'s' * (len(messages) > 1)} and their annotations do not fit one another",
        code="size_differs",
        causes=[*messages[:_MOST_SHOWN], *more],
        instead="Annotate these pictures as they are now, or put the old ones back.",
    )


def losses(before: Dataset, after: Dataset, max_bad: float) -> Iterator[DataError]:
    """Every reason why too much was lost to train on the rest, the one to be told first in front.

    Boxes are counted among boxes, pictures among pictures.
    """
    of_images = tuple(f for f in after.findings if f.code not in LOST_BOXES | HARMLESS)
    yield from _image_losses(before, replace(after, findings=of_images), max_bad)
    yield from box_losses(after, max_bad)


def _image_losses(before: Dataset, after: Dataset, max_bad: float) -> Iterator[DataError]:
    """Why too many pictures were lost, or a whole class.

    What was left out while reading counts as well, but for lines that only repeat others.
    """
    bad = [
        finding
        for finding in after.findings
        if finding.outcome in (Outcome.QUARANTINE, Outcome.REJECT) and finding.code != "duplicate_row"
    ]
    if not bad:
        return
    counts = after.count()
    lost = [name for name, count in before.count().items() if count and not counts[name]]
    total = len(after) + len(bad)
    share = f"{len(bad):,} of {total:,} pictures"
    reasons = []
    if any(finding.outcome is Outcome.REJECT for finding in bad):
        bad.sort(key=lambda finding: finding.outcome is not Outcome.REJECT)
        message = f"{share} cannot be used, some for want of a declared range of values"
        instead = "Declare the range, or save these pictures with 8 or 16 bits."
        reasons.append(("needs_range", message, instead))
    if lost:
        message = f"no picture of {', '.join(map(repr, lost))} can be used"
        reasons.append(("class_lost", message, "Repair or remove these files."))
    if len(bad) > max_bad * total:
        message = f"{share} cannot be used; at most {max_bad:.0%} may be left out"
        instead = "Repair or remove these files, or allow more with --set data.max_bad=<share>."
        reasons.append(("too_many_bad", message, instead))
    causes = [_said(finding) for finding in bad[:_MOST_SHOWN]]
    if len(bad) > _MOST_SHOWN:
        causes.append(f"and {len(bad) - _MOST_SHOWN:,} more")
    for code, message, instead in reasons:
        yield DataError(message, code=code, causes=causes, instead=instead)


def _said(finding: Finding) -> str:
    where = "" if finding.message.startswith(finding.where) else f"{finding.where}: "
    return f"{where}{finding.message} [{finding.code}]"


def _digest(samples: Sequence[Sample], states: Sequence[FileState | None], order: _Order) -> str:
    """What decides the results of a pass, so that they can be found again."""
    head = [_VERSION, order.decoder, order.side, asdict(order.limits)]
    digest = hashlib.sha256(json.dumps(head).encode())
    for sample, state in zip(samples, states, strict=True):
        digest.update(json.dumps([sample.key, sample.path.suffix, state]).encode())
    return digest.hexdigest()[:40]


def _name_of_store(order: _Order, seen: Seen) -> str:
    assert order.side is not None
    return store_name(seen.checksums, side=order.side, decoder=order.decoder)


def _find_store(order: _Order, seen: Seen) -> PixelStore | None:
    if order.side is None:
        return None
    try:
        return PixelStore(order.cache, _name_of_store(order, seen))
    except FileNotFoundError:
        return None
