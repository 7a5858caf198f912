"""The pages: complete, true to their numbers, inert whatever the data contain, and bounded in size."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from html_page import ATTACK, Page, assert_sound

from pictune.evaluation.measurement import measure
from pictune.evaluation.report import render_report, wording
from pictune.tasks.table import ClassTable


def table(classes: int, images: int, *, exclusive: bool = True, names: list[str] | None = None) -> ClassTable:
    generator = np.random.default_rng(classes)
    names = names or [f"class {i:04d}" for i in range(classes)]
    keys = tuple(f"photos/{i:05d}.jpg" for i in range(images))
    if exclusive:
        truth = np.eye(classes, dtype=bool)[np.arange(images) % classes]
        scores = generator.dirichlet(np.ones(classes), images) + truth * generator.random((images, 1))
        scores /= scores.sum(axis=1, keepdims=True)
        decided = np.eye(classes, dtype=bool)[scores.argmax(axis=1)]
    else:
        truth = generator.random((images, classes)) < 0.4
        scores = np.clip(0.3 + 0.4 * truth + 0.25 * generator.normal(size=truth.shape), 0, 1)
        decided = scores > 0.5
    return ClassTable(keys, tuple(names), truth, scores, decided, exclusive)


def report_of(given: ClassTable, **more) -> dict:
    rest = {
        "task": "classification",
        "dataset": {
            "root": "rocks",
            "fingerprint": "9f2c41d07b",
            "images": 2062,
            "classes": list(given.classes),
        },
        "split": "test",
        "run": "teal-fox",
        "model": {"name": "convnext_atto", "parameters": 3374620, "image_size": 160, "weights": "d2_in1k"},
        "selected_by": "log_loss on the validation split",
        "created_with": {"pictune": "0.1.0", "torch": "2.14.0"},
        "curves": {
            "epochs": [1, 2, 3, 4],
            "train_loss": [1.9, 1.1, 0.6, 0.2],
            "val_loss": [1.8, 1.2, 0.9, 1.0],
            "train_accuracy": [0.3, 0.6, 0.8, 0.9],
            "val_accuracy": [0.3, None, 0.7, 0.65],
            "learning_rate": [1e-3, 8e-4, 4e-4, 1e-5],
            "best_epoch": 3,
            "verdict": {"verdict": "overfitting", "sentence": "Validation loss rose after epoch 3."},
        },
    }
    return json.loads(json.dumps({**rest, **measure(given, resamples=100).to_json(), **more}))


@pytest.fixture(scope="module")
def report() -> dict:
    return report_of(table(5, 120))


@pytest.fixture(scope="module")
def page(report) -> Page:
    keys = {m["key"] for m in report["mistakes"]}
    return Page(render_report(report, pictures={key: np.zeros((80, 100, 3), np.uint8) for key in keys}))


class TestEvaluation:
    def test_sections_stand_in_order(self, page):
        order = "findings metrics classes confusion pairs mistakes curves reliability origin".split()
        assert [given["id"] for tag, given in page.elements if tag == "section" and "id" in given] == order

    def test_is_sound(self, page):
        assert_sound(page)
        assert len(page.drawings()) > 10

    def test_opens_with_the_verdict(self, report, page):
        accuracy = report["metrics"]["accuracy"]
        lead = page.source[: page.source.index('<section id="findings"')]
        assert f"about {round(100 * accuracy['value'])} in 100 images right" in lead
        assert f"{100 * accuracy['value']:.1f}\u202f%" in lead
        assert f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}\u202f%" in lead
        assert "log loss on the validation split" in lead
        assert ">120<" in lead

    def test_every_metric_equals_the_json(self, report, page):
        for name, metric in report["metrics"].items():
            _, value, interval, _ = page.row(wording.title_of(name))
            assert value == f"{metric['value']:.3f}"
            assert interval == f"{metric['low']:.3f} – {metric['high']:.3f}"

    def test_every_class_equals_the_json(self, report, page):
        for row in report["per_class"]:
            cells = next(c for r in page.rows if (c := [" ".join(x.split()) for x in r])[0] == row["class"])
            names = ("precision", "recall", "f1", "specificity", "roc_auc", "average_precision")
            shown = [f"{row[n]['value']:.3f} {row[n]['low']:.3f} – {row[n]['high']:.3f}" for n in names]
            counts = [str(row[n]) for n in ("tp", "fn", "fp", "tn")]
            assert cells == [row["class"], str(row["support"]), *shown, *counts]

    def test_classes_come_worst_first(self, report, page):
        by_f1 = sorted(report["per_class"], key=lambda row: row["f1"]["value"])
        shown = [r[0] for r in page.rows if len(r) == 12 and r[0].startswith("class ")]
        assert shown == [row["class"] for row in by_f1]

    def test_confusion_equals_the_json(self, report, page):
        rows = [r for r in page.rows if len(r) == 6 and r[0].startswith("class ")]
        assert [[int(cell) for cell in row[1:]] for row in rows] == report["confusion"]["counts"]

    def test_pairs_and_mistakes_show_their_pictures(self, report, page):
        pictured = {given["alt"] for tag, given in page.elements if tag == "img"}
        assert {m["key"] for m in report["mistakes"][:10]} <= pictured
        assert set(report["confused_pairs"][0]["keys"][:6]) <= pictured
        worst = report["confused_pairs"][0]
        assert f"{worst['truth']} taken for {worst['predicted']}" in " ".join(page.sections["pairs"].split())

    def test_findings_come_most_severe_first(self, report):
        findings = [
            {"code": "c", "severity": "note", "message": "third"},
            {"code": "a", "severity": "serious", "message": "first"},
            {"code": "b", "severity": "warning", "message": "second"},
        ]
        text = Page(render_report({**report, "findings": findings})).sections["findings"]
        assert text.index("first") < text.index("second") < text.index("third")
        assert text.index("Serious") < text.index("Attention") < text.index("Note")

    def test_curves_name_the_best_epoch_and_the_verdict(self, page):
        assert "best epoch 3" in page.sections["curves"]
        assert "Validation loss rose after epoch 3." in page.sections["curves"]
        assert "validation from 1.8 to 1" in page.sections["curves"]

    def test_reliability_gives_the_numbers_behind_the_dots(self, report, page):
        bins = report["reliability"]["bins"]
        rows = [r for r in page.rows if len(r) == 3 and "%" in r[0]]
        assert [int(r[2]) for r in rows] == [row["count"] for row in bins]
        assert [r[0] for r in rows] == [f"{100 * row['confidence']:.1f}\u202f%" for row in bins]

    def test_origin_names_model_data_and_versions(self, page):
        for text in ("convnext_atto", "9f2c41d07b", "2.14.0", "3\u202f374\u202f620", "Wilson"):
            assert text in page.sections["origin"]

    def test_same_report_gives_the_same_page(self, report):
        assert render_report(report) == render_report(copy.deepcopy(report))

    @pytest.mark.parametrize(
        ("split", "sentence"),
        [
            ("test", "neither to train the model nor to choose it"),
            ("val", "flatters it a little"),
            ("train", "says nothing about new ones"),
        ],
    )
    def test_says_how_new_the_images_were(self, report, split, sentence):
        assert sentence in render_report({**report, "split": split})


class TestWhatIsMissing:
    def test_null_metric_shows_its_reason(self, report):
        given = copy.deepcopy(report)
        given["metrics"]["macro_f1"] = {"value": None, "reason": "no class can be judged"}
        given["per_class"][2]["roc_auc"] = {"value": None, "low": None, "high": None, "reason": "all alike"}
        page = Page(render_report(given))
        assert page.row("Macro F1")[1:] == ["n/a", "no class can be judged"]
        assert "n/a all alike" in " ".join(page.sections["classes"].split())
        assert_sound(page)

    def test_null_headline_says_why(self, report):
        given = {**report, "metrics": {"accuracy": {"value": None, "reason": "no image has a label"}}}
        page = render_report(given)
        assert "There is no headline number for teal-fox." in page
        assert "no image has a label" in page

    def test_value_without_interval(self, report):
        given = {
            **report,
            "metrics": {"accuracy": {"value": 1.0, "low": None, "high": None, "reason": "one image"}},
        }
        page = Page(render_report(given))
        assert page.row("Accuracy")[1:3] == ["1.000", "one image"]
        assert f"gets all {report['n']} images right" in page.source

    @pytest.mark.parametrize(
        "name",
        "curves findings per_class confusion confused_pairs mistakes reliability metrics dataset model run "
        "split selected_by created_with n n_groups confidence".split(),
    )
    def test_any_part_may_be_absent(self, report, name):
        assert_sound(Page(render_report({key: value for key, value in report.items() if key != name})))

    def test_an_empty_report_is_a_page(self):
        assert_sound(Page(render_report({})))

    def test_no_pictures_gives_a_list_of_files(self, report):
        page = Page(render_report(report))
        assert "img" not in {tag for tag, _ in page.elements}
        assert page.row(report["mistakes"][0]["key"])[1] == report["mistakes"][0]["truth"]

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), None])
    def test_a_number_that_is_none_is_not_drawn(self, report, number):
        given = copy.deepcopy(report)
        given["metrics"]["accuracy"] = {"value": number, "low": number, "high": number, "reason": "why"}
        given["curves"]["val_loss"] = [number] * 4
        page = Page(render_report(given))
        assert page.row("Accuracy")[1] == "n/a"
        assert not re.search(r"\b(nan|inf)\b", page.source)

    @pytest.mark.parametrize("epochs", [[1], [1, 2]])
    def test_short_curves(self, report, epochs):
        curves = {"epochs": epochs, "train_loss": [0.5] * len(epochs), "val_loss": [0.0] * len(epochs)}
        assert_sound(Page(render_report({**report, "curves": curves})))


class TestSizes:
    @pytest.mark.parametrize(("classes", "images"), [(1, 4), (2, 30), (20, 200), (21, 200), (200, 1000)])
    def test_any_number_of_classes(self, classes, images):
        page = Page(render_report(report_of(table(classes, images))))
        assert_sound(page)
        has_table = any(given.get("class") == "confusion" for tag, given in page.elements if tag == "table")
        assert has_table == (classes <= 20)

    def test_a_thousand_classes_stay_bounded(self):
        names = [f"a rather long class name {i}" for i in range(1000)]
        row = report_of(table(2, 20))["per_class"][0]
        counts = np.random.default_rng(0).integers(0, 3, (1000, 1000)).tolist()
        given = {
            "per_class": [{**row, "class": name} for name in names],
            "confusion": {"classes": names, "counts": counts},
        }
        text = render_report(given)
        assert len(text) < 1_000_000
        assert "The other 800 are in report.json." in text
        assert "10 × 10 classes" in text
        assert_sound(Page(text))

    def test_several_labels(self):
        given = report_of(table(4, 60, exclusive=False))
        page = Page(render_report(given))
        assert_sound(page)
        assert "reaches a Macro F1 of" in page.source
        assert "no confusion matrix" in page.sections["confusion"]
        assert page.row("Exact match")[1] == f"{given['metrics']['accuracy']['value']:.3f}"


class TestHostileData:
    @pytest.fixture(scope="class")
    @staticmethod
    def hostile() -> dict:
        names = [ATTACK, '"><script>alert(1)</script>', "</style><svg onload=alert(1)>", "{{ 7 * 7 }}"]
        given = report_of(table(4, 60, names=names), run=ATTACK, selected_by=ATTACK, split=ATTACK)
        given["model"]["name"] = 'javascript:alert(1)" onmouseover="alert(1)'
        given["findings"].append({"code": ATTACK, "severity": ATTACK, "message": f"{ATTACK}</li></ul>"})
        given["curves"]["verdict"]["sentence"] = ATTACK
        given["metrics"][ATTACK] = {"value": None, "reason": ATTACK}
        for mistake in given["mistakes"]:
            mistake["key"] = f"{ATTACK}/'\"onerror=alert(1) x=.jpg"
        return given

    @pytest.mark.parametrize("pictured", [True, False])
    def test_names_are_inert(self, hostile, pictured):
        picture = np.full((9, 9, 3), 80, np.uint8)
        pictures = {m["key"]: picture for m in hostile["mistakes"]} if pictured else {}
        page = Page(render_report(hostile, pictures=pictures))
        assert_sound(page)
        assert ATTACK not in page.source
        assert "&lt;img src=x onerror=alert(1)&gt;" in page.source
        assert page.sections["classes"].count(ATTACK) > 1
        assert "{{ 7 * 7 }}" in page.sections["classes"]

    def test_the_page_forbids_scripts_and_loads(self, report):
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render_report(report))
        assert policy.group(1) == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

    def test_unprintable_names_become_a_page(self, report):
        key = "bad\x00\x1b\udcff name\uffff.jpg"
        given = copy.deepcopy(report)
        given["mistakes"][0]["key"] = key
        given["per_class"][0]["class"] = key
        text = render_report(given, pictures={key: np.zeros((4, 4, 3), np.uint8)})
        text.encode("utf-8")
        assert "bad\ufffd\ufffd\ufffd name\ufffd.jpg" in text
        assert any(tag == "img" for tag, _ in Page(text).elements)
        assert_sound(Page(text))
