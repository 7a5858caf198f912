"""Every odd picture of the acceptance plan, by its number there, and what must come of it."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pictune.data.decoding import FileState, Limits, decode, read_bytes
from pictune.data.finding import Finding, Outcome
from pictune.errors import DataError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
JPEG = pictures.jpeg()
PNG = pictures.png()
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
FRAMES = [Image.fromarray(np.roll(pictures.gradient(), shift, 1)) for shift in (0, 9, 18)]
EPS = pictures.saved(pictures.gradient(), "EPS")


def flipped(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def frame_kind(data: bytes, kind: int) -> bytes:
    return data.replace(b"\xff\xc0", bytes([0xFF, kind]), 1)


def twelve_bits(data: bytes) -> bytes:
    return flipped(data, data.index(b"\xff\xc0") + 4, 12)


def twelve_bit_tiff() -> bytes:
    data = bytearray(pictures.tiff16(np.zeros((20, 24), np.uint16)))
    data[data.index(struct.pack("<HHI", 258, 3, 1)) + 8] = 12
    return bytes(data)


def stray_marker() -> bytes:
    """A bit flip that turns a stuffed zero inside the picture data into a marker."""
    data = pictures.jpeg(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return flipped(data, data.index(b"\xff\x00", data.index(b"\xff\xda")) + 1, 0x41)


def float_tiff(value: float) -> bytes:
    pixels = np.linspace(0, 1, 24 * 20, dtype=np.float32).reshape(20, 24)
    pixels[3, 4] = value
    return pictures.tiff16(pixels)


REFUSED = {
    "1 zero bytes": (b"", "empty"),
    "2 one byte": (b"\xff", "not_image"),
    "2 random bytes": (random.Random(1).randbytes(5000), "not_image"),
    "3 text": (b"Hello, this is no picture.", "not_image"),
    "3 HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not_image"),
    "4 LFS pointer": (LFS, "lfs_pointer"),
    "5 JPEG cut": (JPEG[: len(JPEG) // 2], "truncated"),
    "5 JPEG cut in its header": (JPEG[:100], "truncated"),
    "5 JPEG of three bytes": (JPEG[:3], "truncated"),
    "6 JPEG without end": (JPEG[:-2], "truncated"),
    "10 PNG cut": (PNG[:-40], "truncated"),
    "10 PNG without IEND": (PNG[:-12], "truncated"),
    "10 PNG with a wrong checksum": (flipped(PNG, 60, PNG[60] ^ 1), "corrupt"),
    "10 PNG with broken pixels": (pictures.png(rows=bytes(20)), "corrupt"),
    "10 GIF cut": (pictures.saved(FRAMES[0], "GIF")[:-200], "truncated"),
    "10 WebP cut": (pictures.saved(FRAMES[0], "WEBP")[:-50], "truncated"),
    "10 BMP cut": (pictures.saved(FRAMES[0], "BMP")[:-500], "truncated"),
    "10 TIFF cut": (pictures.saved(FRAMES[0], "TIFF")[:-3000], "truncated"),
    "10 PPM cut": (pictures.saved(FRAMES[0], "PPM")[:-50], "truncated"),
    "25 float TIFF": (float_tiff(0.5), "needs_range"),
    "25 int32 TIFF": (pictures.tiff16(np.arange(480, dtype=np.int32).reshape(20, 24)), "needs_range"),
    "26 TIFF with NaN": (float_tiff(np.nan), "not_finite"),
    "26 TIFF with infinity": (float_tiff(np.inf), "not_finite"),
    "27 one pixel": (pictures.png(1, 1), "too_small"),
    "28 1x5000": (pictures.png(1, 5000), "too_elongated"),
    "28 20000x4": (pictures.png(20000, 4), "too_elongated"),
    "29 0x10": (pictures.png_header_only(0, 10), "corrupt"),
    "29 0x10 JPEG": (pictures.resized_jpeg_header(0, 10), "corrupt"),
    "30 60000x60000 header": (pictures.png_header_only(60000, 60000), "too_large"),
    "30 65500x65500 JPEG": (pictures.resized_jpeg_header(65500, 65500), "too_large"),
    "31 9400x9400": (pictures.resized_jpeg_header(9400, 9400), "too_large"),
    "33 iCCP of 200 MB": (
        pictures.png(before=pictures.chunk(b"iCCP", b"p\0\0" + pictures.inflating(200_000_000))),
        "metadata_bomb",
    ),
    "34 SVG": (SVG, "unsupported_format"),
    "35 EPS": (EPS, "unsupported_format"),
    "35 PDF": (b"%PDF-1.7\n%\xe2\xe3", "unsupported_format"),
    "35 PSD": (b"8BPS\0\1" + bytes(40), "unsupported_format"),
    "36 HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format"),
    "36 AVIF": (pictures.saved(FRAMES[0], "AVIF"), "unsupported_format"),
    "36 JXL": (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported_format"),
    "36 JP2": (pictures.saved(FRAMES[0], "JPEG2000"), "unsupported_format"),
    "37 hundreds of scans": (pictures.many_scans(300, side=2000), "too_many_scans"),
    "36 camera raw": (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), "unsupported_format"),
    "39 12-bit TIFF": (twelve_bit_tiff(), "unsupported_format"),
    "39 arithmetic JPEG": (frame_kind(JPEG, 0xC9), "unsupported_format"),
    "39 lossless JPEG": (frame_kind(JPEG, 0xC3), "unsupported_format"),
    "39 12-bit JPEG": (twelve_bits(JPEG), "unsupported_format"),
}


def bitmap(mode: str) -> Image.Image:
    return Image.fromarray(pictures.gradient()).convert(mode)


def profile(name: str) -> bytes:
    return pictures.jpeg(icc_profile=pictures.icc(name))


USED = {
    "7 trailing bytes": (JPEG + b"abc", {"trailing_bytes": Outcome.WARN}),
    "7 PNG with trailing bytes": (PNG + b"abc", {"trailing_bytes": Outcome.WARN}),
    "7 a second JPEG behind the first": (
        pictures.with_segment(JPEG, 0xE2, b"MPF\0") + JPEG,
        {"several_pictures": Outcome.WARN},
    ),
    "8 JPEG and ZIP": (JPEG + pictures.zipped("a.txt"), {"polyglot": Outcome.WARN}),
    "9 stray marker": (stray_marker(), {"damaged": Outcome.WARN}),
    "13 CMYK JPEG": (pictures.jpeg(bitmap("CMYK")), {"cmyk": Outcome.NORMALISE}),
    "14 grey JPEG": (pictures.jpeg(bitmap("L")), {"greyscale": Outcome.NORMALISE}),
    "14 grey PNG": (pictures.png(colour=0), {"greyscale": Outcome.NORMALISE}),
    "15 16-bit grey PNG": (
        pictures.png(depth=16, colour=0),
        {"sixteen_bit": Outcome.NORMALISE, "greyscale": Outcome.NORMALISE},
    ),
    "16 16-bit RGB PNG": (pictures.png(depth=16), {"sixteen_bit": Outcome.NORMALISE}),
    "16 16-bit RGB TIFF": (
        pictures.tiff16(np.full((20, 24, 3), 257, np.uint16)),
        {"sixteen_bit": Outcome.NORMALISE},
    ),
    "17 1-bit PNG": (pictures.png(depth=1, colour=0), {"one_bit": Outcome.NORMALISE}),
    "17 1-bit BMP": (pictures.saved(bitmap("1"), "BMP"), {"one_bit": Outcome.NORMALISE}),
    "18 palette PNG": (pictures.png(colour=3, before=pictures.palette()), {"palette": Outcome.NORMALISE}),
    "18 palette GIF": (pictures.saved(bitmap("P"), "GIF"), {"palette": Outcome.NORMALISE}),
    "19 palette with tRNS": (
        pictures.png(colour=3, before=pictures.palette() + pictures.chunk(b"tRNS", bytes(range(256)))),
        {"palette": Outcome.NORMALISE, "transparency": Outcome.NORMALISE},
    ),
    "20 RGBA": (pictures.png(colour=6), {"transparency": Outcome.NORMALISE}),
    "20 RGBA WebP": (
        pictures.saved(
            Image.fromarray(np.dstack([pictures.gradient(), pictures.gradient()[..., 0]])), "WEBP"
        ),
        {"transparency": Outcome.NORMALISE},
    ),
    "20 LA": (
        pictures.png(colour=4),
        {"greyscale": Outcome.NORMALISE, "transparency": Outcome.NORMALISE},
    ),
    "21 EXIF orientation": (
        pictures.with_segment(JPEG, 0xE1, pictures.exif_block(6)),
        {"rotated": Outcome.NORMALISE},
    ),
    "22 EXIF orientation 99": (
        pictures.with_segment(JPEG, 0xE1, pictures.exif_block(99)),
        {"exif_ignored": Outcome.NORMALISE},
    ),
    "22 60 KB of junk EXIF": (
        pictures.with_segment(JPEG, 0xE1, b"Exif\0\0" + random.Random(2).randbytes(60_000)),
        {"exif_ignored": Outcome.NORMALISE},
    ),
    "22 junk behind a TIFF header": (
        pictures.with_segment(JPEG, 0xE1, b"Exif\0\0II*\0\x08\0\0\0" + b"\xfe" * 60_000),
        {"exif_ignored": Outcome.NORMALISE},
    ),
    "23 animated GIF": (
        pictures.saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
        {"animated": Outcome.WARN, "palette": Outcome.NORMALISE},
    ),
    "23 APNG": (
        pictures.saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
        {"animated": Outcome.WARN},
    ),
    "23 animated WebP": (
        pictures.saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
        {"animated": Outcome.WARN},
    ),
    "24 multi-page TIFF": (
        pictures.saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
        {"several_pages": Outcome.WARN},
    ),
    "33 Display P3 profile": (profile("Display P3"), {"colour_profile": Outcome.WARN}),
    "33 AdobeRGB profile": (profile("Adobe RGB (1998)"), {"colour_profile": Outcome.WARN}),
    "33 Display P3 profile of a PNG": (
        pictures.saved(pictures.gradient(), "PNG", icc_profile=pictures.icc("Display P3")),
        {"colour_profile": Outcome.WARN},
    ),
    "33 broken profile": (pictures.jpeg(icc_profile=b"nonsense"), {"colour_profile": Outcome.WARN}),
    "33 sRGB profile": (profile("sRGB IEC61966-2.1"), {}),
    "37 hundreds of scans of few pixels": (pictures.many_scans(300), {}),
    "39 4:2:0": (pictures.jpeg(subsampling="4:2:0"), {}),
    "39 4:1:1": (pictures.jpeg_411(), {}),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(data: bytes, code: str):
    with pytest.raises(DataError) as caught:
        decode(data)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")


@pytest.mark.parametrize(("data", "notes"), USED.values(), ids=USED)
def test_used_with_notes(data: bytes, notes: dict[str, Outcome], recwarn):
    picture = decode(data)
    assert {note.code: note.outcome for note in picture.notes} == notes
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.ndim == 3
    assert picture.pixels.flags.c_contiguous
    assert not recwarn.list


def test_hints_say_what_to_do():
    cases = ["36 HEIC", "36 AVIF", "36 JXL", "36 JP2"]
    for data, hint in ((LFS, "git lfs pull"), *((REFUSED[case][0], "JPEG or PNG") for case in cases)):
        with pytest.raises(DataError, match=hint):
            decode(data)


PLAIN = {
    "jpeg": JPEG,
    "png": pictures.saved(pictures.gradient(), "PNG"),
    "gif": pictures.saved(pictures.gradient(), "GIF"),
    "bmp": pictures.saved(pictures.gradient(), "BMP"),
    "webp": pictures.saved(pictures.gradient(), "WEBP", lossless=True),
    "tiff": pictures.saved(pictures.gradient(), "TIFF", compression="tiff_lzw"),
    "ppm": pictures.saved(pictures.gradient(), "PPM"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_12_content_decides_and_pixels_are_right(name: str, tmp_path: Path):
    picture = decode(PLAIN[name])
    assert picture.format == name
    difference = np.abs(picture.pixels.astype(int) - pictures.gradient())
    assert difference.max() <= {"jpeg": 12, "gif": 60}.get(name, 0)
    for ending in ("", ".JPG", ".jpeg", ".png", ".anything"):
        path = tmp_path / f"picture{ending}"
        path.write_bytes(PLAIN[name])
        assert np.array_equal(decode(path).pixels, picture.pixels)


def exact() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files that another program wrote, and the pixels that must come out."""
    generator = np.random.default_rng(3)
    colours = generator.integers(0, 256, (256, 3), np.uint8)
    grey, alpha = generator.integers(0, 256, (2, 20, 24), np.uint8)
    numbers = np.arange(480, dtype=np.uint8).reshape(20, 24)
    indexed = Image.fromarray(numbers).convert("P")
    indexed.putpalette(colours.tobytes())
    deep = generator.integers(0, 256, (20, 24, 3), np.uint8)
    bits = generator.integers(0, 2, (20, 24)).astype(bool)
    three = np.dstack([grey] * 3)
    seen = colours[numbers]
    holes = seen.copy()
    holes[numbers == 7] = 255
    mixed = (three.astype(int) * alpha[..., None] + 255 * (255 - alpha[..., None].astype(int))) / 255
    return {
        "14 grey PNG": (pictures.saved(Image.fromarray(grey), "PNG"), three),
        "14 grey BMP": (pictures.saved(Image.fromarray(grey), "BMP"), three),
        "16 16-bit RGB PNG": (pictures.png16(deep.astype(np.uint16) * 257), deep),
        "16 16-bit RGB TIFF": (pictures.tiff16(deep[..., ::-1].astype(np.uint16) * 257), deep),
        "17 1-bit PNG": (pictures.saved(Image.fromarray(bits), "PNG"), np.dstack([bits * np.uint8(255)] * 3)),
        "17 1-bit BMP": (pictures.saved(Image.fromarray(bits), "BMP"), np.dstack([bits * np.uint8(255)] * 3)),
        "18 palette PNG": (pictures.saved(indexed, "PNG"), seen),
        "18 palette BMP": (pictures.saved(indexed, "BMP"), seen),
        "18 palette GIF": (pictures.saved(indexed, "GIF", optimize=False), seen),
        "19 palette with tRNS": (pictures.saved(indexed, "PNG", transparency=7), holes),
        "20 LA": (pictures.saved(Image.fromarray(np.dstack([grey, alpha]), "LA"), "PNG"), mixed),
        "20 RGBA": (pictures.saved(Image.fromarray(np.dstack([deep, alpha])), "PNG"), np.asarray(
            Image.alpha_composite(
                Image.new("RGBA", (24, 20), "white"), Image.fromarray(np.dstack([deep, alpha]))
            ).convert("RGB")
        )),
        "22 EXIF orientation 99": (USED["22 EXIF orientation 99"][0], decode(JPEG).pixels),
        "22 60 KB of junk EXIF": (USED["22 60 KB of junk EXIF"][0], decode(JPEG).pixels),
    }  # fmt: skip


EXACT = exact()


@pytest.mark.parametrize(("data", "pixels"), EXACT.values(), ids=EXACT)
def test_pixels_are_those_that_were_written(data: bytes, pixels: np.ndarray):
    assert (
        np.abs(decode(data).pixels.astype(float) - pixels).max() <= 1
    )  # rounding of what is mixed with white


@pytest.mark.parametrize("data", [case[0] for case in USED.values()], ids=USED)
def test_bytes_and_path_give_the_same(data: bytes, tmp_path: Path):
    path = tmp_path / "picture"
    path.write_bytes(data)
    from_bytes, from_path = decode(data), decode(path)
    assert np.array_equal(from_bytes.pixels, from_path.pixels)
    assert (from_bytes.format, from_bytes.notes, from_bytes.exif) == (
        from_path.format,
        from_path.notes,
        from_path.exif,
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_21_all_orientations(orientation: int, order: str):
    block = pictures.exif_block(orientation, order=order)
    for plain, data in (
        (JPEG, pictures.with_segment(JPEG, 0xE1, block)),
        (PNG, PNG[:33] + pictures.chunk(b"eXIf", block[6:]) + PNG[33:]),
    ):
        tagged = Image.fromarray(decode(plain).pixels)
        tagged.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(tagged))
        assert np.array_equal(decode(data).pixels, expected)
    exif = decode(data).exif
    assert (exif.date, exif.make, exif.model, exif.serial) == ("2024-05-31", "Maker", "Model 7", "SN-12345")


@pytest.mark.parametrize("orientation", [3, 6])
def test_21_orientation_in_tiff_and_webp(orientation: int):
    block = pictures.exif_block(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(pictures.gradient()).rotate({3: 180, 6: 270}[orientation], expand=True)
    for data in (
        pictures.saved(pictures.gradient(), "WEBP", lossless=True, exif=block),
        pictures.saved(pictures.gradient(), "TIFF", exif=exif),
    ):
        assert np.array_equal(decode(data).pixels, np.asarray(upright))


def test_13_cmyk_keeps_the_mean_colour():
    rgb = pictures.gradient()
    mean = decode(pictures.jpeg(Image.fromarray(rgb).convert("CMYK"))).pixels.mean((0, 1))
    assert np.abs(mean - rgb.mean((0, 1))).max() < 2


def test_15_16_bit_ramp_keeps_its_mean():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(">u2"), (16, 1))
    pixels = decode(pictures.png(256, 16, depth=16, colour=0, rows=ramp.tobytes())).pixels
    assert 127 <= pixels.mean() <= 128
    assert pixels[0, :, 0].tolist() == list(range(256))
    assert (pixels[..., :1] == pixels).all()
    assert np.array_equal(decode(pictures.tiff16(ramp.astype(np.uint16))).pixels, pixels)
    pgm = b"P5\n# a comment\n256 16\n65535\n" + ramp.tobytes()
    assert np.array_equal(decode(pgm).pixels, pixels)


def test_16_bit_tiff_whose_zero_is_white_is_inverted():
    data = bytearray(pictures.tiff16(np.full((20, 24), 65535, np.uint16)))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8] = 0
    assert (decode(bytes(data)).pixels == 0).all()


@pytest.mark.parametrize(
    ("depth", "colour", "key"), [(8, 0, 128), (16, 0, 40000), (2, 0, 1), (8, 2, None), (16, 2, None)]
)
def test_20_transparent_parts_become_white(depth: int, colour: int, key: int | None):
    grey = key if key is not None else (7 if depth == 8 else 3000)
    rows = b"\x55" * 64 if depth == 2 else grey.to_bytes(depth // 8, "big") * (16 * 12 * 3)
    content = struct.pack(">H", grey) * (1 if colour == 0 else 3)
    opaque = pictures.png(depth=depth, colour=colour, rows=rows)
    transparent = pictures.png(depth=depth, colour=colour, rows=rows, before=pictures.chunk(b"tRNS", content))
    assert (decode(opaque).pixels < 200).all()
    assert (decode(transparent).pixels == 255).all()


def test_20_half_transparent_is_mixed_with_white():
    rgba = bytes([100, 0, 255, 128]) * (16 * 12)
    assert decode(pictures.png(colour=6, rows=rgba)).pixels[0, 0].tolist() == [177, 127, 255]


def test_23_24_the_first_picture_counts():
    for case in ("23 APNG", "23 animated GIF", "23 animated WebP", "24 multi-page TIFF"):
        data = USED[case][0]
        picture = decode(data)
        assert np.abs(picture.pixels.astype(int) - pictures.gradient()).mean() < 8
        assert any("3 " in note.message for note in picture.notes)


def test_25_a_declared_range_makes_floats_usable():
    pixels = decode(float_tiff(0.5), value_range=(0.0, 0.5)).pixels
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 127 <= pixels[5, 0, 0] <= 128 + 6


def test_26_not_finite_even_with_a_range():
    with pytest.raises(DataError, match="not numbers"):
        decode(float_tiff(np.nan), value_range=(0.0, 1.0))


BOMBS = {
    "30 60000x60000": lambda: pictures.png_header_only(60000, 60000),
    "31 PNG of 13000x13000": lambda: pictures.png(13000, 13000, depth=1, colour=0, rows=bytes(1625 * 13000)),
    "31 JPEG of 13000x13000": lambda: pictures.resized_jpeg_header(13000, 13000),
    "32 zTXt of 200 MB": lambda: pictures.png(
        before=pictures.chunk(b"zTXt", b"k\0\0" + pictures.inflating(200_000_000))
    ),
    "32 iTXt of 200 MB": lambda: pictures.png(
        before=pictures.chunk(b"iTXt", b"k\0\1\0en\0k\0" + pictures.inflating(200_000_000))
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_no_memory_and_are_never_decoded(name: str, monkeypatch: pytest.MonkeyPatch):
    data = BOMBS[name]()
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("a bomb was decoded"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code == ("too_large" if "x" in name else "metadata_bomb")
    assert peak < 20e6


def test_small_compressed_text_is_no_bomb():
    text = pictures.chunk(b"zTXt", b"k\0\0" + zlib.compress(b"hello" * 100))
    assert decode(pictures.png(before=text)).notes == ()


def test_limits_can_be_changed():
    assert decode(pictures.png(4, 4), limits=Limits(min_side=4)).pixels.shape == (4, 4, 3)
    with pytest.raises(DataError) as caught:
        decode(PNG, limits=Limits(max_bytes=10))
    assert caught.value.code == "too_large"


def test_35_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trace = tmp_path / "it ran"
    for name in ("gs", "gswin32c", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch '{trace}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("a.jpg", "a.eps", "a.png"):
        path = tmp_path / name
        path.write_bytes(EPS)
        with pytest.raises(DataError):
            decode(path)
    assert not trace.exists()


def test_pillow_keeps_its_settings():
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError):
        decode(pictures.png_header_only(60000, 60000))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_circle_of_tiff_pages_ends():
    data = bytearray(pictures.saved(FRAMES[0], "TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    assert decode(bytes(data)).notes == ()


def test_61_a_file_that_changed_is_not_read(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    state = FileState.find(path)
    assert read_bytes(path, limits=Limits(), expected=state) == PNG
    path.write_bytes(PNG + b"more")
    with pytest.raises(DataError) as caught:
        read_bytes(path, limits=Limits(), expected=state)
    assert caught.value.code == "changed"
    path.write_bytes(PNG)
    os.utime(path, ns=(0, 0))  # of the same size, and written anew
    with pytest.raises(DataError) as caught:
        read_bytes(path, limits=Limits(), expected=state)
    assert caught.value.code == "changed"


SEEDS = [JPEG, pictures.jpeg(progressive=True), *PLAIN.values(), *(case[0] for case in USED.values())]


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(SEEDS) - 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0.05, 1),
)
def test_9_damage_gives_a_picture_or_a_reason(seed: int, flips: list[tuple[float, int]], kept: float):
    data = bytearray(SEEDS[seed])
    for place, value in flips:
        data[int(place * len(data))] = value
    damaged = bytes(data[: int(len(data) * kept)])
    with suppress(DataError):  # anything else would fail the test
        picture = decode(damaged)
        assert picture.pixels.shape[2] == 3
        assert np.array_equal(picture.pixels, decode(damaged).pixels)


def test_notes_fit_findings():
    for note in decode(USED["19 palette with tRNS"][0]).notes:
        assert Finding(note.code, note.outcome, "a.png", note.message).message.endswith(".")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"notes\nof mine", "The file is not a picture: it begins with the text 'notes'."),
        (b"<!DOCTYPE html><html><body>404", "not a picture: it begins with the text '<!DOCTYPE html><html'."),
        (b"\n\nnotes", "The file is not a picture."),
        (b"a\x1b[31mb", "The file is not a picture."),
        (b"\xff\x00", "The file is not a picture."),
        ("pâté".encode(), "The file is not a picture."),
    ],
)
def test_what_is_no_picture_is_told_in_words(content: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(content)
    assert caught.value.code == "not_image"
    assert caught.value.message.endswith(said)
