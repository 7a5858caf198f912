"""`lr_find`: everything settled as `train` does, a curve of rates, two files, and nothing else."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from asking import QUICK, ask, traces

import toys
from backbones import backbone_file
from pictune.errors import DataError, InputError, RecipeError, RunError, WeightsError
from pictune.run import Run
from pictune.verbs import lr_find as module
from pictune.verbs.lr_find import FoundRate, lr_find
from pictune.verbs.train import Silent, train

SETTINGS = tuple(word for word in QUICK if "." in word)
STEPS = 30


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rates, as nothing here looks at how good the suggestion is."""
    monkeypatch.setattr(module, "STEPS", STEPS)


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def find(photos: Path, **given) -> FoundRate:
    quick = {"model": "cnn", "weights": "none", "image_size": 32, "batch_size": 16, "settings": SETTINGS}
    return lr_find(photos, **{**quick, **given})


def error_of(call) -> tuple[type[BaseException], str]:
    with pytest.raises(InputError) as caught:
        call()
    return caught.type, str(caught.value)


class TestWhatIsFound:
    @pytest.fixture(scope="class")
    @staticmethod
    def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FoundRate, Listening]:
        place = tmp_path_factory.mktemp("found")
        photos = toys.shape_folders(place / "my photos")
        before, watcher = traces(photos), Listening()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "STEPS", STEPS)
            patch.chdir(place)
            result = find(Path("my photos"), folder="out", watcher=watcher)
        assert traces(photos) == before
        return place, result, watcher

    def test_two_files_and_nothing_else(self, found) -> None:
        place, result, _ = found
        assert result.folder == Path("out")
        assert {path.name for path in place.iterdir()} == {"my photos", "out"}
        assert {path.name for path in (place / "out").iterdir()} == {"lr.json", "lr.html"}

    def test_json_holds_the_curve(self, found) -> None:
        place, result, _ = found
        content = json.loads((place / "out/lr.json").read_text())
        assert content == result.content
        rates = content["rates"]
        assert len(rates) == len(content["losses"]) == len(content["smooth"]) <= STEPS
        assert rates[0] == pytest.approx(1e-6)
        assert rates == sorted(rates)
        assert len(rates) == STEPS or content["diverged"]
        assert rates[0] / 3 <= result.suggestion == content["suggestion"] < rates[-1]
        assert content["data"] == "my photos"
        used = content["settings"]
        assert (used["model"], used["image_size"], used["batch_size"]) == ("cnn", 32, 16)
        assert (used["technique"], used["freeze"], used["pictures"]) == ({"name": "full"}, "none", 42)

    def test_page_tells_the_rate_and_what_to_type(self, found) -> None:
        place, result, _ = found
        page = (place / "out/lr.html").read_text()
        assert "<h3>Settings</h3>" in page
        assert f"<h1>{result.suggestion:g}</h1>" in page
        assert "title>Loss over learning rate from 1e-06" in page.replace('"', "")
        assert f"--lr {result.suggestion:g}" in page
        assert "pictune train &#39;my photos&#39;" in page
        addresses = re.findall(r"""(?:src|href|action|data)=["']?([^"'\s>]+)""", page)
        assert all(address.startswith(("data:image/", "#")) for address in addresses)
        assert not re.search(r"<script|<link|<iframe|@import|url\((?!data:)", page)

    def test_summary_names_rate_curve_and_command(self, found) -> None:
        _, result, watcher = found
        lines = result.summary().splitlines()
        assert lines[0] == f"Learning rate {result.suggestion:g}"
        assert lines[-2] == "  curve: out/lr.html"
        assert lines[-1].startswith(f"  pictune train 'my photos' --lr {result.suggestion:g} --model cnn ")
        assert f"Trying {STEPS} rates from 1e-06 to 1, each on 16 pictures." in watcher.said

    def test_the_command_can_be_typed_and_trains_with_that_rate(self, found, monkeypatch) -> None:
        place, result, _ = found
        monkeypatch.chdir(place)
        program, *words = shlex.split(result.content["command"])
        assert program == "pictune"
        answer = ask(*words, "--epochs", "1", "--runs", place / "runs")
        assert answer.code == 0, answer.err
        recipe = yaml.safe_load((place / "runs/latest/recipe.yaml").read_text())
        assert recipe["optimizer"]["learning_rate"] == result.suggestion
        assert recipe["model"]["name"] == "cnn"


class TestWhatIsAsked:
    def test_the_same_question_has_the_same_answer(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        first, second = (find(photos, folder=name).content for name in ("a", "b"))
        assert first == second
        other = find(photos, folder="c", settings=[*SETTINGS, "training.seed=1"]).content
        assert other["losses"] != first["losses"]

    def test_a_rate_that_was_given_is_overruled_and_left_out_of_the_command(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        plain = find(photos)
        settings = [*SETTINGS, "optimizer.learning_rate=0.5"]
        given = find(photos, settings=settings)
        assert given.content["losses"] == plain.content["losses"]
        assert given.content["command"] == plain.content["command"]

    def test_frozen_layers_stay_frozen(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        free, frozen = find(photos), find(photos, technique="head")
        assert frozen.content["settings"]["technique"]["name"] == "head"
        assert frozen.content["losses"][0] == pytest.approx(free.content["losses"][0], abs=0.3)
        assert frozen.content["losses"][1:] != free.content["losses"][1:]
        assert any("several rates by itself" in note for note in frozen.content["notes"])
        assert "--technique head" in frozen.content["command"]

    def test_where_a_probe_comes_first_the_curve_begins_with_its_head(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        watcher = Listening()
        weights = str(backbone_file(here.parent / f"{here.name}.safetensors"))
        given = {"model": "test_resnet", "weights": weights}
        given |= {"settings": [*SETTINGS, "augmentation.preset=none"]}
        found = find(photos, technique="lp_ft", watcher=watcher, **given)
        plain = find(photos, technique="full", **given)
        assert any(sentence.startswith("Probe: ") for sentence in watcher.said)
        assert sum(found.content["losses"][:5]) < sum(plain.content["losses"][:5]) - 0.1
        assert {path.name for path in here.iterdir()} == {"photos", "lr-find"}


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"model": "resnet9000"}, RecipeError),
            ({"weights": "nowhere.safetensors"}, WeightsError),
            ({"settings": ["loss.gama=2"]}, RecipeError),
            ({"freeze": "stage7"}, RecipeError),
            ({"technique": "lora", "freeze": "1"}, RecipeError),
        ],
    )
    def test_are_those_of_train(self, here, given, error) -> None:
        photos = toys.shape_folders(here / "photos")
        quick = {"model": "cnn", "weights": "none", "image_size": 32, "settings": SETTINGS, **given}
        told = error_of(lambda: lr_find(photos, **quick))
        assert told[0] is error
        assert told == error_of(lambda: train(photos, epochs=1, **quick))
        assert {path.name for path in here.iterdir()} == {"photos"}

    def test_one_class_is_too_few(self, here) -> None:
        photos = toys.shape_folders(here / "photos", counts={"circle": 20})
        told = error_of(lambda: find(photos))
        assert told[0] is DataError
        assert told == error_of(lambda: train(photos, model="cnn", weights="none", settings=SETTINGS))

    def test_nothing_is_written_among_the_pictures_or_over_a_file(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        before = traces(photos)
        with pytest.raises(DataError, match="inside_data"):
            find(photos, folder=photos / "lr-find")
        (here / "lr-find").write_text("mine")
        with pytest.raises(RunError, match="is a file"):
            find(photos)
        assert (here / "lr-find").read_text() == "mine"
        assert traces(photos) == before

    def test_no_run_is_begun(self, here) -> None:
        find(toys.shape_folders(here / "photos"))
        assert not (here / "runs").exists()
        with pytest.raises(RunError):
            Run(here / "lr-find").read("status.json")
