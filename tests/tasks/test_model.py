"""Models: saved and loaded they answer the same; damaged or strange ones are refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import toys
from pictune.errors import RunError
from pictune.tasks.kinds import KINDS, Rates
from pictune.tasks.model import Model, _seal
from pictune.tasks.specification import Specification, side_of

SPEC = Specification(
    task="classification",
    classes=("circle", "cross", "quäder"),
    network="cnn",
    image_size=32,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    origin="nowhere",
    facts={"run": "x", "validation": {"val_accuracy": 0.1 + 0.2}},
)
PICTURES = [toys.picture([shape], number, side=40) for number, shape in enumerate(toys.SHAPES)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Model]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = (
            KINDS["classification"].network(SPEC, Rates(), None).to(memory_format=torch.channels_last).eval()
        )
    model = Model(SPEC, network)
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder, model


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return shutil.copytree(saved[0], tmp_path / "model")


def refused(folder: Path) -> str:
    with pytest.raises(RunError) as caught:
        Model.load(folder)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_saved_and_loaded_it_answers_the_same(saved):
    folder, model = saved
    loaded = Model.load(folder)
    assert loaded.specification == SPEC
    assert not loaded.network.training
    for ours, theirs in zip(model.predict(PICTURES), loaded.predict(PICTURES), strict=True):
        assert ours == theirs
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]


def test_answers_have_the_keys_given_or_numbers(saved):
    model = saved[1]
    assert [answer.key for answer in model.predict(PICTURES)] == ["0", "1", "2"]
    assert [answer.key for answer in model.predict(PICTURES, keys=["a", "b", "c"])] == ["a", "b", "c"]
    assert model.predict([]) == []


def test_batches_change_no_answer(saved):
    stored = PICTURES * 3
    whole, single = (np.stack(list(saved[1].answers(stored, batch_size=size))) for size in (64, 1))
    assert whole.shape == (9, 3)
    assert whole == pytest.approx(single, abs=1e-6)


@pytest.mark.parametrize("multilabel", [False, True])
def test_several_labels_and_the_threshold_are_kept(saved, tmp_path, multilabel):
    spec = replace(SPEC, multilabel=multilabel, threshold=0.0)
    Model(spec, saved[1].network).save(tmp_path)
    answers = Model.load(tmp_path).predict(PICTURES)
    assert all(len(answer.annotation.names) == (3 if multilabel else 1) for answer in answers)


def test_the_side_of_stored_pictures_leaves_room_for_crops():
    assert side_of(100) == 115
    assert SPEC.side == 37
    assert SPEC.view(np.zeros((37, 50, 3), np.uint8)).shape == (32, 32, 3)


def test_saving_over_a_model_replaces_it_whole(copy, saved):
    changed = Model(replace(SPEC, origin="elsewhere"), saved[1].network)
    changed.save(copy)
    assert Model.load(copy).specification.origin == "elsewhere"


# ---------------------------------------------------------------- what is refused


def test_no_model_at_all(tmp_path):
    assert refused(tmp_path).startswith("there is no model in")


def test_no_weights(copy):
    (copy / "weights.safetensors").unlink()
    assert "has no weights.safetensors" in refused(copy)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_one_flipped_byte_anywhere(copy, name, share):
    data = bytearray((copy / name).read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x01
    (copy / name).write_bytes(data)
    assert name in refused(copy)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("length", [0, 100])
def test_a_file_cut_short(copy, name, length):
    (copy / name).write_bytes((copy / name).read_bytes()[:length])
    assert name in refused(copy)


def rewritten(folder: Path, **changes: object) -> None:
    """Changes model.json as a program would that knows how to seal it."""
    content = {**json.loads((folder / "model.json").read_text()), **changes}
    content = {key: value for key, value in content.items() if key != "seal" and value is not None}
    (folder / "model.json").write_text(json.dumps({**content, "seal": _seal(content)}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "of another version"),
        ({"format": None}, "of another version"),
        ({"task": "juggling"}, "another task: juggling"),
        ({"classes": ["circle", "cross"]}, "does not fit the model"),
        ({"classes": None}, "not complete"),
        ({"classes": 3}, "not complete"),
        ({"image_size": "large"}, "not complete"),
        ({"mean": ["a", "b", "c"]}, "not complete"),
        ({"sha256": None}, "not complete"),
        ({"sha256": "0" * 64}, "vouches for: it was changed"),
    ],
)
def test_a_description_that_does_not_fit(copy, changes, words):
    rewritten(copy, **changes)
    message = refused(copy)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[]", "null", "3", "{", "\xff"])
def test_a_description_that_is_none(copy, text):
    (copy / "model.json").write_bytes(text.encode("latin-1"))
    assert "model.json" in refused(copy)


def test_weights_of_another_network(copy):
    tensors = load_file(copy / "weights.safetensors")
    del tensors["backbone.fc.weight"]
    save_file(tensors, copy / "weights.safetensors")
    rewritten(copy, sha256=hashlib.sha256((copy / "weights.safetensors").read_bytes()).hexdigest())
    assert "does not fit the model" in refused(copy)
