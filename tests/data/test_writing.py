"""What is written in another format is what was read, or what is lost is said."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import annotated_folders as made
import numpy as np
import pytest
from annotated_folders import annotation, document
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_folders import snapshot
from PIL import Image
from test_formats_boxes import CAT, turned

from pictune.data.formats import read_dataset
from pictune.data.formats.writing import WRITERS, write_dataset
from pictune.data.masking import IGNORED, decode_mask
from pictune.errors import DataError, MachineError
from pictune.verbs.convert import Converted, convert

BOXES = [name for name, target in WRITERS.items() if target.task == "detection"]


def content(dataset) -> dict[str, list]:
    """Split, and sorted label, corners and crowd of every box, by the image's stem."""
    found = {}
    for sample in dataset.samples:
        boxes = sample.annotation
        crowd = [False] * len(boxes) if boxes.crowd is None else boxes.crowd.tolist()
        rows = [
            (label, many, *(round(value, 3) for value in corners))
            for label, many, corners in zip(boxes.labels, crowd, boxes.corners.tolist(), strict=True)
        ]
        found[Path(sample.key).stem] = [sample.given_split, *sorted(rows)]
    return found


def kinds(dataset) -> set[str]:
    return {finding.code for finding in dataset.findings}


@pytest.fixture
def rich(tmp_path) -> Path:
    """Boxes with crowds, areas, outlines, splits, an empty image, and files of one name."""
    root = tmp_path / "rich"
    for split, names in (("train", ("x/a.png", "y/a.png")), ("val", ("b.png", "empty.png"))):
        for seed, name in enumerate(names):
            made.image(root / "images" / split / name, seed + len(split))
        entries = [
            annotation(1, 1, [10, 10, 20.5, 20], area=123.5, segmentation=[[10, 10, 30, 10, 30, 30]]),
            annotation(2, 1, [1, 2, 30, 30], 2, iscrowd=1, area=7),
        ]
        content = document(
            entries if split == "train" else [annotation(1, 1, [5, 6, 30, 20], 2)], names=names
        )
        if split == "train":
            content["annotations"].append(annotation(3, 2, [3, 3, 10, 10], iscrowd=1, area=100))
        made.text(root / f"{split}.json", json.dumps(content))
    return root


EXPECTED = {
    "x_a": ["train", ("cat", False, 10, 10, 30.5, 30), ("dog", True, 1, 2, 31, 32)],
    "y_a": ["train", ("cat", True, 3, 3, 13, 13)],
    "b": ["val", ("dog", False, 5, 6, 35, 26)],
    "empty": ["val"],
}


def as_written(dataset):
    """The contents with the part of the name that only tells files of one name apart."""
    return {stem.removeprefix("images_train_"): rows for stem, rows in content(dataset).items()}


@pytest.mark.parametrize("format", BOXES)
def test_boxes_are_read_back_as_they_were(rich, tmp_path, format):
    source = read_dataset(rich)
    before = snapshot(rich)
    sentences = write_dataset(source, tmp_path / "out", format=format)
    assert snapshot(rich) == before
    again = read_dataset(tmp_path / "out")
    assert again.format == format
    expected = dict(EXPECTED)
    if format == "yolo":
        expected["x_a"] = EXPECTED["x_a"][:2]
        del expected["y_a"]
        assert any("crowds: 2 boxes left out" in sentence for sentence in sentences)
        assert any("nothing but crowds" in sentence for sentence in sentences)
    assert as_written(again) == expected
    assert set(again.classes) == {"cat", "dog"}
    assert kinds(again) <= {"background"}
    told = "\n".join(sentences)
    assert ("outline" in told) == (format != "coco")
    assert ("areas" in told) == (format != "coco")
    for sample in again.samples:
        assert (sample.width, sample.height) == made.SIZE
    copies = {path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert copies <= {sample.path.read_bytes() for sample in source.samples}


def test_coco_keeps_areas_outlines_and_crowds_and_counts_ids_from_1(rich, tmp_path):
    assert write_dataset(read_dataset(rich), tmp_path / "out", format="coco") == []
    found = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [entry["id"] for entry in found["annotations"]] == [1, 2, 3]
    assert [entry["iscrowd"] for entry in found["annotations"]] == [0, 1, 1]
    assert [entry["area"] for entry in found["annotations"]] == [123.5, 7, 100]
    assert found["annotations"][0]["segmentation"] == [[10, 10, 30, 10, 30, 30]]
    assert found["annotations"][0]["bbox"] == [10, 10, 20.5, 20]
    assert [entry["id"] for entry in found["images"]] == [1, 2]
    assert found["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def test_voc_says_what_becomes_of_crowds_and_fractions(rich, tmp_path):
    told = "\n".join(write_dataset(read_dataset(rich), tmp_path / "out", format="voc"))
    assert "2 crowd boxes written as difficult" in told
    assert "1 box has corners between pixels" in told
    assert sorted(path.name for path in (tmp_path / "out/ImageSets/Main").iterdir()) == [
        "train.txt",
        "val.txt",
    ]
    xml = (tmp_path / "out/Annotations/b.xml").read_text()
    assert "<xmin>5</xmin><ymin>6</ymin><xmax>35</xmax><ymax>26</ymax>" in xml


def test_whole_pixels_stay_whole_on_the_way_through_shares_of_a_side(tmp_path):
    """YOLO writes shares, which do not bring 92 pixels of 640 back exactly; VOC wants whole numbers."""
    (tmp_path / "in").mkdir()
    made.image(tmp_path / "in/images/a.jpg", 1, size=(640, 480))
    table = "path,left,top,right,bottom,label\nimages/a.jpg,92,17,299,331,cat\n"
    (tmp_path / "in/boxes.csv").write_text(table, encoding="utf-8")
    convert(tmp_path / "in", to="yolo", out=tmp_path / "yolo")
    back = convert(tmp_path / "yolo", to="voc", out=tmp_path / "voc")
    assert not any("between pixels" in sentence for sentence in back.lost)
    written = next((tmp_path / "voc").rglob("*.xml")).read_text()
    assert "<xmin>92</xmin><ymin>17</ymin><xmax>299</xmax><ymax>331</ymax>" in written


def test_groups_stay_in_tables_only(tmp_path):
    rows = "pictures/a.png,cat,10,10,30,30,p1\npictures/b.png,dog,5,6,35,26,p2\n"
    root = made.box_table(tmp_path / "root", rows, header="image,label,xmin,ymin,xmax,ymax,group")
    source = read_dataset(root)
    for format in BOXES:
        told = "\n".join(write_dataset(source, tmp_path / format, format=format))
        assert ("groups" in told) == (format != "box_table")
    assert [s.group for s in read_dataset(tmp_path / "box_table").samples] == ["p1", "p2"]


LABELS = st.sampled_from(["cat", "01", "nan", "no", "a b", "<x>&\"'", "ü, ;", "{y}: - #", "猫"])
CORNERS = st.tuples(st.floats(0, 50), st.floats(0, 30), st.floats(2, 14), st.floats(2, 18))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.lists(st.tuples(LABELS, CORNERS, st.booleans()), max_size=4, unique_by=lambda row: row[:2]),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.sampled_from(BOXES), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_journey_through_all_formats_changes_nothing(tmp_path_factory, images, route, splits):
    home = tmp_path_factory.mktemp("journey")
    crowded = "yolo" not in route
    images = images if any(images) else [[("cat", (1.0, 2.0, 10.0, 12.0), False)]]
    lines = ["image,label,xmin,ymin,xmax,ymax,crowd,split"]
    for number, boxes in enumerate(images):
        made.image(home / f"table/{number}.png", number)
        split = ("train", "val")[number % 2] if splits and len(images) > 1 else ""
        for label, (x, y, w, h), many in boxes:
            quoted = label.replace('"', '""')
            lines.append(
                f'{number}.png,"{quoted}",{x!r},{y!r},{x + w!r},{y + h!r},{int(many and crowded)},{split}'
            )
        if not boxes:
            lines.append(f"{number}.png,,,,,,,{split}")
    made.text(home / "table/boxes.csv", "\n".join(lines))
    dataset = first = read_dataset(home / "table")
    for step, format in enumerate(route):
        write_dataset(dataset, home / f"{step}", format=format)
        dataset = read_dataset(home / f"{step}")
        assert dataset.format == format
    assert set(dataset.classes) == set(first.classes)
    assert {stem: rows[0] for stem, rows in content(dataset).items()} == {
        stem: rows[0] for stem, rows in content(first).items()
    }
    by_stem = [{Path(s.key).stem: s for s in found.samples} for found in (first, dataset)]
    for stem, before in by_stem[0].items():
        after = by_stem[1][stem]
        order = [np.lexsort((*b.annotation.corners.T, b.annotation.labels)) for b in (before, after)]
        assert [before.annotation.labels[i] for i in order[0]] == [
            after.annotation.labels[i] for i in order[1]
        ]
        crowds = [
            content(found)[stem][1:] and [row[1] for row in content(found)[stem][1:]]
            for found in (first, dataset)
        ]
        assert crowds[0] == crowds[1]
        np.testing.assert_allclose(
            before.annotation.corners[order[0]], after.annotation.corners[order[1]], atol=1e-5
        )


def test_case_75_one_perfect_box_has_an_average_precision_of_1(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root = made.coco(
        tmp_path / "root", document([annotation(0, 1, [10, 10, 20, 20])], names=["a.png"]), names=["a.png"]
    )
    write_dataset(read_dataset(root), tmp_path / "out", format="coco")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out/annotations/instances.json"))
        found = truth.loadRes([{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}])
        judge = COCOeval(truth, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("splits", [False, True])
def test_masks_are_read_back_as_they_were(tmp_path, splits):
    for split in ("train", "val") if splits else ("",):
        for seed, stem in enumerate("ab"):
            made.image(tmp_path / f"root/images/{split}/{stem}{split}.jpg", seed + len(split))
            made.grey(tmp_path / f"root/masks/{split}/{stem}{split}.png", [0, 1, 11] if seed else [1, 5])
    made.text(tmp_path / "root/classes.csv", "id,name\n0,sky\n1,road\n5,car\n")
    source = read_dataset(tmp_path / "root", ignore=[11])
    assert write_dataset(source, tmp_path / "out", format="masks") == []
    again = read_dataset(tmp_path / "out")
    assert again.classes == source.classes == ("sky", "road", "car")
    assert [s.given_split for s in again.samples] == [s.given_split for s in source.samples]
    for before, after in zip(source.samples, again.samples, strict=True):
        first = decode_mask(before.annotation, classes=source.classes)
        np.testing.assert_array_equal(first, decode_mask(after.annotation, classes=source.classes))
    assert (first == IGNORED).any()
    assert not again.findings


def test_coloured_masks_become_numbers_and_it_is_said(tmp_path):
    root = made.masks(tmp_path / "root", {"a": [0]}, names=None)
    made.text(root / "class_dict.csv", "name,r,g,b\nroad,128,64,128\nsky,70,130,180\n")
    colours = np.array([[128, 64, 128], [70, 130, 180]], np.uint8)
    Image.fromarray(colours[np.indices((48, 64)).sum(axis=0) % 2]).save(root / "masks/a.png")
    (told,) = write_dataset(read_dataset(root), tmp_path / "out", format="masks")
    assert "colours are left out" in told
    (sample,) = read_dataset(tmp_path / "out").samples
    assert not sample.annotation.legend.coloured
    assert decode_mask(sample.annotation, classes=("road", "sky"))[0, :4].tolist() == [0, 1, 0, 1]


class TestRefusals:
    """Nothing is written over, and nothing among the user's data."""

    def refused(self, dataset, folder, format="coco") -> DataError:
        with pytest.raises(DataError) as caught:
            write_dataset(dataset, folder, format=format)
        assert caught.value.instead
        return caught.value

    def test_a_folder_that_is_not_empty(self, tmp_path):
        dataset = read_dataset(made.coco(tmp_path / "root"))
        made.text(tmp_path / "full/x", "mine")
        assert self.refused(dataset, tmp_path / "full").code == "not_empty"
        assert self.refused(dataset, tmp_path / "full/x").code == "not_empty"
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        assert self.refused(dataset, tmp_path / "link").code == "not_empty"
        assert [path.name for path in (tmp_path / "full").iterdir()] == ["x"]
        (tmp_path / "empty").mkdir()
        write_dataset(dataset, tmp_path / "empty", format="coco")
        assert len(read_dataset(tmp_path / "empty")) == 2

    def test_inside_the_data(self, tmp_path):
        root = made.coco(tmp_path / "root")
        dataset = read_dataset(root)
        before = snapshot(tmp_path)
        for folder in (root / "out", root / "a/b/c", tmp_path / "x/../root/out"):
            assert self.refused(dataset, folder).code == "inside_data"
        assert self.refused(dataset, root).code == "not_empty"
        assert snapshot(tmp_path) == before

    def test_formats(self, tmp_path):
        boxes, masks = read_dataset(made.coco(tmp_path / "b")), read_dataset(made.masks(tmp_path / "m"))
        assert "did you mean coco?" in str(self.refused(boxes, tmp_path / "out", "cocoo"))
        assert self.refused(boxes, tmp_path / "out", "masks").code == "wrong_task"
        error = self.refused(masks, tmp_path / "out", "voc")
        assert error.code == "wrong_task"
        assert "masks" in error.instead
        assert not (tmp_path / "out").exists()

    def test_names_that_xml_cannot_hold(self, tmp_path):
        content = document(made.GOOD)
        content["categories"][0]["name"] = "a\ufffe"
        dataset = read_dataset(made.coco(tmp_path / "root", json.dumps(content)))
        assert self.refused(dataset, tmp_path / "out").code == "unwritable_name"

    def test_nothing_is_left_when_something_goes_wrong(self, tmp_path):
        root = made.masks(tmp_path / "root")
        dataset = read_dataset(root)
        made.grey(root / "masks/b.png", [77])
        assert self.refused(dataset, tmp_path / "out", "masks").code == "unknown_mask_value"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]

    def test_a_disk_without_room(self, tmp_path, monkeypatch):
        dataset = read_dataset(made.coco(tmp_path / "root"))
        from pictune.data.formats import writing

        monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
        with pytest.raises(MachineError):
            write_dataset(dataset, tmp_path / "out", format="coco")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", BOXES)
def test_odd_file_names_are_read_back(tmp_path, format):
    names = [
        "ä b.PNG",
        "-x.png",
        ".hidden.png",
        "a,b;c.png",
        "q'\"<&>.png",
        "back\\slash.png",
        "no_ending",
        "猫.png",
    ]
    for seed, name in enumerate(names):
        made.image(tmp_path / "root/x.png", seed).rename(tmp_path / "root" / name)
    boxes = [annotation(n, n, [n, 10, 20, 20]) for n in range(1, len(names) + 1)]
    made.text(tmp_path / "root/instances.json", json.dumps(document(boxes, names=names)))
    source = read_dataset(tmp_path / "root")
    assert len(source) == len(names)
    write_dataset(source, tmp_path / "out", format=format)
    again = read_dataset(tmp_path / "out")
    assert sorted(s.annotation.corners[0, 0] for s in again.samples) == list(range(1, len(names) + 1))
    assert kinds(again) <= {"unused_class"}


def test_files_of_one_name_stay_apart(tmp_path):
    names = ["a/b.png", "a_b.png", "c/b.png", "c/B.jpg", "A_B-2.png", "d/e.png"]
    for seed, name in enumerate(names):
        made.image(tmp_path / "root/images" / name, seed)
    boxes = [annotation(n, n, [n, 10, 20, 20]) for n in range(1, len(names) + 1)]
    made.text(tmp_path / "root/instances.json", json.dumps(document(boxes, names=names, categories=CAT)))
    source = read_dataset(tmp_path / "root")
    write_dataset(source, tmp_path / "out", format="voc")
    again = read_dataset(tmp_path / "out")
    assert len({Path(s.key).stem.casefold() for s in again.samples}) == len(names)
    pairs = [
        {(s.path.read_bytes(), float(s.annotation.corners[0, 0])) for s in found.samples}
        for found in (source, again)
    ]
    assert pairs[0] == pairs[1]


def test_splits_are_those_of_the_dataset_before_those_of_the_samples(tmp_path):
    from dataclasses import replace

    dataset = read_dataset(made.coco(tmp_path / "root"))
    dataset = replace(dataset, splits={"train": (1,), "test": (0,)})
    assert write_dataset(dataset, tmp_path / "out", format="voc") == []
    assert content(read_dataset(tmp_path / "out"))["a"][0] == "test"
    partly = replace(dataset, splits={"train": (1,)})
    (told,) = write_dataset(partly, tmp_path / "partly", format="voc")
    assert "Splits are not written, because 1 image of 2 have none." in told


class TestConvert:
    """The verb."""

    def test_converts_and_says_what_it_did(self, rich, tmp_path):
        before = snapshot(rich)
        seen = []
        result = convert(rich, to="voc", out=tmp_path / "out", progress=lambda *step: seen.append(step))
        assert isinstance(result, Converted)
        assert snapshot(rich) == before
        assert result.summary().startswith("4 pictures, 2 classes, 4 boxes: Pascal VOC.\n")
        assert "written as difficult" in result.summary()
        assert str(tmp_path / "out") in result.summary()
        rows = json.loads(json.dumps(result.rows()))
        assert (rows["images"], rows["boxes"], rows["format"]) == (4, 4, "voc")
        assert rows["classes"] == ["cat", "dog"]
        assert len(rows["lost"]) == 4
        assert seen == [(n, 4) for n in range(1, 5)]
        assert as_written(read_dataset(tmp_path / "out")) == EXPECTED

    def test_case_80_pictures_of_other_sizes_are_all_named(self, tmp_path):
        root = made.coco(tmp_path / "root")
        made.image(root / "a.png", 1, (32, 24))
        made.image(root / "b.png", 1, (64, 40))
        with pytest.raises(DataError) as caught:
            convert(root, to="voc", out=tmp_path / "out")
        assert caught.value.code == "size_differs"
        assert all(word in str(caught.value) for word in ("a.png", "32 x 24", "b.png", "64 x 40"))
        assert not (tmp_path / "out").exists()

    def test_case_80_boxes_are_turned_with_the_picture(self, tmp_path):
        root = made.coco(
            tmp_path / "root", document([annotation(1, 1, [16, 8, 40, 16])], names=["a.jpg"]), names=["a.jpg"]
        )
        turned(root / "a.jpg", 6)
        result = convert(root, to="box_table", out=tmp_path / "out")
        assert content(result.dataset) == {"a": [None, ("cat", False, 24, 16, 40, 56)]}
        assert content(read_dataset(tmp_path / "out")) == content(result.dataset)
        assert any("EXIF" in sentence for sentence in result.lost)
        assert kinds(result.dataset) == {"turned_boxes", "unused_class"}

    def test_case_83_too_many_bad_boxes_stop(self, tmp_path):
        boxes = [annotation(n, 1, [n, 10, 20, 20]) for n in range(15)] + [annotation(50, 1, [1, 2])]
        root = made.coco(tmp_path / "root", document(boxes, names=["a.png"]), names=["a.png"])
        with pytest.raises(DataError) as caught:
            convert(root, to="voc", out=tmp_path / "out")
        assert caught.value.code == "too_many_bad_boxes"
        convert(root, to="voc", out=tmp_path / "out", settings=["data.max_bad=0.2"])

    def test_case_92_masks_of_another_size_are_left_out(self, tmp_path):
        root = made.masks(tmp_path / "root", {stem: [0, 1] for stem in "abcdefghijklmnopqrstuvwx"})
        made.grey(root / "masks/a.png", [0, 1], size=(32, 24))
        result = convert(root, to="masks", out=tmp_path / "out")
        assert len(result.dataset) == len(read_dataset(tmp_path / "out")) == 23
        assert kinds(result.dataset) == {"mask_size"}
        assert result.summary().startswith("23 pictures, 2 classes: masks.\n")

    def test_pictures_that_cannot_be_read_count(self, tmp_path):
        root = made.coco(tmp_path / "root")
        (root / "a.png").write_bytes(b"no picture")
        with pytest.raises(DataError) as caught:
            convert(root, to="voc", out=tmp_path / "out")
        assert caught.value.code == "class_lost"

    def test_options_reach_the_reader(self, tmp_path):
        root = made.coco(tmp_path / "root")
        file = made.text(tmp_path / "apart/x.json", (root / "instances.json").read_bytes())
        assert len(convert(file, to="yolo", out=tmp_path / "y", image_folder=root).dataset) == 2
        masks = made.masks(tmp_path / "m", names=None)
        result = convert(
            masks,
            to="masks",
            out=tmp_path / "o",
            classes=["sky", "road"],
            ignore=[0],
            settings=["data.format=masks"],
        )
        assert result.dataset.classes == ("road",)

    def test_wrong_orders_are_refused_before_anything_is_written(self, tmp_path):
        root = made.coco(tmp_path / "root")
        before = snapshot(tmp_path)
        for to, out, code in (
            ("masks", "out", "wrong_task"),
            ("x", "out", "unknown_format"),
            ("voc", "root", "not_empty"),
            ("voc", "root/out", "inside_data"),
        ):
            with pytest.raises(DataError) as caught:
                convert(root, to=to, out=tmp_path / out)
            assert caught.value.code == code
        assert snapshot(tmp_path) == before

    def test_class_folders_are_refused(self, tmp_path):
        for seed, name in enumerate(("cat/a.png", "dog/b.png")):
            made.image(tmp_path / "root" / name, seed)
        with pytest.raises(DataError) as caught:
            convert(tmp_path / "root", to="coco", out=tmp_path / "out")
        assert caught.value.code == "wrong_task"
