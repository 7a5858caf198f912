"""A folder of drawn pictures that appears complete or not at all, and is drawn once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pictune.errors import DataError
from pictune.files import current_umask, disk_errors, sync_folder, write_json

_MARK = "drawn.json"


def draw_once(folder: Path, mark: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Draws a data set, or finds the very same drawn already.

    Args:
        folder: Where to; must not hold anything else.
        mark: All that decides what is drawn; it is kept in the folder.
        write: Draws into the empty folder that it is given.

    Returns:
        The folder.

    Raises:
        DataError: When the folder holds something else (``folder_taken``).
        MachineError: When the disk is full or may not be written.
    """
    if _is_drawn(folder, mark):
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".drawing-", dir=folder.parent))
        try:
            write(temporary)
            write_json(temporary / _MARK, mark)
            temporary.chmod(0o777 & ~current_umask())
            # Another process may have finished the same drawing meanwhile: then its folder is as good.
            if not _is_drawn(folder, mark):
                temporary.rename(folder)
                sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_drawn(folder: Path, mark: dict[str, Any]) -> bool:
    """Whether the very same data lie there already; false when nothing does."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == mark:
        return True
    raise DataError(
        f"{folder} holds something else",
        code="folder_taken",
        causes=[f"asked for {mark}", f"found {found or 'nothing drawn by pictune'}"],
        instead="Name a new folder, or remove this one if you do not need it.",
    )
