"""Masks: what their values mean, what is refused, and the one way from a file to the class of every pixel.

The cases are numbered as in the acceptance plan for reliability.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import replace
from pathlib import Path

import annotated_folders as made
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_folders import snapshot, within
from PIL import Image

from pictune.data.formats import read_dataset
from pictune.data.formats.fitting import fit_sample
from pictune.data.masking import IGNORED, check_mask, count_mask, decode_mask
from pictune.data.sample import Legend, Mask
from pictune.errors import DataError

SKY, ROAD = (70, 130, 180), (128, 64, 128)


def codes(dataset) -> dict[str, str]:
    return {finding.code: str(finding.outcome) for finding in dataset.findings}


def refusal(path, **options) -> DataError:
    before = snapshot(path.parent)
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    assert snapshot(path.parent) == before
    assert caught.value.instead
    return caught.value


def pillow(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def palette(values, colours=(0, 0, 0, *SKY, *ROAD)) -> Image.Image:
    image = Image.fromarray(np.asarray(values, np.uint8)).convert("L")
    indexed = Image.new("P", image.size)
    indexed.putdata(list(image.get_flattened_data()))
    indexed.putpalette([*colours, *([7] * (768 - len(colours)))])
    return indexed


def rows(*values, size=made.SIZE):
    """(h, w) whose rows take these values in turn."""
    return np.repeat(np.resize(np.array(values), size[1])[:, None], size[0], axis=1)


def coloured(*colours, mode="RGB") -> Image.Image:
    table = np.array(colours, np.uint8)
    return Image.fromarray(table[rows(*range(len(colours)))]).convert(mode)


def indices(dataset) -> dict[str, list[int]]:
    """Which indices occur in each mask, by the image's key."""
    return {
        s.key: np.unique(decode_mask(s.annotation, classes=dataset.classes)).tolist() for s in dataset.samples
    }


class TestLayouts:
    def test_folders(self, tmp_path):
        root = made.masks(tmp_path / "root")
        before = snapshot(root)
        dataset = read_dataset(root)
        assert (dataset.format, dataset.task, dataset.classes) == ("masks", "segmentation", ("sky", "road"))
        assert [s.annotation.names for s in dataset.samples] == [("sky", "road"), ("road",)]
        assert dataset.count() == {"sky": 1, "road": 2}
        assert all(len(s.annotation.checksum) == 64 for s in dataset.samples)
        assert [(s.key, s.width, s.height) for s in dataset.samples] == [
            (f"images/{stem}.jpg", *made.SIZE) for stem in "ab"
        ]
        assert not dataset.findings
        assert indices(dataset) == {"images/a.jpg": [0, 1], "images/b.jpg": [1]}
        assert snapshot(root) == before

    @pytest.mark.parametrize(
        ("images", "masks"),
        [
            ("images/train", "masks/train"),
            ("train/images", "train/masks"),
            ("images/training", "annotations/training"),
            ("train/img", "train/labels"),
            ("images/train/city", "masks/train/city"),
        ],
    )
    def test_splits(self, tmp_path, images, masks):
        for split, word in (("train", "train"), ("test", "test")):
            made.image(tmp_path / images.replace("train", word) / "a.jpg", len(split) + 3 * (split == "test"))
            made.grey(tmp_path / masks.replace("train", word) / "a.png", [0, 1])
        dataset = read_dataset(tmp_path)
        assert {s.key: s.given_split for s in dataset.samples} == {
            f"{images.replace('train', split)}/a.jpg": split for split in ("train", "test")
        }

    def test_lists_of_pascal_voc(self, tmp_path):
        for seed, stem in enumerate("abc"):
            made.image(tmp_path / f"JPEGImages/{stem}.jpg", seed)
        for stem in "ab":
            pillow(tmp_path / f"SegmentationClass/{stem}.png", palette(rows(0, 1, 255)))
        made.text(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
        made.text(tmp_path / "ImageSets/Segmentation/val.txt", "b\n")
        dataset = read_dataset(tmp_path, ignore=[255], classes=["background", "cat"])
        assert {s.key: s.given_split for s in dataset.samples} == {
            "JPEGImages/a.jpg": "train",
            "JPEGImages/b.jpg": "val",
        }
        assert not dataset.findings
        assert indices(dataset)["JPEGImages/a.jpg"] == [0, 1, 255]
        made.text(tmp_path / "ImageSets/Segmentation/test.txt", "c\n")
        found = codes(read_dataset(tmp_path, ignore=[255], judging=True))
        assert found["missing_mask"] == "quarantine"

    @pytest.mark.parametrize("ending", ["_mask", "_L", "_gt"])
    def test_endings_of_masks(self, tmp_path, ending):
        root = made.masks(tmp_path)
        for mask in list((root / "masks").iterdir()):
            mask.rename(mask.with_stem(f"{mask.stem}{ending}"))
        assert len(read_dataset(root)) == 2

    def test_two_images_or_two_masks_of_one_name(self, tmp_path):
        root = made.masks(tmp_path, {"a": [0], "b": [1], "c": [0, 1]})
        made.image(root / "images/a.png")
        made.grey(root / "masks/b.bmp", [1])
        dataset = read_dataset(root)
        assert [s.key for s in dataset.samples] == ["images/c.jpg"]
        assert [f.where for f in dataset.findings if f.code == "ambiguous_mask"] == [
            "images/a.jpg",
            "images/a.png",
            "images/b.jpg",
        ]

    def test_no_folders_of_masks(self, tmp_path):
        made.image(tmp_path / "root/images/a.jpg")
        assert refusal(tmp_path / "root", format="masks").code == "no_masks"


class TestClasses:
    """Who says what the values mean."""

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("classes.txt", "sky\nroad\n\n"),
            ("classes.csv", "id,name\n1,road\n0,sky\n"),
            ("classes.csv", "Name;ID\nsky;0\nroad;1\n"),
            ("class_dict.csv", "id,name,r,g,b\n0,sky,1,2,3\n1,road,4,5,6\n"),
        ],
    )
    def test_files(self, tmp_path, file, content):
        root = made.masks(tmp_path, names=None)
        made.text(root / file, content)
        dataset = read_dataset(root)
        assert set(dataset.classes) == {"sky", "road"}
        assert dataset.samples[1].annotation.names == ("road",)
        assert not dataset.findings

    def test_the_user_counts_before_files(self, tmp_path):
        root = made.masks(tmp_path)
        dataset = read_dataset(root, classes=["a", "b", "c"])
        assert dataset.classes == ("a", "b")
        assert codes(dataset) == {"unused_class": "warn"}

    def test_ignored_values(self, tmp_path):
        root = made.masks(tmp_path, {"a": [0, 1, 11], "b": [1]})
        dataset = read_dataset(root, ignore=[11])
        assert dataset.classes == ("sky", "road")
        assert indices(dataset)["images/a.jpg"] == [0, 1, IGNORED]
        table = made.text(root / "classes.csv", "id,name,ignored\n0,sky,no\n1,road,0\n11,void,yes\n")
        assert table.is_file()
        assert read_dataset(root).classes == ("sky", "road")
        assert indices(read_dataset(root, ignore=[0]))["images/a.jpg"] == [0, IGNORED]

    def test_values_as_names(self, tmp_path):
        root = made.masks(tmp_path, {"a": [0, 2, 10], "b": [2]}, names=None)
        dataset = read_dataset(root)
        assert dataset.classes == ("0", "2", "10")
        (finding,) = dataset.findings
        assert (finding.code, str(finding.outcome)) == ("numbers_as_names", "warn")
        assert "0, 2, 10" in finding.message
        assert indices(dataset) == {"images/a.jpg": [0, 1, 2], "images/b.jpg": [1]}

    @pytest.mark.parametrize(
        ("file", "content", "word"),
        [
            ("classes.txt", "", "there is none"),
            ("classes.txt", "sky\n\nroad\n", "number 1 has no name"),
            ("classes.txt", "sky\nsky\n", "'sky' stands there 2 times"),
            ("classes.txt", "\n".join(map(str, range(255))), "254"),
            ("classes.csv", "name\nsky\n", "id,name"),
            ("classes.csv", "id,name\n0,sky\n0,road\n", "number of several classes is 0"),
            ("classes.csv", "id,name\n0,sky\n256,road\n", "'256'"),
            ("classes.csv", "id,name\n0,sky\n1.5,road\n", "line 3"),
            ("classes.csv", "id,name\n0,sky\n1\n", "the header has 2"),
            ("class_dict.csv", "name,r,g,b\nsky,1,2,300\n", "'300'"),
            ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nroad,1,2,3\n", "colour of several"),
        ],
    )
    def test_lists_that_cannot_be_used(self, tmp_path, file, content, word):
        root = made.masks(tmp_path / "root", names=None)
        made.text(root / file, content)
        error = refusal(root)
        assert error.code == "bad_class_list"
        assert word in str(error)
        assert file in str(error)

    @pytest.mark.parametrize("ignore", [[-1], [256], [3, 1000]])
    def test_ignored_values_that_cannot_be(self, tmp_path, ignore):
        assert refusal(made.masks(tmp_path / "root"), ignore=ignore).code == "bad_class_list"

    def test_names_too_alike(self, tmp_path):
        assert refusal(made.masks(tmp_path / "root", names="Road\nroad\n")).code == "ambiguous_class"

    def test_names_are_cleaned(self, tmp_path):
        dataset = read_dataset(made.masks(tmp_path, names=" sky \nroad\n"))
        assert dataset.classes == ("sky", "road")
        assert codes(dataset) == {"class_renamed": "normalise"}
        assert indices(dataset)["images/a.jpg"] == [0, 1]

    def test_case_96_names_stay_strings(self, tmp_path):
        dataset = read_dataset(made.masks(tmp_path, {"a": [0, 1, 2, 3]}, names="1\n01\nnan\nNone\n"))
        assert dataset.classes == ("1", "01", "nan", "None")


def test_case_91_values_that_are_in_no_list(tmp_path):
    root = made.masks(tmp_path / "root", {"a": rows(0, 1, 1, 7), "b": [1, 255]})
    error = refusal(root)
    assert error.code == "unknown_mask_value"
    assert "255 (25.0% of the pixels), 7 (12.5% of the pixels)" in str(error)
    assert "2 masks of 2" in str(error)
    assert "masks/a.png" in str(error)
    assert refusal(root, ignore=[255]).code == "unknown_mask_value"
    assert read_dataset(root, ignore=[255, 7]).classes == ("sky", "road")


def test_case_91_255_is_a_class_unless_declared(tmp_path):
    root = made.masks(tmp_path, {"a": [0, 255], "b": [255]}, names=None)
    dataset = read_dataset(root)
    assert dataset.classes == ("0", "255")
    assert codes(dataset) == {"numbers_as_names": "warn", "perhaps_ignored": "warn"}
    assert indices(dataset)["images/b.jpg"] == [1]
    assert read_dataset(root, ignore=[255], judging=True).classes == ("0",)


def test_case_91_decoding_refuses_what_reading_did_not_see(tmp_path):
    root = made.masks(tmp_path)
    dataset = read_dataset(root)
    made.grey(root / "masks/a.png", [0, 1, 1, 9])
    with pytest.raises(DataError) as caught:
        decode_mask(dataset.samples[0].annotation, classes=dataset.classes)
    assert caught.value.code == "unknown_mask_value"
    assert "9 (25.0% of the pixels)" in str(caught.value)


def test_case_91_many_values_look_like_photographs(tmp_path):
    root = made.masks(tmp_path / "root", {"a": rows(*range(48)), "b": rows(*range(48, 96))}, names=None)
    assert codes(read_dataset(root)) == {"numbers_as_names": "warn", "many_mask_values": "warn"}
    for stem, first in zip("abcdef", range(0, 288, 48), strict=True):
        made.image(root / f"images/{stem}.jpg", first)
        made.grey(root / f"masks/{stem}.png", rows(*(v % 256 for v in range(first, first + 48))))
    error = refusal(root)
    assert error.code == "unknown_mask_value"
    assert "256 values" in str(error)


def test_case_92_a_mask_of_another_size(tmp_path):
    root = made.masks(tmp_path)
    made.grey(root / "masks/a.png", [0, 1], size=(32, 24))
    sample, other = read_dataset(root).samples
    finding = check_mask(sample, *made.SIZE)
    assert (finding.code, str(finding.outcome), finding.where) == ("mask_size", "quarantine", "images/a.jpg")
    assert "64 x 48" in finding.message
    assert "32 x 24" in finding.message
    assert check_mask(other, *made.SIZE) is None
    assert check_mask(replace(sample, width=0, height=0), *made.SIZE).code == "mask_size"
    assert check_mask(replace(other, width=0, height=0), *made.SIZE) is None
    assert "EXIF" in check_mask(other, made.SIZE[1], made.SIZE[0]).message
    assert fit_sample(sample, width=64, height=48)[0] is None
    assert fit_sample(other, width=64, height=48) == (other, [])
    assert check_mask(replace(other, annotation=None), 1, 1) is None


class TestCase93:
    """Palettes, colours, lossy files, bits."""

    def test_case_93_places_in_a_palette_count(self, tmp_path):
        root = made.masks(tmp_path)
        pillow(root / "masks/a.png", palette(rows(0, 1)))
        dataset = read_dataset(root)
        assert indices(dataset)["images/a.jpg"] == [0, 1]

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_case_93_few_bits_are_numbers_as_stored(self, tmp_path, bits):
        root = made.masks(tmp_path)
        pillow(root / "masks/a.png", palette(rows(0, 1)), bits=bits)
        values = {1: [0, 1], 2: [0, 1, 3], 4: [0, 1, 9, 15]}[bits]
        (root / "masks/b.png").write_bytes(few_bits(rows(*values), bits))
        count = count_mask(root / "masks/b.png", Legend({}))
        assert sorted(count.pixels) == values
        assert sorted(count_mask(root / "masks/a.png", Legend({})).pixels) == [0, 1]

    def test_case_93_colours_without_a_table(self, tmp_path):
        for names in (None, "sky\nroad\n"):
            root = made.masks(tmp_path / f"root{names}", names=names)
            for stem in "ab":
                pillow(root / f"masks/{stem}.png", coloured(SKY, ROAD))
            error = refusal(root)
            assert error.code == "mask_without_table"
            assert "class_dict.csv" in str(error)

    def test_case_93_one_coloured_mask_among_grey_ones(self, tmp_path):
        root = made.masks(tmp_path / "root")
        pillow(root / "masks/b.png", coloured(SKY))
        error = refusal(root)
        assert error.code == "mask_without_table"
        assert "masks/b.png" in str(error)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_case_93_colours_with_a_table(self, tmp_path, mode):
        root = made.masks(tmp_path, names=None)
        made.text(root / "class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\nvoid,0,0,0\n")
        for stem, colours in (("a", (SKY, ROAD)), ("b", (ROAD, (0, 0, 0)))):
            shown = coloured(*colours, mode=mode) if mode != "P" else None
            flat = [value for colour in colours for value in colour]
            pillow(root / f"masks/{stem}.png", shown or palette(rows(0, 1), flat))
        dataset = read_dataset(root, ignore=[2])
        assert dataset.classes == ("road", "sky")
        assert dataset.samples[0].annotation.legend.coloured
        assert indices(dataset) == {"images/a.jpg": [0, 1], "images/b.jpg": [0, IGNORED]}
        assert refusal(root, ignore=[3]).code == "bad_class_list"

    def test_case_93_ids_count_for_grey_masks_of_a_table_with_both(self, tmp_path):
        root = made.masks(tmp_path, names=None)
        made.text(root / "classes.csv", "id,name,r,g,b\n0,sky,70,130,180\n1,road,128,64,128\n")
        assert not read_dataset(root).samples[0].annotation.legend.coloured
        for stem in "ab":
            pillow(root / f"masks/{stem}.png", coloured(SKY, ROAD))
        dataset = read_dataset(root)
        assert dataset.samples[0].annotation.legend.coloured
        assert indices(dataset)["images/a.jpg"] == [0, 1]

    def test_case_93_unknown_colours(self, tmp_path):
        root = made.masks(tmp_path / "root", {"a": [0]}, names=None)
        made.text(root / "class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n")
        pillow(root / "masks/a.png", coloured(SKY, ROAD, (1, 2, 3), SKY))
        error = refusal(root)
        assert error.code == "unknown_mask_value"
        assert "the colour 1, 2, 3 (25.0% of the pixels)" in str(error)

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
    def test_case_93_lossy_masks(self, tmp_path, kind):
        root = made.masks(tmp_path / "root")
        pillow(root / "masks/b.png", Image.fromarray(rows(0, 1).astype(np.uint8)), format=kind)
        error = refusal(root)
        assert error.code == "lossy_mask"
        assert kind in str(error)
        assert "masks/b.png" in str(error)

    @pytest.mark.parametrize("ending", ["bmp", "tif"])
    def test_case_93_other_lossless_files(self, tmp_path, ending):
        root = made.masks(tmp_path)
        (root / "masks/b.png").unlink()
        pillow(root / f"masks/b.{ending}", Image.fromarray(rows(0, 1).astype(np.uint8)))
        assert indices(read_dataset(root))["images/b.jpg"] == [0, 1]

    def test_case_93_16_bits(self, tmp_path):
        root = made.masks(tmp_path / "root", {"a": rows(0, 1).astype(np.uint16), "b": [1]})
        assert indices(read_dataset(root))["images/a.jpg"] == [0, 1]
        made.grey(root / "masks/a.png", rows(0, 300).astype(np.uint16))
        assert "300 (25.0% of the pixels)" in str(refusal(root))
        (root / "classes.txt").unlink()
        assert refusal(root).code == "unknown_mask_value"

    def test_case_93_transparency_says_nothing(self, tmp_path):
        root = made.masks(tmp_path)
        alpha = Image.fromarray(np.stack([rows(0, 1), rows(0, 255)], axis=-1).astype(np.uint8), "LA")
        pillow(root / "masks/a.png", alpha)
        assert indices(read_dataset(root))["images/a.jpg"] == [0, 1]

    def test_case_93_floats(self, tmp_path):
        root = made.masks(tmp_path / "root")
        (root / "masks/b.png").unlink()
        pillow(root / "masks/b.tif", Image.fromarray(rows(0, 1).astype(np.float32)))
        assert refusal(root).code == "unsupported_mask"


def few_bits(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits a pixel, which no library at hand writes."""
    import struct
    import zlib

    height, width = values.shape
    per_byte = 8 // bits
    packed = np.zeros((height, width // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= (values[:, place::per_byte] << (8 - bits * (place + 1))).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_case_94_missing_masks_and_masks_without_an_image(tmp_path):
    root = made.masks(tmp_path, {"a": [0, 1], "b": [1], "c": [0]})
    (root / "masks/b.png").unlink()
    (root / "images/c.jpg").unlink()
    dataset = read_dataset(root)
    assert [s.key for s in dataset.samples] == ["images/a.jpg"]
    assert [(f.code, str(f.outcome), f.where) for f in dataset.findings] == [
        ("missing_mask", "quarantine", "images/b.jpg"),
        ("mask_without_image", "warn", ""),
    ]
    assert "masks/c.png" in dataset.findings[1].message


def test_case_94_a_mask_of_nothing_but_ignored_pixels(tmp_path):
    root = made.masks(tmp_path, {"a": [0, 1], "b": [255]})
    dataset = read_dataset(root, ignore=[255])
    assert [(f.code, str(f.outcome), f.where) for f in dataset.findings] == [
        ("all_ignored", "warn", "images/b.jpg")
    ]
    assert dataset.samples[1].annotation.names == ()
    assert (decode_mask(dataset.samples[1].annotation, classes=dataset.classes) == IGNORED).all()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"not an image", "not_image"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "lfs_pointer"),
        (few_bits(rows(0, 1), 1)[:60], "truncated"),
        (None, "too_large"),
    ],
)
def test_masks_that_cannot_be_read_are_left_out(tmp_path, content, code):
    root = made.masks(tmp_path, {"a": [0, 1], "b": [1]})
    if content is None:
        stream = io.BytesIO()
        Image.new("1", (9400, 9400)).save(stream, "PNG")
        content = stream.getvalue()
    (root / "masks/b.png").write_bytes(content)
    dataset = read_dataset(root)
    assert codes(dataset) == {code: "quarantine"}
    assert dataset.findings[0].where == "masks/b.png"
    assert len(dataset) == 1


def test_links_out_of_the_folder_and_pipes_are_not_opened(tmp_path):
    root = made.masks(tmp_path / "root", {"a": [0, 1], "b": [1], "c": [0]})
    outside = made.grey(tmp_path / "outside.png", [0])
    (root / "masks/b.png").unlink()
    (root / "masks/b.png").symlink_to(outside)
    (root / "masks/c.png").unlink()
    os.mkfifo(root / "masks/c.png")
    with within(5):
        dataset = read_dataset(root)
    assert codes(dataset) == {
        "outside_root": "quarantine",
        "special_file": "quarantine",
        "missing_mask": "quarantine",
    }
    assert len(read_dataset(root, follow_outside=True)) == 2


def test_many_masks_are_opened_and_no_thread_stays(tmp_path):
    root = made.masks(tmp_path, {f"{n:03}": [n % 2] for n in range(40)})
    dataset = read_dataset(root)
    assert [s.annotation.names for s in dataset.samples[:2]] == [("sky",), ("road",)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictune-masks")]


def test_the_fingerprint_follows_the_pixels(tmp_path):
    root = made.masks(tmp_path)
    first = read_dataset(root).fingerprint
    assert read_dataset(root).fingerprint == first
    made.grey(root / "masks/b.png", [1, 0])
    assert read_dataset(root).fingerprint != first


@settings(deadline=None)  # a table of all colours takes a moment to make
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 2**24 - 1)),
        min_size=1,
        max_size=12,
        unique_by=(lambda pair: pair[0], lambda pair: pair[1]),
    ),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_every_pixel_gets_the_class_of_its_value(tmp_path_factory, pairs, seed, coloured):
    values = [value for value, _ in pairs]
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), (9, 13))
    ignored = frozenset(values[:1]) if len(values) > 1 else frozenset()
    path = tmp_path_factory.mktemp("mask") / "m.png"
    if coloured:
        colours = np.array([colour for _, colour in pairs])
        rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)
        Image.fromarray(rgb[picks]).save(path)
        value_of = dict(zip(values, colours.tolist(), strict=True))
    else:
        cv2.imwrite(os.fspath(path), np.array(values, np.uint8)[picks])
        value_of = {value: value for value in values}
    taught = [value for value in values if value not in ignored]
    names = [f"c{value}" for value in taught]
    legend = Legend(
        {value_of[value]: name for value, name in zip(taught, names, strict=True)},
        frozenset(value_of[value] for value in ignored),
        coloured,
    )
    classes = list(generator.permutation(names))
    found = decode_mask(Mask(path, legend), classes=classes)
    wanted = [IGNORED if value in ignored else classes.index(f"c{value}") for value in values]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.array(wanted, np.uint8)[picks])
    counted = count_mask(path, legend).pixels
    assert counted == {
        value_of[value]: int(number)
        for value, number in zip(values, np.bincount(picks.reshape(-1), minlength=len(values)), strict=True)
        if number
    }
