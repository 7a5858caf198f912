"""Boxes in COCO, Pascal VOC, YOLO and tables: what is read, what is refused, and what becomes of odd boxes.

The cases are numbered as in the acceptance plan for reliability.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import annotated_folders as made
import numpy as np
import pytest
from annotated_folders import annotation, document
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from picture_folders import files, snapshot, within

from pictune.data.formats import FORMATS, read_dataset
from pictune.data.formats.boxes import box_losses
from pictune.data.formats.fitting import fit_boxes, fit_sample
from pictune.data.formats.outlines import outline_complaint
from pictune.data.sample import Boxes, Sample
from pictune.errors import DataError

WIDTH, HEIGHT = made.SIZE


def boxes_of(dataset) -> dict[str, list[tuple[str, ...]]]:
    """Label and corners of every box, by the image's file name."""
    return {
        Path(sample.key).name: [
            (label, *(round(value, 6) for value in corners))
            for label, corners in zip(
                sample.annotation.labels, sample.annotation.corners.tolist(), strict=True
            )
        ]
        for sample in dataset.samples
    }


def codes(dataset) -> dict[str, str]:
    return {finding.code: str(finding.outcome) for finding in dataset.findings}


def refusal(path, **options) -> DataError:
    before = snapshot(path.parent)
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    assert snapshot(path.parent) == before
    assert caught.value.instead
    return caught.value


def coco_of(tmp_path, content, **more):
    return read_dataset(made.coco(tmp_path / "root", content, **more))


CAT = [{"id": 1, "name": "cat"}]


def one(box, **more):
    """A COCO file with this box, and a good one beside it in the same image."""
    return document(
        [annotation(1, 1, [10, 10, 20, 20]), annotation(2, 1, box, **more)], names=["a.png"], categories=CAT
    )


# -- layouts


def splits_of(dataset):
    return {sample.key: sample.given_split for sample in dataset.samples}


class TestCoco:
    def test_a_file_and_a_folder(self, tmp_path):
        root = made.coco(tmp_path / "root")
        expected = {"a.png": [("cat", 10, 10, 30, 30)], "b.png": [("dog", 5, 6, 35, 26)]}
        for path in (root, root / "instances.json"):
            dataset = read_dataset(path)
            assert boxes_of(dataset) == expected
            assert (dataset.format, dataset.task, dataset.root) == ("coco", "detection", path)
            assert dataset.classes == ("cat", "dog")
            assert not dataset.findings
            assert [s.key for s in dataset.samples] == ["a.png", "b.png"]
            assert splits_of(dataset) == {"a.png": None, "b.png": None}

    @pytest.mark.parametrize(
        ("file", "folder"),
        [
            ("annotations/instances_train2017.json", "train2017"),
            ("annotations/instances_train2017.json", "images/train2017"),
            ("annotations/train.json", "images"),
            ("train.json", "images/train"),
            ("train/_annotations.coco.json", "train"),
            ("train/annotations/boxes.json", "train/images"),
        ],
    )
    def test_splits(self, tmp_path, file, folder):
        for split in ("train", "val"):
            place = folder.replace("train", split)
            made.image(tmp_path / "root" / place / f"{split}.png", len(split))
            content = document(made.GOOD[:1], names=[f"{split}.png"])
            made.text(tmp_path / "root" / file.replace("train", split), json.dumps(content))
        dataset = read_dataset(tmp_path / "root")
        assert splits_of(dataset) == {
            f"{folder.replace('train', split)}/{split}.png": split for split in ("train", "val")
        }

    def test_one_file_of_two_has_no_split_and_finds_its_images(self, tmp_path):
        root = tmp_path / "root"
        made.image(root / "val2017/a.png", 1)
        made.image(root / "train2017/a.png", 2)
        file = made.text(
            root / "annotations/instances_val2017.json", json.dumps(document(made.GOOD[:1], names=["a.png"]))
        )
        assert splits_of(read_dataset(file)) == {"val2017/a.png": None}
        assert splits_of(read_dataset(root)) == {"val2017/a.png": None}

    def test_instances_count_before_captions(self, tmp_path):
        root = made.coco(tmp_path / "root")
        (root / "annotations").mkdir()
        (root / "instances.json").rename(root / "annotations/instances_all.json")
        made.text(root / "annotations/captions_all.json", '{"images": [], "annotations": [{"caption": ""}]}')
        assert len(read_dataset(root)) == 2

    def test_several_files_without_splits_are_all_named(self, tmp_path):
        root = made.coco(tmp_path / "root")
        made.text(root / "more.json", json.dumps(document()))
        error = refusal(root)
        assert error.code == "several_files"
        assert all(file in str(error) for file in ("instances.json", "more.json"))

    def test_the_folder_of_images_can_be_named(self, tmp_path):
        root = made.coco(tmp_path / "root")
        made.text(tmp_path / "elsewhere/x.json", (root / "instances.json").read_bytes())
        dataset = read_dataset(tmp_path / "elsewhere/x.json", image_folder=root)
        assert [s.path for s in dataset.samples] == [root / "a.png", root / "b.png"]
        assert refusal(tmp_path / "elsewhere/x.json", image_folder=root / "no").code == "absent"

    def test_an_image_in_two_splits(self, tmp_path):
        root = made.coco(tmp_path / "root")
        for split in ("train", "val"):
            made.text(root / f"{split}.json", (root / "instances.json").read_bytes())
        (root / "instances.json").unlink()
        error = refusal(root)
        assert error.code == "duplicate_image"
        assert "a.png" in str(error)

    def test_crowd_area_and_outline_are_kept(self, tmp_path):
        polygon = [[10, 10, 30, 10, 30, 30]]
        content = one([1, 2, 30, 40], iscrowd=1, area=77.5)
        content["annotations"][0]["segmentation"] = polygon
        (sample,) = coco_of(tmp_path, content, names=["a.png"]).samples
        found = sample.annotation
        assert found.crowd.tolist() == [False, True]
        assert found.areas.tolist() == [400, 77.5]
        assert found.outlines == (polygon, None)
        assert (sample.width, sample.height) == made.SIZE

    def test_an_outline_alone_gives_the_box(self, tmp_path):
        content = one(None, segmentation=[[10, 10, 30, 12, 20, 40], [5, 20, 6, 21, 7, 20]])
        del content["annotations"][1]["bbox"]
        dataset = coco_of(tmp_path, content, names=["a.png"])
        assert boxes_of(dataset)["a.png"][1] == ("cat", 5, 10, 30, 40)


class TestVoc:
    @pytest.mark.parametrize(
        ("xml", "images"),
        [
            ("Annotations", "JPEGImages"),
            ("annotations", "images"),
            ("xml", "img"),
            (".", "."),
            (".", "images"),
        ],
    )
    def test_folders(self, tmp_path, xml, images):
        for seed, stem in enumerate("ab"):
            made.image(tmp_path / images / f"{stem}.png", seed)
            made.text(tmp_path / xml / f"{stem}.xml", made.voc_xml([("cat", 10, 10, 30, 30)]))
        dataset = read_dataset(tmp_path)
        assert (dataset.format, dataset.task, dataset.classes) == ("voc", "detection", ("cat",))
        assert boxes_of(dataset)["a.png"] == [("cat", 10, 10, 30, 30)]
        assert not dataset.findings

    @pytest.mark.parametrize(
        ("xml", "images"),
        [
            ("train", "train"),
            ("train/annotations", "train/images"),
            ("Annotations/train", "JPEGImages/train"),
            ("annotations/train2020", "images/train2020"),
        ],
    )
    def test_split_folders(self, tmp_path, xml, images):
        for split in ("train", "val"):
            made.image(tmp_path / images.replace("train", split) / "a.jpg", len(split))
            made.text(
                tmp_path / xml.replace("train", split) / "a.xml", made.voc_xml([("cat", 10, 10, 30, 30)])
            )
        found = splits_of(read_dataset(tmp_path))
        assert found == {f"{images.replace('train', split)}/a.jpg": split for split in ("train", "val")}

    @pytest.mark.parametrize(
        ("lists", "expected"),
        [
            ({"train": "a", "val": "b", "trainval": "a\nb"}, {"a": "train", "b": "val"}),
            ({"train": "a\n", "test": "b\n"}, {"a": "train", "b": "test"}),
            ({"trainval": "a", "test": "b"}, {"a": "train", "b": "test"}),
            ({"train": "a", "cat_train": "a 1\nb -1"}, {"a": "train"}),
        ],
    )
    def test_lists(self, tmp_path, lists, expected):
        root = made.voc(tmp_path / "root")
        for name, stems in lists.items():
            made.text(root / f"ImageSets/Main/{name}.txt", stems)
        dataset = read_dataset(root)
        assert splits_of(dataset) == {f"JPEGImages/{stem}.jpg": split for stem, split in expected.items()}
        assert codes(dataset) == ({} if len(expected) == 2 else {"not_in_lists": "normalise"})

    def test_a_stem_in_two_lists_and_one_without_xml(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.text(root / "ImageSets/Main/train.txt", "a\nb\ngone")
        dataset = read_dataset(root)
        assert codes(dataset) == {"missing_annotation": "quarantine"}
        made.text(root / "ImageSets/Main/val.txt", "b\n")
        error = refusal(root)
        assert error.code == "conflicting_split"
        assert "val.txt:1" in str(error)

    def test_difficult_is_crowd_and_corners_stay_as_they_are(self, tmp_path):
        root = made.voc(tmp_path / "root", {"a": [("cat", 1, 1, 64, 48, 1), ("cat", 2.5, 3, 20, 20)]})
        (sample,) = read_dataset(root).samples
        assert sample.annotation.crowd.tolist() == [True, False]
        assert sample.annotation.corners.tolist() == [[1, 1, 64, 48], [2.5, 3, 20, 20]]

    def test_filename_counts_only_where_no_image_has_the_name(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.text(root / "Annotations/c.xml", made.voc_xml([("cat", 1, 2, 30, 30)], name="other.jpg"))
        made.image(root / "JPEGImages/other.jpg", 7)
        made.text(root / "Annotations/a.xml", made.voc_xml([("cat", 1, 2, 30, 30)], name="/etc/passwd"))
        assert [s.key for s in read_dataset(root).samples] == [
            f"JPEGImages/{stem}.jpg" for stem in ("a", "b", "other")
        ]

    def test_two_images_of_one_name(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.image(root / "JPEGImages/a.png", 9)
        assert "JPEGImages/a.jpg" in [s.key for s in read_dataset(root).samples]  # the one the file names
        made.text(root / "Annotations/a.xml", made.voc_xml([("cat", 1, 2, 30, 30)]))
        assert codes(read_dataset(root))["ambiguous_image"] == "quarantine"

    def test_a_broken_file_is_left_out_with_line_and_column(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.text(root / "Annotations/a.xml", "<annotation>\n  <object>\n</annotation>")
        dataset = read_dataset(root)
        (finding,) = dataset.findings
        assert (finding.code, str(finding.outcome), finding.where) == (
            "malformed",
            "quarantine",
            "Annotations/a.xml",
        )
        assert "line 3, column 3" in finding.message
        assert list(boxes_of(dataset)) == ["b.jpg"]

    def test_another_kind_of_xml_is_no_background(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.text(root / "Annotations/a.xml", "<kml><object/></kml>")
        assert codes(read_dataset(root)) == {"not_voc": "quarantine"}

    @pytest.mark.parametrize(
        "declared",
        [
            b'<?xml version="1.0" encoding="ISO-8859-1"?>',
            b'<?xml version="1.0" encoding="windows-1252"?>',
        ],
    )
    def test_declared_encodings(self, tmp_path, declared):
        root = made.voc(tmp_path / "root")
        body = made.voc_xml([("bl\u00e4ttchen", 1, 2, 30, 30)]).encode("latin-1")
        made.text(root / "Annotations/a.xml", declared + body)
        assert "bl\u00e4ttchen" in read_dataset(root).classes

    def test_utf_16(self, tmp_path):
        root = made.voc(tmp_path / "root")
        made.text(root / "Annotations/a.xml", made.voc_xml([("ö", 1, 2, 30, 30)]).encode("utf-16"))
        assert "ö" in read_dataset(root).classes

    @pytest.mark.parametrize("encoding", ["rot13", "utf-7", "punycode", "zlib", "no-such"])
    def test_encodings_that_no_tool_writes(self, tmp_path, encoding):
        root = made.voc(tmp_path / "root")
        head = f'<?xml version="1.0" encoding="{encoding}"?>'
        made.text(root / "Annotations/a.xml", f"{head}+ADwAIQ-DOCTYPE x+AD4-<annotation/>")
        assert codes(read_dataset(root)) == {"encoding": "quarantine"}


class TestYolo:
    def test_folders(self, tmp_path):
        dataset = read_dataset(made.yolo(tmp_path))
        assert (dataset.format, dataset.task, dataset.classes) == ("yolo", "detection", ("cat", "dog"))
        assert boxes_of(dataset) == {"a.png": [("cat", 24, 18, 40, 30)], "b.png": [("dog", 16, 12, 48, 36)]}
        assert not dataset.findings

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            ("images/train", "labels/train"),
            ("train/images", "train/labels"),
            ("data/images/train", "data/labels/train"),
        ],
    )
    @pytest.mark.parametrize("described", [False, True])
    def test_splits(self, tmp_path, images, labels, described):
        for split in ("train", "val"):
            made.image(tmp_path / images.replace("train", split) / "a.png", len(split))
            made.text(tmp_path / labels.replace("train", split) / "a.txt", "0 0.5 0.5 0.2 0.2")
        if described:
            places = f"train: {images}\nval: {images.replace('train', 'val')}\n"
            made.text(tmp_path / "data.yaml", f"{places}test:\nnames: [cat, dog]\nnc: 2\n")
        elif images.startswith("data"):
            return  # nothing shows such a folder to be a data set
        dataset = read_dataset(tmp_path)
        assert splits_of(dataset) == {
            f"{images.replace('train', split)}/a.png": split for split in ("train", "val")
        }
        assert dataset.classes == (("cat",) if described else ("0",))

    @pytest.mark.parametrize(
        "names",
        [
            "names: [no, 01]",
            "names:\n  - no\n  - 01",
            "names:\n  0: no\n  1: 01",
            "names: {1: '01', 0: \"no\"}",
        ],
    )
    def test_names_stay_as_they_are_written(self, tmp_path, names):
        root = made.yolo(tmp_path, names=None)
        made.text(root / "data.yaml", f"path: ../datasets/x\ntrain: images\n{names}\n")
        assert read_dataset(root).classes == ("no", "01")
        assert read_dataset(root / "data.yaml").classes == ("no", "01")

    @pytest.mark.parametrize(
        "train", ["../train/images", "./train/images", "train/images/", "[train/images]", "train.txt"]
    )
    def test_places_as_people_write_them(self, tmp_path, train):
        made.image(tmp_path / "train/images/a.png")
        made.text(tmp_path / "train/labels/a.txt", "0 0.5 0.5 0.2 0.2")
        made.text(tmp_path / "train.txt", "./train/images/a.png\n\n")
        made.text(tmp_path / "data.yaml", f"train: {train}\nval: nowhere\nnames: [cat]\n")
        dataset = read_dataset(tmp_path, format="yolo")
        assert boxes_of(dataset) == {"a.png": [("cat", 25.6, 19.2, 38.4, 28.8)]}
        assert codes(dataset) == {"empty_split": "warn"}

    @pytest.mark.parametrize(
        ("train", "code"),
        [
            ("/etc", "unsafe_path"),
            ("http://x/y", "unsafe_path"),
            ("../../x", "unsafe_path"),
            ("no", "empty_split"),
        ],
    )
    def test_places_that_lead_away(self, tmp_path, train, code):
        root = made.yolo(tmp_path / "root", names=None)
        made.text(root / "data.yaml", f"train: {train}\nnames: [cat, dog]\n")
        error = refusal(root)
        assert error.code == code
        assert "data.yaml: train" in str(error)

    def test_a_list_of_images_that_leads_away(self, tmp_path):
        root = made.yolo(tmp_path / "root", names=None)
        made.text(root / "train.txt", "images/a.png\n/etc/passwd\nimages/gone.png\n")
        made.text(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
        error = refusal(root)
        assert error.code == "unsafe_path"
        assert "train.txt:2" in str(error)

    def test_polygons_give_the_box_and_are_kept(self, tmp_path):
        root = made.yolo(tmp_path, {"a": "0 0.25 0.25 0.5 0.25 0.5 0.75\n1 0.5 0.5 0.5 0.5\n"})
        (sample,) = read_dataset(root).samples
        assert sample.annotation.corners.tolist() == [[16, 12, 32, 36], [16, 12, 48, 36]]
        assert sample.annotation.outlines == ([[16, 12, 32, 12, 32, 36]], None)

    def test_numbers_without_names(self, tmp_path):
        root = made.yolo(tmp_path, names=None)
        assert read_dataset(root).classes == ("0", "1")
        assert codes(read_dataset(root)) == {"numbers_as_names": "warn"}
        named = read_dataset(root, classes=["cat", "dog", "owl"])
        assert named.classes == ("cat", "dog")
        assert codes(named) == {"unused_class": "warn"}

    def test_classes_beside_the_labels(self, tmp_path):
        root = made.yolo(tmp_path, names=None)
        made.text(root / "labels/classes.txt", "cat\ndog\n\n")
        assert read_dataset(root).classes == ("cat", "dog")

    def test_texts_beside_images(self, tmp_path):
        made.image(tmp_path / "a.png")
        made.text(tmp_path / "a.txt", "0 0.5 0.5 0.25 0.25\n")
        made.text(tmp_path / "classes.txt", "cat\n")
        assert boxes_of(read_dataset(tmp_path)) == {"a.png": [("cat", 24, 18, 40, 30)]}

    def test_sizes_are_those_of_the_upright_image(self, tmp_path):
        root = made.yolo(tmp_path, {"a": "0 0.5 0.5 1 0.5\n"})
        turned(root / "images/a.jpg", 6)
        (root / "images/a.png").unlink()
        (sample,) = read_dataset(root).samples
        assert (sample.width, sample.height) == (HEIGHT, WIDTH)
        assert sample.annotation.corners.tolist() == [[0, 16, 48, 48]]

    @pytest.mark.parametrize(
        ("yaml", "code", "word"),
        [
            ("names: [cat", "malformed", "line 2"),
            ("names: []", "bad_class_list", "empty"),
            ("names: [cat, cat]", "bad_class_list", "'cat'"),
            ("names: [cat, '']", "bad_class_list", "number 1"),
            ("names: cat", "bad_class_list", "names: [cat, dog]"),
            ("names: {a: cat}", "bad_class_list", "numbers and names"),
        ],
    )
    def test_lists_of_names_that_cannot_be_used(self, tmp_path, yaml, code, word):
        root = made.yolo(tmp_path / "root", names=None)
        file = made.text(root / "data.yaml", f"train: images\n{yaml}\n")
        with pytest.raises(DataError) as caught:
            FORMATS[[known.name for known in FORMATS].index("yolo")].read(file, _options())
        assert caught.value.code == code
        assert word in str(caught.value)

    @pytest.mark.parametrize(
        "names", ["[" * 900_000, "&a [*a]", "{" * 300, "'x"], ids=["lists", "loop", "maps", "quote"]
    )
    def test_a_deep_or_looping_yaml_file_ends(self, tmp_path, names):
        root = made.yolo(tmp_path / "root")
        made.text(root / "data.yaml", f"train: images\nnames: {names}\n")
        with within(10):
            assert refusal(root).code in ("malformed", "bad_class_list")

    def test_key_points_are_named(self, tmp_path):
        root = made.yolo(tmp_path / "root")
        made.text(root / "data.yaml", "train: images\nkpt_shape: [17, 3]\nnames: [person, dog]\n")
        error = refusal(root)
        assert error.code == "format_not_read"
        assert "key points" in str(error)

    def test_labels_without_an_image(self, tmp_path):
        root = made.yolo(tmp_path)
        made.text(root / "labels/c.txt", "0 0.5 0.5 0.2 0.2")
        assert codes(read_dataset(root)) == {"labels_without_image": "warn"}


def _options():
    from pictune.data.formats.assembly import ReadOptions

    return ReadOptions()


class TestBoxTable:
    @pytest.mark.parametrize(
        ("header", "rows"),
        [
            ("image,label,xmin,ymin,xmax,ymax", "pictures/a.png,cat,10,10,30,30\n"),
            ("filename,width,height,class,xmin,ymin,xmax,ymax", "pictures/a.png,64,48,cat,10,10,30,30\n"),
            ("path,class,x,y,w,h", "pictures/a.png,cat,10,10,20,20\n"),
            ("Image,Label,X,Y,Width,Height", "./pictures/a.png,cat,10,10,20,20\n"),
            ("image;label;left;top;right;bottom", "pictures/a.png;cat;10;10;30;30.0\n"),
            ("image,name,label,x1,y1,x2,y2", "pictures/a.png,anything,cat,10,10,30,30\n"),
        ],
    )
    def test_columns(self, tmp_path, header, rows):
        root = made.box_table(tmp_path, rows, header=header)
        for path in (root, root / "boxes.csv"):
            dataset = read_dataset(path)
            assert (dataset.format, dataset.task) == ("box_table", "detection")
            assert boxes_of(dataset) == {"a.png": [("cat", 10, 10, 30, 30)]}
            assert codes(dataset) == {"unlisted": "warn"}

    def test_splits_groups_crowds_and_images_without_objects(self, tmp_path):
        rows = (
            "pictures/a.png,cat,10,10,30,30,train,p1,0\npictures/a.png,dog,1,2,30,30,train,p1,1\n"
            "pictures/b.png,,,,,,test,p2,\n"
        )
        root = made.box_table(tmp_path, rows, header="image,label,xmin,ymin,xmax,ymax,split,group,crowd")
        a, b = read_dataset(root).samples
        assert (a.given_split, a.group, b.given_split, b.group) == ("train", "p1", "test", "p2")
        assert a.annotation.crowd.tolist() == [False, True]
        assert len(b.annotation) == 0
        assert codes(read_dataset(root)) == {"background": "warn"}
        judged = read_dataset(root, judging=True)
        assert [s.given_split for s in judged.samples] == [None, None]

    @pytest.mark.parametrize(
        ("rows", "code", "where"),
        [
            (
                "pictures/a.png,cat,1,2,30,30,train\npictures/a.png,cat,5,5,20,20,test\n",
                "conflicting_row",
                ":3",
            ),
            ("pictures/a.png,cat,1,2,30,30,holdout\n", "unknown_split", ":2"),
            ("pictures/a.png,cat,1,2,30,30,train\npictures/b.png,cat,1,2,30,30,\n", "no_split", ":3"),
            ("pictures/a.png,cat,1,2,30\n", "wrong_columns", ":2"),
            ("/etc/passwd,cat,1,2,30,30,train\n", "unsafe_path", ":2"),
        ],
    )
    def test_rows_that_are_refused(self, tmp_path, rows, code, where):
        root = made.box_table(tmp_path / "root", rows, header="image,label,xmin,ymin,xmax,ymax,split")
        error = refusal(root)
        assert error.code == code
        assert f"boxes.csv{where}" in str(error)

    @pytest.mark.parametrize(
        ("header", "options", "code", "word"),
        [
            ("image,label,xmin,ymin", {}, "missing_column", "no columns for the box"),
            ("image,xmin,ymin,xmax,ymax", {}, "missing_column", "call it 'label'"),
            ("image,label,class,xmin,ymin,xmax,ymax", {}, "ambiguous_column", "'label' and 'class'"),
            (
                "image,label,xmin,ymin,xmax,ymax",
                {"group_column": "lable"},
                "missing_column",
                "did you mean label",
            ),
            ("image,label,xmin,ymin,xmax,ymax", {"label_separator": "|"}, "unused_option", "label_separator"),
            ("image,label,xmin,ymin,xmax,ymax", {"ignore": [3]}, "unused_option", "data.ignore"),
        ],
    )
    def test_columns_that_are_refused(self, tmp_path, header, options, code, word):
        root = made.box_table(tmp_path / "root", "", header=header)
        error = (
            refusal(root, format="box_table", **options)
            if "label" in options
            else refusal(root / "boxes.csv", format="box_table", **options)
        )
        assert error.code == code
        assert word in str(error)

    def test_named_columns(self, tmp_path):
        root = made.box_table(
            tmp_path, "a.png,cat,1,2,30,30,x\n", header="image,label,xmin,ymin,xmax,ymax,who"
        )
        dataset = read_dataset(root, group_column="who", image_folder=root / "pictures")
        assert [s.group for s in dataset.samples] == ["x"]

    def test_a_table_of_boxes_can_still_be_read_as_labels(self, tmp_path):
        root = made.box_table(tmp_path)
        assert read_dataset(root, format="tables").task == "classification"


# -- recognition

LAYOUTS = {
    "voc": made.voc,
    "coco": made.coco,
    "yolo": made.yolo,
    "box_table": made.box_table,
    "masks": made.masks,
}


def _coco_as_downloaded(root: Path) -> Path:
    for split in ("train2017", "val2017"):
        made.image(root / split / f"{split}.png", len(split))
        content = document(made.GOOD[:1], names=[f"{split}.png"])
        made.text(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return root


def _bccd(root: Path) -> Path:
    made.voc(root)
    made.text(root / "ImageSets/Main/train.txt", "a\n")
    made.text(root / "ImageSets/Main/val.txt", "b\n")
    made.text(root / "LICENSE", "MIT")
    return root


def _roboflow(root: Path, *, labels: str) -> Path:
    for split in ("train", "valid"):
        images = root / split / ("images" if labels == "yolo" else "")
        made.image(images / f"{split}.jpg", len(split))
        if labels == "yolo":
            made.text(root / split / "labels" / f"{split}.txt", "0 0.5 0.5 0.2 0.2")
            made.text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: ['cat']\n")
        elif labels == "voc":
            made.text(root / split / f"{split}.xml", made.voc_xml([("cat", 1, 2, 30, 30)]))
        else:
            content = document(made.GOOD[:1], names=[f"{split}.jpg"])
            made.text(root / split / "_annotations.coco.json", json.dumps(content))
    return root


def _split_masks(root: Path) -> Path:
    for split in ("train", "test"):
        made.image(root / split / "images/a.jpg", len(split))
        made.grey(root / split / "masks/a.png", [0, 1])
    return root


def _camvid(root: Path) -> Path:
    for split in ("train", "val", "test"):
        made.image(root / "images" / split / f"{split}.jpg", len(split))
        made.grey(root / "masks" / split / f"{split}.png", [0, 11])
    return root


def _with_notes(root: Path) -> Path:
    """Masks beside a file of notes in which a number of images is named: that is no list of annotations."""
    (_camvid(root) / "notes.json").write_text('{"images": 6, "annotations": true}', encoding="utf-8")
    return root


def _classes(root: Path) -> Path:
    for seed, name in enumerate(("cat/a.jpg", "cat/b.jpg", "dog/a.jpg")):
        made.image(root / name, seed)
    return root


RECOGNISED = [
    *((name, build) for name, build in LAYOUTS.items()),
    ("coco", _coco_as_downloaded),
    ("voc", _bccd),
    ("yolo", lambda root: _roboflow(root, labels="yolo")),
    ("voc", lambda root: _roboflow(root, labels="voc")),
    ("coco", lambda root: _roboflow(root, labels="coco")),
    ("masks", _split_masks),
    ("masks", _camvid),
    ("masks", _with_notes),
    ("folders", _classes),
]


@pytest.mark.parametrize(("name", "build"), RECOGNISED)
def test_every_layout_is_recognised_by_its_format_alone(tmp_path, name, build):
    root = build(tmp_path / "root")
    before = snapshot(root)
    dataset = read_dataset(root)
    assert dataset.format == name
    dense = [
        known.name for known in FORMATS if known.recognise(root) and known.name not in ("folders", "tables")
    ]
    assert dense == ([] if name == "folders" else [name])
    assert [s.key for s in dataset.samples] == sorted(s.key for s in dataset.samples)
    assert all(sample.path.is_file() for sample in dataset.samples)
    assert read_dataset(root).fingerprint == dataset.fingerprint
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("one_layout", "another"), [("voc", "coco"), ("coco", "box_table"), ("voc", "yolo"), ("masks", "voc")]
)
def test_two_formats_that_fit_are_both_named(tmp_path, one_layout, another):
    root = tmp_path / "root"
    for name in (one_layout, another):
        LAYOUTS[name](root)
    error = refusal(root)
    assert error.code == "ambiguous_format"
    assert f"data.format={one_layout}" in str(error)
    assert f"data.format={another}" in str(error)
    assert read_dataset(root, format=one_layout).format == one_layout
    assert "--set" not in str(refusal(root, judging=True))


def test_class_folders_beside_boxes_are_ambiguous(tmp_path):
    root = made.voc(_classes(tmp_path / "root"))
    assert refusal(root).code == "ambiguous_format"


# -- the numbered cases


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("", "line 1, column 1"),
        ('{"images": [],\n "annotations": [,]}', "line 2, column 18"),
        ('{"images": [],\n "annotations": [', "line 2, column 18"),
        ('{"images" [], "annotations": []}', "line 1, column 11"),
    ],
)
def test_case_71_malformed_json(tmp_path, content, place):
    root = made.coco(tmp_path / "root", content)
    error = refusal(root / "instances.json", format="coco")
    assert error.code == "malformed"
    assert place in str(error)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_case_72_json_constants(tmp_path, constant):
    content = json.dumps(document(made.GOOD), indent=1).replace("30", constant)
    content = content.replace("cat", "NaN Infinity")  # in a text they are letters
    error = refusal(made.coco(tmp_path / "root", content))
    assert error.code == "malformed"
    line = next(n for n, text in enumerate(content.splitlines(), 1) if text.strip().startswith(constant))
    assert f"line {line}, column" in str(error)


def test_case_73_duplicate_keys_and_deep_nesting(tmp_path):
    twice = json.dumps(document(made.GOOD)).replace('"bbox"', '"bbox": 1, "bbox"')
    error = refusal(made.coco(tmp_path / "root", twice))
    assert error.code == "malformed"
    assert "'bbox'" in str(error)
    with within(10):
        deep = '{"images": [], "annotations": ' + "[" * 100_000
        assert refusal(made.coco(tmp_path / "deep", deep)).code == "malformed"


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_case_74_duplicate_ids(tmp_path, kind):
    content = document(made.GOOD)
    content[kind][1]["id"] = content[kind][0]["id"]
    error = refusal(made.coco(tmp_path / "root", content))
    assert error.code == "duplicate_id"
    assert f"its {kind}: 1" in str(error)


def test_case_75_annotation_id_0(tmp_path):
    content = document([annotation(0, 1, [10, 10, 20, 20]), annotation(1, 2, [5, 6, 30, 20], 2)])
    plain = boxes_of(read_dataset(made.coco(tmp_path / "plain")))
    assert boxes_of(coco_of(tmp_path, content)) == plain


@pytest.mark.parametrize("ids", [(0, 1), (1, 90), (7, 3), ("x", "y"), (1, "1"), (2.0, 5)])
def test_case_76_category_ids_with_gaps(tmp_path, ids):
    categories = [{"id": identity, "name": name} for identity, name in zip(ids, ("cat", "dog"), strict=True)]
    boxes = [annotation(1, 1, [10, 10, 20, 20], ids[0]), annotation(2, 2, [5, 6, 30, 20], ids[1])]
    dataset = coco_of(tmp_path, document(boxes, categories=categories))
    assert boxes_of(dataset) == {"a.png": [("cat", 10, 10, 30, 30)], "b.png": [("dog", 5, 6, 35, 26)]}
    assert set(dataset.classes) == {"cat", "dog"}


@pytest.mark.parametrize(
    ("names", "code", "word"),
    [
        ((None, "dog"), "nameless_category", "id 1"),
        (("", "dog"), "nameless_category", "id 1"),
        ((["cat"], "dog"), "nameless_category", "id 1"),
        (("dog", "dog"), "duplicate_category", "'dog': id 1, 2"),
        (("Dog", "dog"), "ambiguous_class", "'Dog'"),
        (("cat\n", "d\no\ng"), "bad_class_name", "line break"),
        (("\ud800", "\ud800x/"), "bad_class_name", "path"),
    ],
)
def test_case_77_categories_without_a_name_or_with_one_name(tmp_path, names, code, word):
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    error = refusal(made.coco(tmp_path / "root", document(made.GOOD, categories=categories)))
    assert error.code == code
    assert word in str(error)


def test_case_78_annotations_for_unknown_images_and_categories(tmp_path):
    content = document([*made.GOOD, annotation(3, 77, [1, 2, 30, 30]), annotation(4, None, [1, 2, 30, 30])])
    dataset = coco_of(tmp_path, content)
    strays = [finding for finding in dataset.findings if finding.code == "unknown_image"]
    assert [finding.where for finding in strays] == [f"instances.json: annotation {n}" for n in (3, 4)]
    assert {str(finding.outcome) for finding in strays} == {"quarantine"}
    assert "image 77" in strays[0].message
    error = refusal(made.coco(tmp_path / "x", document([annotation(1, 1, [1, 2, 3, 4], 9)])))
    assert error.code == "unknown_category"
    assert "id 9 (1 time)" in str(error)


@pytest.mark.parametrize("layout", ["coco", "voc", "box_table"])
def test_case_79_listed_images_without_a_file_and_files_that_are_not_listed(tmp_path, layout):
    root = LAYOUTS[layout](tmp_path / "root")
    first = next(path for path in sorted(root.rglob("*")) if path.stem == "a" and path.suffix != ".xml")
    made.image(first.with_name(f"other{first.suffix}"), 9)
    first.unlink()
    dataset = read_dataset(root, judging=True)
    found = codes(dataset)
    assert found["missing_file"] == "quarantine"
    assert found["unlisted"] == "warn"
    assert list(boxes_of(dataset)) == [first.with_stem("b").name]


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_case_79_images_without_a_box_are_background(tmp_path, layout):
    root = tmp_path / "root"
    if layout == "coco":
        made.coco(root, document(made.GOOD[:1]))
    elif layout == "voc":
        made.voc(root, {"a": [("cat", 10, 10, 30, 30)], "b": []})
    else:
        made.yolo(root, {"a": "0 0.5 0.5 0.5 0.5\n", "b": ""}, names="cat\n")
        made.image(root / "images/c.png", 9)  # without a text file
    dataset = read_dataset(root)
    assert [len(s.annotation) for s in dataset.samples] == [1, 0, 0][: len(dataset)]
    assert codes(dataset)["background"] == "warn"
    assert dataset.count() == {"cat": 1}


def test_case_79_nothing_but_background_teaches_nothing(tmp_path):
    root = made.coco(tmp_path / "root", document())
    assert refusal(root).code == "no_boxes"
    assert len(read_dataset(root, judging=True)) == 2


def turned(path: Path, orientation: int, size=made.SIZE) -> Path:
    """A JPEG that lies in the file as ``size`` and is turned by its EXIF field."""
    made.image(path, 3, size)
    data = path.read_bytes()
    tag = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0]) + bytes(4)
    block = b"Exif\0\0" + tag
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:])
    return path


def some_boxes(corners, **more) -> Boxes:
    return Boxes(tuple("c" * len(corners)), np.array(corners, np.float64).reshape(-1, 4), **more)


class TestCase80:
    """The size that annotations state, and the true one."""

    def test_case_80_equal(self):
        boxes = some_boxes([[1, 2, 30, 30]])
        assert fit_boxes(boxes, (64, 48), (64, 48)) == (boxes, [])

    @pytest.mark.parametrize("stated", [(640, 480), (64, 47), (48, 64)])
    def test_case_80_another_size_stops(self, stated):
        _, (finding,) = fit_boxes(some_boxes([[1, 2, 30, 30]]), stated, (64, 48), where="a.jpg")
        assert (finding.code, str(finding.outcome), finding.where) == ("size_differs", "reject", "a.jpg")
        assert "64 x 48" in finding.message
        assert f"{stated[0]} x {stated[1]}" in finding.message

    @pytest.mark.parametrize("orientation", range(5, 9))
    def test_case_80_equal_but_for_the_turn(self, orientation, tmp_path):
        from pictune.data.decoding import decode

        stored = np.zeros((48, 64, 3), np.uint8)
        stored[8:24, 16:56] = 255
        path = turned(tmp_path / "a.jpg", orientation)
        import cv2

        code = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        head = path.read_bytes()
        exif = head[2 : 4 + int.from_bytes(head[4:6], "big")]
        path.write_bytes(code[:2] + exif + code[2:])
        upright = decode(path).pixels
        outline = [[16, 8, 56, 8, 56, 24, 16, 24]]
        boxes = some_boxes([[16, 8, 56, 24]], outlines=(outline,))
        fitted, (finding,) = fit_boxes(
            boxes, (64, 48), (upright.shape[1], upright.shape[0]), orientation=orientation, where="a.jpg"
        )
        assert (finding.code, str(finding.outcome)) == ("turned_boxes", "normalise")
        rows, columns = np.nonzero(upright[..., 0] > 128)
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert fitted.corners.tolist() == [shown]
        points = np.array(fitted.outlines[0][0]).reshape(-1, 2)
        assert [*points.min(axis=0), *points.max(axis=0)] == shown

    def test_case_80_unstated_sizes_come_from_the_header(self, tmp_path):
        content = one([50, 40, 100, 100])
        for entry in content["images"]:
            del entry["width"], entry["height"]
        dataset = coco_of(tmp_path, content, names=["a.png"])
        assert boxes_of(dataset)["a.png"][1] == ("cat", 50, 40, 64, 48)

    def test_case_80_a_sample_at_once(self, tmp_path):
        sample = Sample("a", tmp_path, some_boxes([[1, 2, 30, 30]]), width=0, height=0)
        fitted, findings = fit_sample(sample, width=20, height=20)
        assert fitted.annotation.corners.tolist() == [[1, 2, 20, 20]]
        assert [f.code for f in findings] == ["clipped_box"]
        outside = Sample("a", tmp_path, some_boxes([[30, 30, 40, 40]]))
        gone, findings = fit_sample(outside, width=20, height=20)
        assert gone is None
        assert [f.code for f in findings] == ["outside_box", "no_box_left"]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([-5, -5, 20, 20], (0, 0, 15, 15)),
        ([50, 40, 30, 30], (50, 40, 64, 48)),
        ([-1e6, 10, 2e6, 5], (0, 10, 64, 15)),
        ([63, 10, 30, 5], (63, 10, 64, 15)),
    ],
)
def test_case_81_a_box_partly_outside_is_cut_off(tmp_path, box, expected):
    dataset = coco_of(tmp_path, one(box), names=["a.png"])
    assert boxes_of(dataset)["a.png"][1] == ("cat", *expected)
    (finding,) = (f for f in dataset.findings if f.code == "clipped_box")
    assert str(finding.outcome) == "normalise"
    assert "1 box reaches" in finding.message


def test_case_81_rounding_is_no_finding(tmp_path):
    dataset = coco_of(tmp_path, one([32, 24, 32.04, 24.000001]), names=["a.png"])
    assert boxes_of(dataset)["a.png"][1] == ("cat", 32, 24, 64, 48)
    assert not dataset.findings


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ([64, 10, 20, 20], "outside_box"),
        ([-30, 10, 20, 20], "outside_box"),
        ([10, 48, 20, 20], "outside_box"),
        ([10, 10, -5, 20], "empty_box"),
        ([10, 10, 20, 0], "empty_box"),
        ([10, 10, 0.99, 20], "empty_box"),
        ([63.5, 10, 20, 20], "empty_box"),
    ],
)
def test_case_82_a_box_outside_or_without_extent_is_left_out(tmp_path, box, code):
    dataset = coco_of(tmp_path, one(box), names=["a.png"])
    assert boxes_of(dataset) == {"a.png": [("cat", 10, 10, 30, 30)]}
    (finding,) = dataset.findings
    assert (finding.code, str(finding.outcome), finding.where) == (
        code,
        "quarantine",
        "instances.json: annotation 2",
    )


BAD = [
    [1, 2, 30],
    [1, 2, 30, 30, 5],
    [],
    None,
    "1 2 30 30",
    {"x": 1},
    [1, 2, "30", 30],
    [1, 2, None, 30],
    [1, 2, True, 30],
    [1, 2, [30], 30],
    [1, 2, 10**400, 30],
    [1, 2, 1e308, 1e308],
]


@pytest.mark.parametrize("box", BAD, ids=lambda box: str(box)[:20])
def test_case_83_a_box_of_other_than_four_finite_numbers_is_left_out(tmp_path, box):
    dataset = coco_of(tmp_path, one(box), names=["a.png"])
    assert boxes_of(dataset) == {"a.png": [("cat", 10, 10, 30, 30)]}
    assert codes(dataset) == {"bad_box": "quarantine"}


def test_case_83_an_endless_number_is_left_out(tmp_path):
    content = json.dumps(one([1, 2, 5, 30])).replace("[1, 2, 5, 30]", "[1, 2, 1e999, 30]")
    assert codes(coco_of(tmp_path, content, names=["a.png"])) == {"bad_box": "quarantine"}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "x", "", "1_0", "1e999"])
def test_case_83_texts_that_are_no_numbers(tmp_path, number):
    good = ("cat", 10, 10, 30, 30)
    voc = read_dataset(made.voc(tmp_path / "voc", {"a": [good, ("cat", 1, 2, number, 30)]}))
    table = read_dataset(
        made.box_table(
            tmp_path / "table", f"pictures/a.png,cat,10,10,30,30\npictures/a.png,cat,1,2,{number},30\n"
        )
    )
    lines = f"0 0.5 0.5 0.5 0.5\n0 0.5 0.5 {number or 'none'} 0.5\n"
    yolo = read_dataset(made.yolo(tmp_path / "yolo", {"a": lines}, names="cat\n"))
    for dataset in (voc, table, yolo):
        assert [len(s.annotation) for s in dataset.samples] == [1]
        assert codes(dataset)["bad_box"] == "quarantine"


def test_case_83_too_many_bad_boxes_stop(tmp_path):
    good = [annotation(n, 1 + n % 2, [n % 30, 10, 20 + n / 100, 20]) for n in range(1, 95)]
    bad = [annotation(100 + n, 1, [1, 2, 3]) for n in range(5)]
    dataset = coco_of(tmp_path, document([*good, *bad]))
    assert not list(box_losses(dataset, 0.06))
    (error,) = box_losses(dataset, 0.05)
    assert error.code == "too_many_bad_boxes"
    assert "5 of 99 boxes" in str(error)
    assert "annotation 100" in str(error)
    assert not list(box_losses(dataset, float("inf")))


def test_case_83_an_image_that_lost_all_its_boxes_is_no_background(tmp_path):
    content = document([*made.GOOD[:1], annotation(2, 2, [1, 2, 3])])
    dataset = coco_of(tmp_path, content)
    assert list(boxes_of(dataset)) == ["a.png"]
    assert codes(dataset)["no_box_left"] == "quarantine"


def test_case_84_corners_where_sizes_are_expected(tmp_path):
    boxes = [annotation(n, 1, [30 + n, 20, 60, 40 + n / 2]) for n in range(8)]
    dataset = coco_of(tmp_path, document(boxes, names=["a.png"]), names=["a.png"])
    assert codes(dataset)["looks_like_corners"] == "warn"
    fitting = [annotation(n, 1, [n, 10, 20, 20]) for n in range(8)]
    dataset = read_dataset(made.coco(tmp_path / "other", document(fitting, names=["a.png"]), names=["a.png"]))
    assert "looks_like_corners" not in codes(dataset)


def test_case_85_shares_where_pixels_are_expected(tmp_path):
    boxes = [annotation(n, 1, [0.1, 0.2, 0.5, 0.1 + n / 10]) for n in range(1, 5)]
    roots = [
        made.coco(tmp_path / "coco", document(boxes)),
        made.voc(tmp_path / "voc", {"a": [("cat", 0.1, 0.2, 0.5, 1.0)]}),
        made.box_table(tmp_path / "table", "pictures/a.png,cat,0.1,0.2,0.5,0.9\n"),
    ]
    for root in roots:
        error = refusal(root)
        assert error.code == "normalised_boxes"
        assert "Multiply them" in str(error)


def test_case_85_pixels_where_shares_are_expected(tmp_path):
    error = refusal(
        made.yolo(tmp_path / "root", {"a": "0 30 20 10 10\n1 12 12 5 5\n", "b": "0 0.5 0.5 0.1 0.1\n"})
    )
    assert error.code == "pixel_boxes"
    assert "2 of 3 boxes" in str(error)
    lines = "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.3 0.2\n0 30 20 10 10\n0 1.2 0.5 0.1 0.1\n0 1 0.5 0.5 0.5\n"
    dataset = read_dataset(made.yolo(tmp_path / "few", {"a": lines}, names="cat\n"))
    assert [f.where for f in dataset.findings if f.code == "bad_box"] == ["labels/a.txt:3", "labels/a.txt:4"]
    assert codes(dataset)["clipped_box"] == "normalise"


@pytest.mark.parametrize(
    "lines", ["cat 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2", "0 0.5 0.5 0.2 0.2 0.9"]
)
def test_case_83_yolo_lines_that_are_no_boxes(tmp_path, lines):
    dataset = read_dataset(made.yolo(tmp_path, {"a": f"0 0.5 0.5 0.5 0.5\n{lines}\n"}, names="cat\n"))
    assert codes(dataset) == {"bad_box": "quarantine"}
    assert dataset.findings[0].where == "labels/a.txt:2"


def test_case_78_yolo_numbers_without_a_class(tmp_path):
    error = refusal(made.yolo(tmp_path / "root", {"a": "0 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.2 0.2\n"}))
    assert error.code == "unknown_class"
    assert "7 (1 time)" in str(error)


def test_case_86_a_box_that_covers_the_whole_image(tmp_path):
    whole = document([annotation(1, 1, [0, 0, 64, 48]), annotation(2, 2, [0, 0, 63.9, 48], 2)])
    assert codes(coco_of(tmp_path, whole)) == {"whole_image_boxes": "warn"}
    half = document([annotation(1, 1, [0, 0, 64, 48]), annotation(2, 2, [5, 6, 30, 20], 2)])
    assert not read_dataset(made.coco(tmp_path / "half", half)).findings


def test_case_87_ten_thousand_boxes_on_one_image(tmp_path):
    boxes = [annotation(n, 1, [n % 43, n // 43 % 31, 10 + n / 1000, 12]) for n in range(10_000)]
    with within(10):
        dataset = coco_of(tmp_path, document(boxes, names=["a.png"]), names=["a.png"])
    assert len(dataset.samples[0].annotation) == 10_000


def test_case_88_an_identical_box_is_left_out(tmp_path):
    boxes = [
        annotation(1, 1, [10, 10, 20, 20]),
        annotation(2, 1, [10, 10, 20, 20]),
        annotation(3, 1, [10, 10, 20, 20], 2),  # another class
        annotation(4, 2, [10, 10, 20, 20]),  # another image
    ]
    dataset = coco_of(tmp_path, document(boxes))
    assert boxes_of(dataset) == {
        "a.png": [("cat", 10, 10, 30, 30), ("dog", 10, 10, 30, 30)],
        "b.png": [("cat", 10, 10, 30, 30)],
    }
    (finding,) = dataset.findings
    assert (finding.code, str(finding.outcome), finding.where[-1]) == ("duplicate_box", "quarantine", "2")
    assert not list(box_losses(dataset, 0.0))


class TestCase89:
    """Crowds and run lengths."""

    AREA = WIDTH * HEIGHT

    def rle(self, counts, size=(HEIGHT, WIDTH)):
        return {"size": list(size), "counts": counts}

    def test_case_89_crowds_are_marked(self, tmp_path):
        content = one([1, 2, 30, 30], iscrowd=1, segmentation=self.rle([100, 50, self.AREA - 150]))
        (sample,) = coco_of(tmp_path, content, names=["a.png"]).samples
        assert sample.annotation.crowd.tolist() == [False, True]
        assert sample.annotation.outlines[1] == content["annotations"][1]["segmentation"]

    def test_case_89_run_lengths_of_another_size_lose_the_box(self, tmp_path):
        content = one([1, 2, 30, 30], segmentation=self.rle([10], (WIDTH, HEIGHT)))
        dataset = coco_of(tmp_path, content, names=["a.png"])
        assert len(dataset.samples[0].annotation) == 1
        assert codes(dataset) == {"bad_box": "quarantine"}
        assert "[64, 48] (height, width)" in dataset.findings[0].message

    @pytest.mark.parametrize("counts", [[100, 50], [-1, 4], "\x01", "0", ["a"], None, 5, [1.5]])
    def test_case_89_run_lengths_that_cannot_be_read_lose_the_outline(self, tmp_path, counts):
        dataset = coco_of(tmp_path, one([1, 2, 30, 30], segmentation=self.rle(counts)), names=["a.png"])
        assert len(dataset.samples[0].annotation) == 2
        assert dataset.samples[0].annotation.outlines is None
        assert codes(dataset) == {"bad_outline": "quarantine"}

    @given(st.lists(st.booleans(), min_size=1, max_size=80), st.integers(1, 40))
    def test_case_89_compressed_run_lengths_are_understood(self, pixels, repeat):
        from pycocotools import mask as cocotools

        picture = np.asfortranarray(np.repeat(np.array(pixels, np.uint8), repeat)[:, None])
        coded = cocotools.encode(picture)
        height = picture.shape[0]
        outline = {"size": coded["size"], "counts": coded["counts"].decode()}
        assert outline_complaint(outline, 1, height) is None
        assert "add up to" in outline_complaint(outline, 1, height + 1)


@pytest.mark.parametrize(
    "polygon",
    [
        [[10, 10, 20, 20]],
        [[1, 2, 3, 4, 5]],
        [10, 10, 20, 20, 30, 10],
        [["a"] * 6],
        [[1, 2, 3, 4, 5, None]],
        "x",
        [[]],
    ],
)
def test_case_90_a_polygon_that_is_none_loses_the_outline(tmp_path, polygon):
    dataset = coco_of(tmp_path, one([1, 2, 30, 30], segmentation=polygon), names=["a.png"])
    assert len(dataset.samples[0].annotation) == 2
    assert codes(dataset) == {"bad_outline": "quarantine"}


def test_case_90_a_polygon_that_crosses_itself_or_leaves_the_image(tmp_path):
    crossing = [[10, 10, 30, 30, 30, 10, 10, 30]]
    content = one(None, segmentation=[[-10, 10, 30, 10, 30, 500]])
    content["annotations"][0]["segmentation"] = crossing
    dataset = coco_of(tmp_path, content, names=["a.png"])
    assert boxes_of(dataset)["a.png"][1] == ("cat", 0, 10, 30, 48)
    assert dataset.samples[0].annotation.outlines[0] == crossing
    assert codes(dataset) == {"clipped_box": "normalise"}


def test_case_90_yolo_polygons_of_two_points_or_an_odd_count(tmp_path):
    lines = "0 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.5 0.5 0.3\n0 0.1 0.1 0.5 0.5 0.3 0.4 0.2\n"
    dataset = read_dataset(made.yolo(tmp_path, {"a": lines}, names="cat\n"))
    assert [f.where for f in dataset.findings] == ["labels/a.txt:2", "labels/a.txt:3"]
    assert codes(dataset) == {"bad_box": "quarantine"}


def test_case_96_names_stay_strings(tmp_path):
    names = ["1", "01", "nan", "None", "1.0"]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    boxes = [annotation(n, 1, [n, 1, 20, 20], n) for n in range(len(names))]
    assert coco_of(tmp_path, document(boxes, categories=categories)).classes == tuple(names)
    rows = "".join(f"pictures/a.png,{name},{n},2,30,30\n" for n, name in enumerate(names))
    assert set(read_dataset(made.box_table(tmp_path / "t", rows)).classes) == set(names)
    objects = [(name, n, 2, 30, 30) for n, name in enumerate(names)]
    assert set(read_dataset(made.voc(tmp_path / "v", {"a": objects})).classes) == set(names)
    lines = "".join(f"{n} 0.5 0.5 0.{n + 1} 0.5\n" for n in range(len(names)))
    assert read_dataset(made.yolo(tmp_path / "y", {"a": lines}, names="\n".join(names))).classes == tuple(
        names
    )


def test_case_96_a_number_and_the_same_text_are_one_name(tmp_path):
    categories = [{"id": 1, "name": 1}, {"id": 2, "name": "1"}]
    error = refusal(made.coco(tmp_path / "root", document(made.GOOD, categories=categories)))
    assert error.code == "duplicate_category"


# -- what must not be followed, fetched or expanded

AWAY = [
    "../x.png",
    "/etc/passwd",
    "~/x.png",
    "C:\\x.png",
    "a/../../x.png",
    "http://127.0.0.1:9/x.png",
    "file:///x",
    "data:,x",
]


@pytest.mark.parametrize("name", AWAY)
def test_paths_that_lead_away_are_refused_and_never_fetched(tmp_path, name, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was used"))
    made.image(tmp_path / "x.png")
    content = document(made.GOOD, names=[name, "b.png"])
    content["images"][1]["coco_url"] = "http://127.0.0.1:9/b.png"
    error = refusal(made.coco(tmp_path / "coco", content and json.dumps(content)))
    assert error.code == "unsafe_path"
    assert "image 1" in str(error)
    root = made.voc(tmp_path / "voc")
    made.text(root / "Annotations/c.xml", made.voc_xml([("cat", 1, 2, 30, 30)], name=name))
    assert refusal(root).code == "unsafe_path"
    assert refusal(made.box_table(tmp_path / "table", f'"{name}",cat,1,2,30,30\n')).code == "unsafe_path"


def test_links_that_leave_the_folder_are_left_out(tmp_path):
    outside = made.image(tmp_path / "outside/x.png")
    root = made.coco(tmp_path / "root", document(made.GOOD))
    (root / "a.png").unlink()
    (root / "a.png").symlink_to(outside)
    assert codes(read_dataset(root, judging=True))["outside_root"] == "quarantine"
    assert len(read_dataset(root, follow_outside=True)) == 2
    yolo = made.yolo(tmp_path / "yolo")
    (yolo / "labels/a.txt").unlink()
    (yolo / "labels/a.txt").symlink_to(made.text(tmp_path / "outside/a.txt", "0 0.5 0.5 0.1 0.1"))
    assert codes(read_dataset(yolo, judging=True))["outside_root"] == "quarantine"


def test_pipes_are_not_opened(tmp_path):
    root = made.voc(tmp_path / "root")
    (root / "Annotations/a.xml").unlink()
    os.mkfifo(root / "Annotations/a.xml")
    with within(5):
        assert codes(read_dataset(root))["special_file"] == "quarantine"


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha">{}]>'.format(
    "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
)


@pytest.mark.parametrize(
    "xml",
    [
        f"{LAUGHS}<annotation>&j;</annotation>",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
        "<!DOCTYPE annotation><annotation/>",
    ],
    ids=["laughs", "file", "address", "plain"],
)
def test_xml_with_a_document_type_is_refused(tmp_path, xml, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was used"))
    root = made.voc(tmp_path / "root")
    made.text(root / "Annotations/a.xml", xml)
    with within(5):
        error = refusal(root)
    assert error.code == "unsafe_xml"
    assert "Annotations/a.xml" in str(error)


def test_xml_that_is_deep_large_or_of_unknown_entities_is_left_out(tmp_path, monkeypatch):
    root = made.voc(tmp_path / "root")
    for xml in (
        "<annotation>" + "<a>" * 100_000,
        "<annotation>&a;</annotation>",
        b"",
        b"\0\0\0",
        b"\xff\xfe",
    ):
        made.text(root / "Annotations/a.xml", xml)
        with within(5):
            assert codes(read_dataset(root)) == {"malformed": "quarantine"}
    monkeypatch.setattr("pictune.data.formats.documents.MOST_XML_BYTES", 20)
    assert refusal(root).code == "empty"


def test_ids_that_cannot_be_printed(tmp_path):
    content = one([1, 2, 3])
    content["annotations"][1]["id"] = "\ud800\x1b[31m" + "x" * 500
    dataset = coco_of(tmp_path, content, names=["a.png"])
    (finding,) = dataset.findings
    assert finding.message.isprintable()
    assert len(finding.message.encode()) < 300


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "x", [1], [None, {}], 5])
def test_coco_files_of_other_shapes_are_refused(tmp_path, key, value):
    content = {**document(made.GOOD), key: value}
    error = refusal(made.coco(tmp_path / "root", content), format="coco")
    assert error.code in ("not_coco", "no_id", "nameless_category")
    del content[key]
    assert refusal(made.coco(tmp_path / "root", content), format="coco").code == "not_coco"


@pytest.mark.parametrize("value", [None, 5, [], {}, True, ""])
def test_odd_values_in_coco_entries_raise_nothing_else(tmp_path, value):
    for kind, keys in (
        ("images", ("id", "file_name", "width", "height")),
        ("annotations", ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")),
        ("categories", ("id", "name")),
    ):
        for key in keys:
            content = document(made.GOOD)
            content[kind][0][key] = value
            root = made.coco(tmp_path / f"{kind}-{key}", content)
            try:
                read_dataset(root)
            except DataError as error:
                assert error.causes  # noqa: PT017 - most are refused, some are used


def test_all_mistakes_come_at_once(tmp_path):
    content = document([*made.GOOD, annotation(2, 1, [1, 2, 3, 4], 9)], names=["../a.png", "b.png"])
    content["categories"].append({"id": 5, "name": "cat"})
    text = str(refusal(made.coco(tmp_path / "root", json.dumps(content))))
    assert all(word in text for word in ("'..'", "'cat'", "id 9", "its annotations: 2"))


@given(
    st.lists(
        st.tuples(st.sampled_from("xy"), *(st.floats(-200, 200, allow_nan=False) for _ in range(4))),
        max_size=12,
    )
)
def test_boxes_are_inside_and_large_enough_or_left_out(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("table")
    text = "".join(f"pictures/a.png,{label},{a!r},{b!r},{c!r},{d!r}\n" for label, a, b, c, d in rows)
    made.box_table(root, f"{text}pictures/b.png,x,1,2,30,30\npictures/b.png,y,1,2,30,30\n")
    dataset = read_dataset(root)
    corners = np.concatenate([s.annotation.corners for s in dataset.samples])
    assert (corners >= 0).all()
    assert (corners[:, [0, 2]] <= WIDTH).all()
    assert (corners[:, [1, 3]] <= HEIGHT).all()
    assert (corners[:, 2:] - corners[:, :2] >= 1 - 1e-6).all()
    lost = sum(f.code in ("bad_box", "empty_box", "outside_box", "duplicate_box") for f in dataset.findings)
    assert len(corners) + lost == len(rows) + 2


def test_a_class_whose_boxes_are_all_lost_stops(tmp_path):
    content = document([*made.GOOD[:1], annotation(2, 1, [1, 2, 3], 2)])
    error = refusal(made.coco(tmp_path / "root", content))
    assert error.code == "empty_class"
    assert "'dog'" in str(error)
    assert codes(read_dataset(tmp_path / "root", judging=True))["empty_class"] == "warn"


def test_a_dataset_of_one_class_and_unused_categories(tmp_path):
    dataset = coco_of(tmp_path, document(made.GOOD[:1]))
    assert dataset.classes == ("cat",)
    assert codes(dataset) == {"unused_class": "warn", "background": "warn"}


def test_area_defaults_to_the_box(tmp_path):
    content = one([1, 2, 30, 40], area="large")
    assert coco_of(tmp_path, content, names=["a.png"]).samples[0].annotation.areas is None
    content["annotations"][0]["area"] = 5
    again = read_dataset(made.coco(tmp_path / "again", content, names=["a.png"]))
    assert_allclose(again.samples[0].annotation.areas, [5, 1200])


def test_options_that_a_format_does_not_use_are_refused(tmp_path):
    root = made.coco(files(tmp_path / "root"))
    for options in ({"classes": ["a"]}, {"ignore": [1]}, {"label_column": "x", "format": "coco"}):
        assert refusal(root, **options).code in ("unused_option", "no_table")
