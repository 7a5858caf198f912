"""The demo's scenes: what the files say is what was drawn."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from pictune.data import digit_scenes
from pictune.data.digit_scenes import NAMES, SCENES_EACH, SIZE, draw_boxes, draw_masks
from pictune.data.digits import load_sources
from pictune.data.formats import read_dataset
from pictune.errors import DataError


@pytest.fixture(scope="module")
def sources():
    return load_sources()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    return draw_boxes(tmp_path_factory.mktemp("drawn") / "boxes", images=24)


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    return draw_masks(tmp_path_factory.mktemp("drawn") / "masks", images=24)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "boxes.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_both_are_read_as_what_they_are(boxes, masks):
    detection, segmentation = read_dataset(boxes, group_column="group"), read_dataset(masks)
    assert (detection.task, detection.format, len(detection)) == ("detection", "box_table", 24)
    assert (segmentation.task, segmentation.format, len(segmentation)) == ("segmentation", "masks", 24)
    assert not [f for f in (*detection.findings, *segmentation.findings) if f.outcome.value != "note"]
    assert set(detection.classes) <= set(NAMES[1:])
    assert segmentation.classes == NAMES
    assert {s.group for s in detection.samples} == {
        f"pool-{number:04d}" for number in range(24 // SCENES_EACH)
    }


def test_boxes_masks_and_pictures_are_of_the_same_scenes(boxes, masks):
    """A class's pixels in the mask reach exactly as far as the box of that class."""
    by_picture = defaultdict(list)
    for row in rows(boxes):
        by_picture[Path(row["path"]).stem].append(row)
    assert len(by_picture) == 24
    assert 2 < len(rows(boxes)) / 24 <= digit_scenes.MOST
    for path in sorted((masks / "masks").iterdir()):
        mask, own = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), by_picture[path.stem.split("_")[1]]
        assert mask.shape == SIZE[::-1]
        assert sorted({int(row["label"]) + 1 for row in own}) == [v for v in np.unique(mask).tolist() if v]
        for row in own:
            found = digit_scenes.box_of(mask == int(row["label"]) + 1)
            assert found == tuple(int(row[side]) for side in ("left", "top", "right", "bottom"))
        picture = (masks / f"images/{path.stem}.jpg").read_bytes()
        assert picture == (boxes / f"images/{path.stem.split('_')[1]}.jpg").read_bytes()


def test_ink_stands_out_where_the_mask_says(sources):
    """The pixels of a digit differ from those around it more than the photograph differs by itself."""
    for scene in digit_scenes.scenes(sources, images=20, seed=3):
        bare = digit_scenes.Scene(scene.group, scene.digits[:1])
        picture, mask = (
            digit_scenes.draw_scene(scene, sources).astype(float),
            digit_scenes.mask_of(scene, sources),
        )
        other = digit_scenes.draw_scene(bare, sources).astype(float)
        first = digit_scenes.pixels_of(scene.digits[0], sources)
        ink = (mask > 0) & ~first
        assert np.abs(picture - other)[ink].mean() > 30
        far = cv2.dilate((mask > 0).astype(np.uint8), np.ones((25, 25))) == 0
        assert np.abs(picture - other)[far].mean() < 0.1  # the rim of a shadow


def test_digits_of_a_scene_do_not_touch_and_lie_inside(sources):
    width, height = SIZE
    for scene in digit_scenes.scenes(sources, images=60, seed=1):
        whole = [digit_scenes.pixels_of(placement, sources) for placement in scene.digits]
        assert np.sum(whole, axis=0).max() == 1
        labels = [int(sources.labels[placement.original]) for placement in scene.digits]
        assert len(set(labels)) == len(labels)
        for pixels in whole:
            left, top, right, bottom = digit_scenes.box_of(pixels)
            assert left > 0
            assert top > 0
            assert right < width
            assert bottom < height


def test_handwritings_of_two_groups_differ(sources):
    pools = defaultdict(set)
    for scene in digit_scenes.scenes(sources, images=200, seed=0):
        pools[scene.group] |= {placement.original for placement in scene.digits}
    seen = [original for pool in pools.values() for original in pool]
    assert len(seen) == len(set(seen))
    assert len(pools) == 200 // SCENES_EACH


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(boxes, tmp_path):
    def contents(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    assert contents(draw_boxes(tmp_path / "again", images=24)) == contents(boxes)
    other = contents(draw_boxes(tmp_path / "other", images=24, seed=1))
    assert not {v for k, v in other.items() if k.endswith("jpg")} & set(contents(boxes).values())


def test_boxes_are_not_passed_off_as_masks(boxes):
    with pytest.raises(DataError, match="holds something else"):
        draw_masks(boxes, images=24)
