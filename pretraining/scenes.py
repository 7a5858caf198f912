"""Scenes: one to six objects, with shadows and in front of one another, on a textured ground.

Shapes: s pixels a side. Pictures are uint8 [s, s, 3], RGB. All that varies comes from one generator, so a
picture is known by its address.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pretraining.bank import COLOURS, SPRITE, TEXTURE, Bank, Pixels

COUNTS = (1, 1, 1, 1, 1, 1, 2, 2, 3, 4)
VISIBLE, LARGE_ENOUGH = 0.35, 0.012  # of the object; of the picture
TEXTURE_SEEN = 0.12  # share of the picture from which a texture is named
TEXTURE_COUNTS = 0.5  # how much a texture counts beside a shape where targets share one
COLOUR_COUNTS = 0.3  # how much a colour does
GREY = 20  # steps between the strongest and the weakest channel below which a colour is none
VIEW = 100.0  # pixels of a texture seen by a picture at zoom 1


@dataclass(frozen=True, slots=True)
class Content:
    """What pictures show; what is left of 1 are scenes of shapes on textures, with textures in them.

    Args:
        bare: Share of pictures whose surfaces are smooth: only shapes tell them apart, which is learnt first.
        blots: Share of pictures without shapes of classes: soft blots carry textures.
    """

    bare: float = 0.0
    blots: float = 0.0


CONTENTS = {
    "mixture": Content(bare=0.5, blots=0.1),
    "scenes": Content(),
    "shapes": Content(bare=1.0),
    "textures": Content(blots=1.0),
}


def draw(
    rng: np.random.Generator, bank: Bank, *, size: int, content: Content
) -> tuple[Pixels, dict[int, float]]:
    """One picture and what is on it.

    Args:
        rng: Of this picture.
        bank: What it is composed of.
        size: s.
        content: What it may show.

    Returns:
        The picture, and by number of the class how much it counts.
    """
    canvas = _Canvas(rng, bank, size, content)
    canvas.ground()
    canvas.objects()
    picture = photographed(canvas.pixels, rng, bank)
    return picture, canvas.labels() | canvas.colours(picture)


class _Canvas:
    """A picture while it is drawn."""

    def __init__(self, rng: np.random.Generator, bank: Bank, size: int, content: Content) -> None:
        self.rng, self.bank, self.size = rng, bank, size
        chance = rng.random()
        self.shapes = bool(chance >= content.blots)
        self.textures = not content.blots <= chance < content.blots + content.bare
        self.pixels = np.empty((size, size, 3), np.uint8)
        self.owner = np.zeros((size, size), np.uint8)  # 0 and 1 are grounds, objects from 2 on
        self.area = [0, 0]  # pixels that each owner had when it was placed
        self.kinds: list[tuple[int, ...]] = [(), ()]  # a shape's number, or none, for each owner
        self.surfaces: list[int] = [-1, -1]  # a texture's number, or -1

    def ground(self) -> None:
        """One or two surfaces that fill the picture."""
        u = self.rng.random(4)
        height, self.surfaces[0] = self.surface(plain=0.2)
        self.pixels = self.bank.palettes[int(u[0] * len(self.bank.palettes))][height]
        if u[1] < (0.3 if self.shapes else 0.6):
            other, self.surfaces[1] = self.surface(plain=0.2)
            border = self.blot(3 + 2 * u[2])
            self.pixels = _over(
                self.pixels, self.bank.palettes[int(u[3] * len(self.bank.palettes))][other], border
            )
            self.owner[border > 127] = 1

    def surface(self, *, plain: float) -> tuple[Pixels, int]:
        """Heights of a piece of a surface, and its class or -1."""
        u = self.rng.random(8)
        if not self.textures or u[0] < plain:
            return self.slope(), -1
        number, variant = int(u[1] * len(self.bank.textures)), int(u[2] * self.bank.variants)
        turn, zoom = 2 * math.pi * u[3], VIEW / self.size * math.exp(0.9 * u[4] - 0.5)
        c, s = zoom * math.cos(turn), zoom * math.sin(turn) * (1 if u[7] < 0.5 else -1)
        matrix = np.array(((c, -s, u[5] * TEXTURE), (s, c, u[6] * TEXTURE)))
        piece = cv2.warpAffine(
            self.bank.textures[number, variant],
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(piece, np.uint8), number

    def slope(self) -> Pixels:
        """Heights that rise softly from one side to another."""
        corners = (self.rng.random((2, 2)) * 255).astype(np.uint8)
        return np.asarray(
            cv2.resize(corners, (self.size, self.size), interpolation=cv2.INTER_LINEAR), np.uint8
        )

    def blot(self, cells: float) -> Pixels:
        """Coverage of soft, shapeless areas."""
        count = int(cells)
        coarse = (self.rng.random((count, count)) * 255).astype(np.uint8)
        soft = cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.convertScaleAbs(cv2.subtract(soft, 112), alpha=8), np.uint8)

    def objects(self) -> None:
        """All objects, from the farthest to the nearest."""
        u = self.rng.random(4)
        count = COUNTS[int(u[0] * len(COUNTS))]
        if not self.shapes:
            count = int(u[0] * 2.5)
        shapes = len(self.bank.sprites)
        alike = u[1] < 0.15  # several of one kind, as cells and pebbles are
        kinds = (self.rng.random(count) * shapes).astype(int).tolist()
        if alike:
            kinds = kinds[:1] * (3 + int(3 * u[2]))
        span = (0.65 + 0.5 * u[3]) / len(kinds) ** 0.4 if kinds else 0
        palette = -1
        for kind in kinds:
            palette = self.object(kind, span, palette if alike else -1)

    def object(self, kind: int, span: float, palette: int) -> int:
        """Places one object and says which palette it got."""
        u = self.rng.random(16)
        coverage, relief = self.posed(kind, span) if self.shapes else (self.blot(4), self.slope())
        area = int(np.count_nonzero(coverage > 127))
        if area < LARGE_ENOUGH * self.size**2:
            return palette
        if palette < 0:
            palette = self.contrasting(u[0:3])
        height, texture = relief, -1
        if u[3] < 0.5 or not self.shapes:
            piece, texture = self.surface(plain=0.0)
            share = 0.55 + 0.45 * u[4]
            height = np.asarray(cv2.addWeighted(piece, share, relief, 1 - share, 0), np.uint8)
        fill = self.bank.palettes[palette][height]
        if u[5] < 0.6:
            fill = _lit(fill, relief, 2 * math.pi * u[6], 0.3 + 1.5 * u[7])
        if u[8] < 0.35:
            self.shadow(coverage, u[9:12])
        if u[12] < 0.2:
            rim = np.asarray(cv2.dilate(coverage, np.ones((3, 3), np.uint8)), np.uint8)
            ink = np.full_like(self.pixels, self.bank.palettes[int(u[13] * len(self.bank.palettes)), 128])
            self.pixels = _over(self.pixels, ink, rim)
        if u[14] < 0.2:  # glass, smoke, thin tissue
            coverage = np.asarray(cv2.convertScaleAbs(coverage, alpha=0.65 + 0.35 * u[15]), np.uint8)
        self.pixels = _over(self.pixels, fill, coverage)
        self.owner[coverage > 127] = len(self.kinds)
        self.area.append(area)
        self.kinds.append((kind,) if self.shapes else ())
        self.surfaces.append(texture)
        return palette

    def posed(self, kind: int, span: float) -> tuple[Pixels, Pixels]:
        """Coverage and height of a shape somewhere in the picture, turned, stretched and sheared."""
        u = self.rng.random(10)
        turn = 2 * math.pi * u[0] if u[1] < 0.3 else (u[0] - 0.5) * 1.6
        scale = SPRITE / (self.size * span * (0.8 + 0.45 * u[2]))
        stretch, shear = math.exp((u[3] - 0.5) * 0.7), (u[4] - 0.5) * 0.5
        mirror = -1 if u[5] < 0.3 else 1
        c, s = math.cos(turn), math.sin(turn)
        across = np.array((c, s)) * scale * stretch * mirror
        down = np.array((-s, c)) * scale / stretch + shear * across
        reach = 0.5 * max(1 - 0.75 * span, 0.15)
        x, y = ((0.5 + reach * (2 * v - 1)) * self.size for v in u[6:8])
        shift = SPRITE / 2 - across * x - down * y
        matrix = np.stack((across, down, shift), 1)
        sprite = self.bank.sprites[kind, int(u[8] * self.bank.variants)]
        placed = cv2.warpAffine(
            sprite, matrix, (self.size, self.size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        coverage, height = cv2.split(placed)
        return np.asarray(coverage, np.uint8), np.asarray(height, np.uint8)

    def contrasting(self, chances: NDArray[np.float64]) -> int:
        """Of three palettes the one that differs most from what is there on the whole."""
        rows = (chances * len(self.bank.palettes)).astype(int)
        behind = np.array(cv2.mean(self.pixels)[:3], np.float32)
        return int(rows[int(np.abs(self.bank.means[rows] - behind).sum(1).argmax())])

    def shadow(self, coverage: Pixels, chances: NDArray[np.float64]) -> None:
        """A soft shadow that falls beside the object."""
        reach = self.size / 16
        dx, dy = (int(reach * (2 * v - 1) * 1.5) for v in chances[:2])
        fallen = cv2.warpAffine(coverage, np.array(((1.0, 0, dx), (0, 1.0, dy))), (self.size, self.size))
        side = int(reach) | 1
        light = 255 - cv2.convertScaleAbs(cv2.blur(fallen, (side, side)), alpha=0.3 + 0.4 * float(chances[2]))
        self.pixels = np.asarray(
            cv2.multiply(self.pixels, cv2.merge((light, light, light)), scale=1 / 255), np.uint8
        )

    def labels(self) -> dict[int, float]:
        """What can still be seen: shapes count 1, textures that fill enough of the picture less."""
        seen = np.bincount(self.owner.ravel(), minlength=len(self.kinds))
        found: dict[int, float] = {}
        surfaces: dict[int, int] = {}
        for owner, (kinds, surface) in enumerate(zip(self.kinds, self.surfaces, strict=True)):
            if seen[owner] >= VISIBLE * self.area[owner]:
                found |= dict.fromkeys(kinds, 1.0)
            if surface >= 0:
                surfaces[surface] = surfaces.get(surface, 0) + int(seen[owner])
        shapes = len(self.bank.sprites)
        for surface, pixels in surfaces.items():
            if pixels >= TEXTURE_SEEN * self.size**2:
                found[shapes + surface] = TEXTURE_COUNTS
        for number, counts in list(
            found.items()
        ):  # the family is learnt first and opens the way to its classes
            family = int(self.bank.family[number])
            found[family] = found.get(family, 0.0) + counts
        return found

    def colours(self, picture: Pixels) -> dict[int, float]:
        """The colours of the ground and of the object of which most is seen, as the camera shows them.

        Without them a network would learn to look past colour altogether, and many tasks need it.
        """
        seen = np.bincount(self.owner.ravel(), minlength=len(self.kinds))
        found = {}
        for place, owners in enumerate((range(2), range(2, len(seen)))):
            owner = max(owners, key=lambda owner: int(seen[owner]), default=0)
            if owners and seen[owner] >= LARGE_ENOUGH * self.size**2:
                mask = (self.owner == owner).astype(np.uint8)
                kind = colour_kind(*cv2.mean(picture, mask)[:3])
                found[self.bank.first_colour + place * COLOURS + kind] = COLOUR_COUNTS
        return found


def colour_kind(red: float, green: float, blue: float) -> int:
    """One of 19 kinds of colour: three greys, and eight hues, each darker or lighter."""
    high, low = max(red, green, blue), min(red, green, blue)
    light = (high + low) / 2
    if high - low < GREY:
        return int(light > 75) + int(light > 165)
    angle = math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) % (2 * math.pi)
    return 3 + 2 * min(int(angle / (2 * math.pi) * 8), 7) + int(light > 120)


def photographed(pixels: Pixels, rng: np.random.Generator, bank: Bank) -> Pixels:
    """The picture as some camera sees it: light, tone, blur, noise and compression vary."""
    u = rng.random(20)
    size = len(pixels)
    if u[0] < 0.3:  # uneven light
        light = (110 + 145 * rng.random((2, 2))).astype(np.uint8)
        light = cv2.resize(light, (size, size), interpolation=cv2.INTER_LINEAR)
        pixels = np.asarray(cv2.multiply(pixels, cv2.merge((light, light, light)), scale=1 / 220), np.uint8)
    if u[1] < 0.2:
        sigma = size / 64 * (0.4 + 0.9 * u[2])
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    tones = np.linspace(0, 1, 256, dtype=np.float32)[:, None] ** (
        math.exp(0.9 * (u[3] - 0.5)) * np.exp(0.25 * (u[4:7] - 0.5))
    )
    contrast = 0.55 + 0.6 * u[7]
    curve = (tones - 0.5) * contrast + 0.5 + 0.3 * (u[8] - 0.5) + 0.16 * (u[9:12] - 0.5)
    table = np.clip(curve * 255, 0, 255).astype(np.uint8)[:, None, :]
    pixels = np.asarray(cv2.LUT(pixels, table), np.uint8)
    if u[12] < 0.12:
        pixels = np.asarray(
            cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8
        )
    if u[13] < 0.35:
        begin = int(u[14] * (len(bank.noise) - pixels.size))
        grain = bank.noise[begin : begin + pixels.size].reshape(pixels.shape) * np.float32(
            1 + 14 * u[15] ** 2
        )
        pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if u[16] < 0.15:
        code = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, int(30 + 60 * u[17])))[1]
        pixels = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def _over(below: Pixels, above: Pixels, coverage: Pixels) -> Pixels:
    """One picture over another where it covers."""
    share = coverage.astype(np.float32)
    return np.asarray(cv2.blendLinear(above, below, share, 255 - share), np.uint8)


def _lit(fill: Pixels, height: Pixels, angle: float, strength: float) -> Pixels:
    """A surface under a lamp that stands to one side."""
    x, y = math.cos(angle) * strength, math.sin(angle) * strength
    slope = np.array(((0, y, 0), (x, 0, -x), (0, -y, 0)), np.float32)
    light = cv2.filter2D(height, -1, slope, delta=128)
    return np.asarray(cv2.multiply(fill, cv2.merge((light, light, light)), scale=1 / 128), np.uint8)
