"""The artifact: a model as it is shipped, in one folder or one zip that can be checked before it is used.

model.onnx      the network: pixels in, what the task calls `plain` out (other files in other formats)
model.json      everything else that an answer needs, where the model comes from, and how good it is
reference.npz   drawn pictures and what the exporting machine answered: the self-test of every later start
MODEL_CARD.md   the same for people
SHA256SUMS      checksums of all other files, as `sha256sum -c` reads them

Nothing here needs PyTorch, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic

from pictune.errors import ArtifactError
from pictune.exporting.formats import FORMATS
from pictune.files import disk_errors, replace_file, sync_folder, write_bytes
from pictune.tasks.named import TASKS
from pictune.tasks.specification import Specification

FORMAT = 1  # of the artifact; a newer one is refused with a clear word
SUFFIX = ".pictune"
SUMS, CONTENT, REFERENCE, CARD = "SHA256SUMS", "model.json", "reference.npz", "MODEL_CARD.md"
MOST_BYTES = 8 * 1024**3  # of all files together
MOST_TEXT = 16 * 1024**2  # of model.json, checksums and card, each
MOST_FILES = 16
MOST_RATIO = 100  # bytes that one byte of a zip may become, from `FREE_BYTES` on; text becomes about 10
FREE_BYTES = 1024**2
# What reading a damaged entry raises; ValueError also when its name is no text.
DAMAGE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)

_ZIP = b"PK\x03\x04"  # the beginning of every zip that holds something
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that equal models make equal files
_AGAIN = "Export it again, or copy it again from where it was whole."


@dataclass(frozen=True)
class Artifact:
    """A shipped model whose files were checked against their sums.

    Args:
        path: The folder or zip.
        specification: What the model is, but for its tensors.
        content: All of model.json.
        id: 16 hexadecimal digits that name this very model: of the checksum of its checksums.
        files: The files by name, but for the sums.
    """

    path: Path
    specification: Specification
    content: Mapping[str, Any]
    id: str
    files: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Reads and checks an artifact.

        Raises:
            ArtifactError: ``missing``, ``unreadable``, ``not_an_artifact``, ``missing_file``, ``extra_file``,
                ``changed``, ``newer_format``, ``bad_content``, ``unknown_task`` or ``too_large``.
        """
        path = Path(path)
        with _opened(path) as (names, read):
            files = _checked(path, names, read)
        content = _content(path, files[CONTENT])
        _check_names(path, set(files), set(artifact_names(content["format_name"]) - {SUMS}))
        specification = _specification(path, content)
        sums = _sums(files)
        return cls(
            path, specification, MappingProxyType(content), hashlib.sha256(sums).hexdigest()[:16], files
        )

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16`` or ``int8``."""
        return str(self.content["precision"])


def is_artifact(path: Path) -> bool:
    """Whether a path looks like an artifact, whole or not: a zip of that name, or a folder with its sums."""
    return (path.is_file() and path.suffix == SUFFIX) or (path.is_dir() and (path / SUMS).is_file())


def artifact_names(format_name: str) -> frozenset[str]:
    """The names of all files of an artifact.

    Args:
        format_name: A name in `FORMATS`.
    """
    return frozenset({SUMS, CONTENT, REFERENCE, CARD, *FORMATS[format_name].files})


def is_foreign(path: Path, format_name: str) -> bool:
    """Whether something else is in the place of an artifact, which must not be replaced.

    Args:
        path: Where the artifact is going to be; there may be nothing.
        format_name: Of its network.
    """
    if path.is_dir():
        return path.suffix == SUFFIX or not {p.name for p in path.iterdir()} <= artifact_names(format_name)
    if not path.exists():
        return path.is_symlink() and path.suffix != SUFFIX  # a link to nothing; a file takes its place
    if path.suffix != SUFFIX or not path.is_file():
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return SUMS not in archive.namelist()
    except DAMAGE:
        with path.open("rb") as stream:  # half of a zip may be half of an artifact, which is made anew
            return stream.read(len(_ZIP)) not in {_ZIP, b""}


def write_artifact(
    path: Path,
    *,
    specification: Specification,
    format_name: str,
    precision: str,
    files: Mapping[str, bytes],
    reference: bytes,
    card: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes an artifact, whole or not at all.

    Args:
        path: Where: a zip if its name ends in ``.pictune``, otherwise a new folder.
        specification: What the model is.
        format_name: A name in `FORMATS`.
        precision: ``fp32``, ``fp16`` or ``int8``.
        files: The network's own files by name.
        reference: reference.npz.
        card: The model card, Markdown.
        facts: What else stands in model.json, plain values.

    Raises:
        ArtifactError: When there is something else in its place.
        MachineError: When the disk is full or may not be written.
    """
    assert set(files) == set(FORMATS[format_name].files), sorted(files)
    content = {
        "format": FORMAT,
        "format_name": format_name,
        "precision": precision,
        "specification": asdict(specification),
        **facts,
    }
    text = json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    whole = {**files, CONTENT: text.encode(), REFERENCE: reference, CARD: card.encode()}
    whole[SUMS] = _sums(whole)
    if is_foreign(path, format_name):
        raise ArtifactError(
            f"{path} exists and is no exported model", code="in_the_way", instead="Name a new one with --out."
        )
    if path.suffix == SUFFIX:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: _write_zip(temporary, whole))
        return
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        (path / SUMS).unlink(missing_ok=True)  # half of an artifact has no sums
    for name, data in whole.items():  # the sums come last
        write_bytes(path / name, data)
    with disk_errors(path):
        sync_folder(path.parent)


def _write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            kind = zipfile.ZIP_DEFLATED if name.endswith((".json", ".md", ".xml")) else zipfile.ZIP_STORED
            archive.writestr(entry, data, compress_type=kind)


def _sums(files: Mapping[str, bytes]) -> bytes:
    rows = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return "".join(rows).encode()


Read = Callable[[str], bytes]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, int], Read]]:
    """The names of an artifact's files with their sizes, and how to read one."""
    if path.is_dir():
        yield _folder_names(path), lambda name: (path / name).read_bytes()
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"there is nothing at {path}", code="missing", instead="Make it with: pictune export <run>"
        ) from None
    except PermissionError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror}",
            code="unreadable",
            instead="Give yourself permission to read it.",
        ) from None
    except DAMAGE as error:
        raise _refused(path, "not_an_artifact", f"is no zip and no folder: {error}") from None
    with archive:
        yield _zip_names(path, archive), archive.read


def _folder_names(path: Path) -> dict[str, int]:
    found = {}
    for part in path.iterdir():
        state = part.lstat()
        if part.name.startswith(".tmp-"):
            continue  # of another process that is writing it anew; never read
        if not stat.S_ISREG(state.st_mode):
            raise _refused(path, "extra_file", f"holds {part.name}, which is no plain file")
        found[part.name] = state.st_size
    if SUMS not in found:
        code = "missing_file" if CONTENT in found and REFERENCE in found else "not_an_artifact"
        raise _refused(path, code, f"holds no {SUMS}")
    return found


def _zip_names(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > MOST_FILES or len(set(names)) != len(names):
        raise _refused(path, "extra_file", f"holds {len(names)} files, some twice or too many")
    for entry in entries:
        plain = stat.S_IFMT(entry.external_attr >> 16) in {0, stat.S_IFREG}
        plain &= entry.compress_type in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        if entry.flag_bits & 1 or not plain or re.search(r"[\\/:]|^\.", entry.filename):
            raise _refused(path, "extra_file", "holds an entry that is no plain file")
        if entry.file_size > max(FREE_BYTES, MOST_RATIO * entry.compress_size):
            raise _refused(path, "too_large", f"holds {entry.filename}, which unpacks to far more than it is")
    if SUMS not in names:
        raise _refused(path, "not_an_artifact", f"holds no {SUMS}")
    return {entry.filename: entry.file_size for entry in entries}


def _checked(path: Path, sizes: Mapping[str, int], read: Read) -> dict[str, bytes]:
    """All files but the sums, each as its sum says."""
    large = [n for n, size in sizes.items() if n in {SUMS, CONTENT, CARD} and size > MOST_TEXT]
    if sum(sizes.values()) > MOST_BYTES or large:
        raise _refused(path, "too_large", f"has more bytes than a model may: {', '.join(large) or 'in all'}")
    try:
        sums = dict(_parsed_sums(read(SUMS).decode()))
    except DAMAGE as error:
        raise _refused(path, "changed", f"has no readable {SUMS}: {error}") from None
    _check_names(path, set(sizes) - {SUMS}, set(sums))
    files = {}
    for name, wanted in sums.items():
        try:
            files[name] = read(name)
        except DAMAGE as error:
            raise _refused(path, "changed", f"has a damaged {name}: {error}") from None
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise _refused(path, "changed", f"was changed: {name} is not the file that {SUMS} vouches for")
    if CONTENT not in files:
        raise _refused(path, "missing_file", f"holds no {CONTENT}")
    return files


def _parsed_sums(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)", line)
        if found is None:
            raise ValueError(f"{line[:80]!r} is no line of checksums")
        yield found[2], found[1]


def _check_names(path: Path, found: set[str], wanted: set[str]) -> None:
    if missing := sorted(wanted - found):
        raise _refused(path, "missing_file", f"lacks {', '.join(missing)}")
    if extra := sorted(found - wanted):
        raise ArtifactError(
            f"{path.name} holds what does not belong to it: {', '.join(extra)[:200]}",
            code="extra_file",
            instead=f"Remove it there. {_AGAIN}" if path.is_dir() else _AGAIN,
        )


def _content(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused(path, "bad_content", f"has a {CONTENT} that is no JSON: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ArtifactError(
            f"{path.name} has format {version}, and this pictune reads format {FORMAT}",
            code="newer_format",
            instead="Use a newer pictune.",
        )
    if version != FORMAT or content.get("format_name") not in FORMATS:
        raise _refused(path, "bad_content", f"has a {CONTENT} of no known format")
    return dict(content)


def _specification(path: Path, content: Mapping[str, Any]) -> Specification:
    given = content.get("specification")
    task = given.get("task") if isinstance(given, dict) else None
    if not isinstance(task, str) or task not in TASKS:
        raise _refused(path, "unknown_task", f"has a task that is not known: {str(task)[:80]}")
    try:
        found = pydantic.TypeAdapter(Specification).validate_python(given)
        assert isinstance(found, Specification)
    except pydantic.ValidationError as error:
        wrong = ", ".join(".".join(map(str, mistake["loc"])) for mistake in error.errors())
        raise _refused(path, "bad_content", f"has a {CONTENT} of which {wrong} cannot be used") from None
    if found.thresholds and len(found.thresholds) != len(found.classes):
        raise _refused(path, "bad_content", "has another number of thresholds than of classes")
    if len(set(found.classes)) != len(found.classes) or not found.classes:
        raise _refused(path, "bad_content", "has no classes, or one of them twice")
    if content.get("precision") not in {"fp32", "fp16", "int8"}:
        raise _refused(path, "bad_content", "has a precision that is not known")
    return found


def _refused(path: Path, code: str, reason: str) -> ArtifactError:
    return ArtifactError(f"{path.name} {reason}", code=code, instead=_AGAIN)
