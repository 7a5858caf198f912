"""What a picture file says about itself, read before a single pixel is decoded.

One small reader a format. None of them decodes pixels, inflates more than a stated limit, starts a
program or follows an address; each refuses with a reason code, or returns a `Header` with the bytes
that a decoder needs and no more.
"""

from __future__ import annotations

from collections.abc import Callable

from pictune.data.headers.exif import Exif
from pictune.data.headers.header import Header, Limits, Note, refuse
from pictune.data.headers.jpeg import read_jpeg
from pictune.data.headers.netpbm import read_netpbm
from pictune.data.headers.png import read_png
from pictune.data.headers.simple import read_bmp, read_gif, read_webp
from pictune.data.headers.tiff import read_tiff

__all__ = ["SUFFIXES", "Exif", "Header", "Limits", "Note", "read_header", "refuse"]

#: The file name endings that belong to each format; the content decides, the name is only compared.
SUFFIXES = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png", ".apng"),
    "gif": (".gif",),
    "bmp": (".bmp", ".dib"),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
    "ppm": (".ppm", ".pgm", ".pbm", ".pnm"),
}

_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes, Limits], Header]], ...] = (
    (lambda data: data.startswith(b"\xff\xd8\xff"), read_jpeg),
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), read_png),
    (lambda data: data.startswith((b"GIF87a", b"GIF89a")), read_gif),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", read_webp),
    (lambda data: data.startswith((b"II*\0", b"MM\0*")), read_tiff),
    (lambda data: data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace(), read_netpbm),
    (lambda data: data.startswith(b"BM") and len(data) > 14 and data[6:10] == bytes(4), read_bmp),
)

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_SAVE_AS = "Save it as JPEG or PNG."
_PHONE = "Convert it to JPEG or PNG first; phones and `heif-convert`, `avifdec` or `djxl` can."

_UNSUPPORTED: tuple[tuple[str, Callable[[bytes], bool], str], ...] = (
    ("EPS or PostScript", lambda data: data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")), _SAVE_AS),
    ("PDF", lambda data: data.startswith(b"%PDF"), _SAVE_AS),
    ("Photoshop", lambda data: data.startswith(b"8BPS"), _SAVE_AS),
    ("SVG", lambda data: _looks_like_svg(data), _SAVE_AS),
    ("AVIF", lambda data: data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"), _PHONE),
    ("HEIC", lambda data: data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS, _PHONE),
    ("JPEG XL", lambda data: data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")), _PHONE),
    ("JPEG 2000", lambda data: data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")), _PHONE),
    ("BigTIFF", lambda data: data.startswith((b"II+\0", b"MM\0+")), "Save it as an ordinary TIFF or PNG."),
    ("DICOM", lambda data: data[128:132] == b"DICM", _SAVE_AS),
    ("OpenEXR", lambda data: data.startswith(b"v/1\x01"), _SAVE_AS),
    ("Windows icon", lambda data: data.startswith(b"\0\0\x01\0") and data[5:6] == b"\0", _SAVE_AS),
)

_TOLD = 20  # characters of a text that is no picture
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def _looks_like_svg(data: bytes) -> bool:
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!DOCTYPE svg")) and b"<svg" in start)


def _beginning(data: bytes) -> str:
    """The first words of a text, which say what it is; nothing of what people cannot read."""
    line = next(iter(data[:_TOLD].decode("ascii", "replace").splitlines()), "")
    if not line.strip() or not line.isprintable() or not line.isascii():
        return ""
    return f": it begins with the text '{line.strip()}'"


def read_header(data: bytes, limits: Limits) -> Header:
    """Recognises a picture by its content and reads its header.

    Args:
        data: The whole file.
        limits: What is accepted.

    Raises:
        DataError: With the reason code when the file cannot be used.
    """
    if not data:
        raise refuse("empty", "The file is empty.", "Copy or download it again.")
    if data.startswith(_LFS_POINTER):
        raise refuse(
            "lfs_pointer",
            "The file is a Git LFS pointer, not the picture.",
            "Run `git lfs pull` and try again.",
        )
    for recognises, read in _READERS:
        if recognises(data):
            return read(data, limits)
    for name, recognises, instead in _UNSUPPORTED:
        if recognises(data):
            raise refuse("unsupported_format", f"The file is {name}, which is not read.", instead)
    raise refuse(
        "not_image",
        f"The file is not a picture{_beginning(data)}.",
        f"Pictures may be {', '.join(name.upper() for name in SUFFIXES)}.",
    )
