"""Writing files so that a reader, a crash or a power cut never meets half of one."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pictune.errors import MachineError

if TYPE_CHECKING:
    import torch

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a disk that is full, read-only or gone into one clear `MachineError`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise MachineError(
                f"the disk is full: {path.name} could not be written",
                instead="Free some space and run the same command again; what was saved before is intact.",
            ) from error
        if error.errno in FORBIDDEN:
            raise MachineError(
                f"{path} could not be written: {error.strerror}",
                instead=_elsewhere(path),
            ) from error
        if error.errno in GONE:
            raise MachineError(
                f"{path} could not be written: {error.strerror}",
                instead="Is its folder still there, and its disk still connected?",
            ) from error
        raise


def _elsewhere(path: Path) -> str:
    if path.is_relative_to(cache_folder()):
        return "Name a folder that you may write to with PICTUNE_CACHE."
    return (
        "Choose a folder that you may write to: --runs for runs, --out for an audit; or copy the run there."
    )


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary)``, then puts the result in place of ``path`` in one step.

    The temporary file lies in the same folder and starts with ``.tmp-`` and our process's number; it is
    removed when anything goes wrong. Order: write, fsync, replace, fsync of the folder.

    Raises:
        MachineError: When the disk is full or may not be written.
    """
    with disk_errors(path):
        descriptor, name = tempfile.mkstemp(prefix=f".tmp-{os.getpid()}-", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~current_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def current_umask() -> int:
    """The process's file mode mask (reading it needs setting it for a moment)."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step; see `replace_file`."""
    replace_file(path, lambda temporary: _write_all(temporary, content))


def _write_all(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step, as UTF-8; see `replace_file`."""
    write_bytes(path, text.encode())


def plain_cell(text: str) -> str:
    """Text that no spreadsheet runs as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step: indented, strict (no NaN), readable by any parser."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A path may hold bytes that are no UTF-8: they become JSON's own escapes and come back as they were.
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], *, facts: Mapping[str, str]) -> None:
    """Replaces a safetensors file in one step; see `replace_file`.

    Args:
        path: The file.
        tensors: By name, on any device, in any memory layout.
        facts: Texts that stand in the file's header.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }

    def write(temporary: Path) -> None:
        try:
            save_file(whole, temporary, metadata=dict(facts))
        except SafetensorError as error:
            # The library tells what the system refused only inside its sentence.
            reason = re.search(r"os error (\d+)", str(error))
            if reason is None:
                raise
            raise OSError(int(reason[1]), os.strerror(int(reason[1]))) from error

    replace_file(path, write)


def sweep(folder: Path) -> None:
    """Removes temporary files, ours and those of safetensors, that a killed process left in a folder.

    What another process that lives is writing there, such as a report, stays.
    """
    for leftover in folder.glob(".tmp*"):
        writer = re.match(r"\.tmp-(\d+)-", leftover.name)
        if writer is None or int(writer[1]) == os.getpid() or not Path("/proc", writer[1]).exists():
            leftover.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where decoded pictures and other things that can be made again are kept.

    ``PICTUNE_CACHE``, else ``XDG_CACHE_HOME/pictune``, else ``~/.cache/pictune``, else a folder of
    this user's below the system's temporary folder.
    """
    if named := os.environ.get("PICTUNE_CACHE"):
        return Path(named)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "pictune"
    try:
        return Path.home() / ".cache" / "pictune"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"pictune-{os.getuid()}"
