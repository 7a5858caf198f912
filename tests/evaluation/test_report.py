"""The pages: complete, true to their numbers, inert whatever the data contain, and bounded in size."""

from __future__ import annotations

import copy
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.evaluation.measurement import measure
from pictune.evaluation.report import charts, render_audit, render_report, wording
from pictune.evaluation.report.pictures import LARGEST_FILE, Album
from pictune.tasks.table import ClassTable

ATTACK = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input", "hr", "source", "base", "embed"}
LOADING = {
    "script",
    "link",
    "iframe",
    "object",
    "embed",
    "base",
    "form",
    "video",
    "audio",
    "source",
    "image",
    "use",
}


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text by section and table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.mismatched: list[str] = []
        self._section: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section.append(given.get("id", ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)
        if tag == "section":
            self._section.pop()

    def handle_data(self, data):
        for section in self._section:
            self.sections[section] = self.sections.get(section, "") + data
        if {"td", "th"} & set(self.open) and "title" not in self.open[-1:]:
            self.rows[-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [given[name] for _, given in self.elements if name in given]

    def row(self, start: str) -> list[str]:
        """The cells of the first table row whose first cell begins so, with plain spaces."""
        found = next(row for row in self.rows if row and row[0].strip().startswith(start))
        return [" ".join(cell.split()) for cell in found]

    def drawings(self) -> list[ElementTree.Element]:
        """Every outermost SVG, read as XML."""
        found, depth, start = [], 0, 0
        for match in re.finditer(r"<svg[ >]|</svg>", self.source):
            if match.group() == "</svg>":
                depth -= 1
                if depth == 0:
                    found.append(ElementTree.fromstring(self.source[start : match.end()]))
            else:
                start, depth = (match.start() if depth == 0 else start), depth + 1
        return found


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
        "selected_by": "accuracy on val",
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


AUDIT = {
    "dataset": {"root": "rocks", "format": "folders", "task": "classification", "images": 300},
    "conclusions": [
        {"severity": "note", "code": "duplicates", "message": "Duplicates stay together."},
        {"severity": "serious", "code": "leak", "message": "Remove the leak first."},
    ],
    "counts": {"cat": {"train": 140, "val": 21, "test": 32}, "dog": {"train": 77, "val": 13, "test": 17}},
    "sizes": [{"width": 640, "height": 480, "count": 290}, {"width": 31, "height": 24, "count": 10}],
    "findings": [
        {"code": "exif", "outcome": "normalise", "where": "cat/1.jpg", "message": "Turned upright."},
        {"code": "truncated", "outcome": "quarantine", "where": "cat/2.jpg", "message": "Ends too early."},
        {"code": "truncated", "outcome": "quarantine", "where": "cat/3.jpg", "message": "Ends too early."},
    ],
    "duplicates": [{"keys": ["cat/4.jpg", "cat/5.jpg"], "splits": ["train", "train"]}],
    "leaks": [{"keys": ["cat/6.jpg", "cat/7.jpg"], "splits": ["train", "test"]}],
    "conflicts": [{"keys": ["cat/8.jpg", "dog/8.jpg"], "labels": ["cat", ["dog", "pet"]]}],
    "outliers": [{"key": "dog/9.jpg", "class": "dog", "reason": "far from its class"}],
}


def assert_sound(page: Page) -> None:
    """Well-formed, with nothing that runs or loads."""
    assert not page.mismatched
    assert not page.open
    assert not LOADING & {tag for tag, _ in page.elements}
    assert not [name for _, given in page.elements for name in given if name.startswith("on")]
    assert all(address.startswith("data:image/") for address in page.attributes("src"))
    assert all(address.startswith("#") for address in page.attributes("href"))
    assert not {"srcset", "poster", "action", "background", "xlink:href", "data"} & {
        name for _, given in page.elements for name in given
    }
    assert "@import" not in page.source
    assert not re.search(r"url\s*\(", page.source.replace("data:image/", ""))
    anchors = set(page.attributes("id"))
    assert all(address[1:] in anchors for address in page.attributes("href"))
    for drawing in page.drawings():
        assert drawing.find("title").text


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
        assert "accuracy on val" in lead
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
        assert "gets all images right" in page.source

    @pytest.mark.parametrize(
        "name",
        "curves findings per_class confusion confused_pairs mistakes reliability metrics dataset model run split "
        "selected_by created_with n n_groups confidence".split(),
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
        has_table = any("confusion" == given.get("class") for tag, given in page.elements if tag == "table")
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

    def test_audit_names_are_inert(self):
        text = (
            json.dumps(AUDIT).replace("cat", ATTACK).replace("truncated", ATTACK).replace("Ends too", ATTACK)
        )
        page = Page(render_audit(json.loads(text)))
        assert_sound(page)
        assert ATTACK not in page.source
        assert page.sections["counts"].count(ATTACK) >= 1

    def test_the_page_forbids_scripts_and_loads(self, report):
        for page in (render_report(report), render_audit(AUDIT)):
            policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
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

    @settings(max_examples=30, deadline=None)
    @given(st.text(st.characters(), min_size=1, max_size=12))
    def test_any_name_is_inert(self, name):
        page = Page(render_audit({"counts": {name: {"train": 3}}, "conclusions": [name]}))
        assert_sound(page)
        page.source.encode("utf-8")


class TestPictures:
    def test_pixels_survive_as_png_when_small(self):
        pixels = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)
        assert decoded(Album({"a": pixels})("a").address).tolist() == pixels.tolist()

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 5, 3), (400, 300, 3)])
    def test_any_picture_becomes_a_small_rgb_one(self, shape):
        height, width, channels = decoded(Album({"a": np.zeros(shape, np.uint8)})("a").address).shape
        assert channels == 3
        assert max(height, width) == min(192, max(shape[:2]))

    @pytest.mark.parametrize(
        ("start", "kind"),
        [
            (b"\xff\xd8\xff", "jpeg"),
            (b"\x89PNG\r\n\x1a\n", "png"),
            (b"GIF89a", "gif"),
            (b"RIFF\0\0\0\0WEBP", "webp"),
        ],
    )
    def test_encoded_pictures_pass_by_their_first_bytes(self, start, kind):
        assert Album({"a": start + b"rest"})("a").address.startswith(f"data:image/{kind};base64,")

    @pytest.mark.parametrize(
        "given", [b"<svg onload=alert(1)>", b"", b"<html>", b"\xff\xd8\xff" + bytes(LARGEST_FILE)]
    )
    def test_what_is_no_thumbnail_is_left_out(self, given):
        assert Album({"a": given})("a") is None


def decoded(address: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


class TestAudit:
    @pytest.fixture(scope="class")
    @staticmethod
    def page() -> Page:
        keys = ["cat/4.jpg", "cat/6.jpg", "cat/8.jpg", "dog/9.jpg"]
        return Page(render_audit(AUDIT, pictures={key: np.zeros((90, 90, 3), np.uint8) for key in keys}))

    def test_is_sound_and_complete(self, page):
        assert_sound(page)
        order = "conclusions counts sizes problems leaks conflicts duplicates outliers".split()
        assert [given["id"] for tag, given in page.elements if tag == "section" and "id" in given] == order

    def test_opens_with_the_weightiest_conclusion(self, page):
        assert "<h1>Remove the leak first.</h1>" in page.source

    def test_counts_equal_the_json(self, page):
        assert page.row("cat")[1:4] == ["140", "21", "32"]
        assert page.row("dog")[1:4] == ["77", "13", "17"]

    def test_problem_files_stand_under_their_reason(self, page):
        text = " ".join(page.sections["problems"].split())
        assert "truncated 2 files, left out" in text
        assert text.index("truncated") < text.index("exif")
        assert "cat/3.jpg" in text

    def test_copies_show_where_they_are(self, page):
        assert " ".join(page.sections["leaks"].split()).endswith("train cat/6.jpg test cat/7.jpg")
        assert "dog, pet" in page.sections["conflicts"]
        assert {given["alt"] for tag, given in page.elements if tag == "img"} == {
            "cat/4.jpg", "cat/6.jpg", "cat/8.jpg", "dog/9.jpg",
        }  # fmt: skip

    @pytest.mark.parametrize("name", list(AUDIT))
    def test_any_part_may_be_absent(self, name):
        assert_sound(Page(render_audit({key: value for key, value in AUDIT.items() if key != name})))

    def test_an_empty_audit_says_so(self):
        page = Page(render_audit({}))
        assert_sound(page)
        assert "Nothing stands in the way of training." in page.source

    def test_a_large_audit_stays_bounded(self):
        audit = {
            "counts": {f"class {i}": {"train": i} for i in range(1000)},
            "findings": [AUDIT["findings"][1]] * 5000,
            "duplicates": AUDIT["duplicates"] * 5000,
            "outliers": AUDIT["outliers"] * 5000,
        }
        page = render_audit(audit)
        assert len(page) < 400_000
        assert (
            "The other 800 are in the audit&#39;s JSON." in page
            or "The other 800 are in the audit's JSON." in page
        )
        assert_sound(Page(page))


class TestCharts:
    @given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
    def test_scale_encloses_the_range_in_equal_steps(self, first, second):
        low, high = sorted((first, second))
        rungs = charts.scale(low, high)
        slack = 1e-6 * max(abs(low), abs(high), high - low)
        assert rungs[0] <= low + slack
        assert rungs[-1] >= high - slack
        assert 2 <= len(rungs) <= 7
        steps = np.diff(rungs)
        assert np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9)

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    def test_interval_bar_draws_the_numbers(self, one, two, three):
        low, value, high = sorted((one, two, three))
        drawing = ElementTree.fromstring(
            charts.interval_bar({"value": value, "low": low, "high": high}, label="F1")
        )
        whisker = next(e for e in drawing.iter() if e.get("class") == "whisker")
        dot = next(e for e in drawing.iter() if e.get("class") == "dot")
        for shown, meant in ((whisker.get("x1"), low), (whisker.get("x2"), high), (dot.get("cx"), value)):
            assert math.isclose(float(shown.rstrip("%")) / 100, meant, abs_tol=1e-4)

    def test_pooled_map_keeps_a_single_bad_pair(self):
        counts = np.diag([10] * 250)
        counts[3, 200] = 9
        drawing, step = charts.compact_map(counts.tolist(), title="map")
        assert step == 3
        paths = {path.get("class"): path.get("d") for path in ElementTree.fromstring(drawing).iter("path")}
        assert paths["wrong-5"] == "M66 1h1v1h-1z"

    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0.932, "about 93 in 100"),
            (0.9968, "about 997 in 1\u202f000"),
            (0.99996, "nearly all"),
            (0.00001, "hardly any"),
            (1.0, "all"),
            (0.0, "none of the"),
        ],
    )
    def test_shares_in_words(self, share, text):
        assert wording.out_of(share) == text
