"""Images that lie beside listed ones, and that no annotation speaks of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.layouts import image_names, listed, plural
from pictune.data.scanning import FoundImage, escape


def unlisted_images(used: Iterable[FoundImage]) -> list[Finding]:
    """One sentence on the images in the same folders that were not used, if there are any.

    They are no background: nobody said that nothing is on them.
    """
    taken: dict[Path, set[str]] = {}
    for image in used:
        taken.setdefault(image.path.parent, set()).add(image.path.name)
    others = [
        escape(f"{folder.name}/{name}")
        for folder, names in sorted(taken.items())
        for name in image_names(folder)
        if name not in names
    ]
    if not others:
        return []
    verb = "lies beside the others and is" if len(others) == 1 else "lie beside the others and are"
    message = f"{plural(len(others), 'image')} {verb} not annotated; not used: {listed(others)}."
    return [Finding("unlisted", Outcome.WARN, "", message)]
