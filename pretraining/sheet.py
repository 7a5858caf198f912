"""Draws the contact sheet of the README: `python -m pretraining.sheet`."""

# ruff: noqa: T201 - a script speaks on standard output
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pictune.data.augmentation import address
from pretraining.bank import Bank, Pixels
from pretraining.scenes import CONTENTS, draw

ROWS, COLUMNS, SIDE = 8, 14, 64
PLACE = Path(__file__).parent / "sheet.png"
COLOURS = 200  # in the file: noise does not compress, fewer colours do


def sheet() -> Pixels:
    """The first pictures of seed 0, in rows."""
    bank = Bank(variants=1).at(0)
    pictures = [
        draw(address(0, 0, number), bank, size=SIDE, content=CONTENTS["mixture"])[0]
        for number in range(ROWS * COLUMNS)
    ]
    rows = [np.concatenate(pictures[row * COLUMNS : (row + 1) * COLUMNS], 1) for row in range(ROWS)]
    return np.asarray(np.concatenate(rows), np.uint8)


def main() -> None:
    """Writes the sheet."""
    Image.fromarray(sheet()).quantize(COLOURS, dither=Image.Dither.NONE).save(PLACE, optimize=True)
    print(f"{PLACE.name}: {PLACE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
