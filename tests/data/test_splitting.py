"""Splits: nothing that belongs together is cut, every class is spread, given splits are kept and checked."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.data.finding import Outcome
from pictune.data.placing import Unit, place
from pictune.data.sample import Dataset, Labels, Sample
from pictune.data.splitting import split_dataset, units_of, with_given_splits
from pictune.errors import DataError


def dataset_of(rows, *, multilabel=False, classes=None) -> Dataset:
    """Rows of (key, labels, group, given split, checksum), cut short where the rest is None."""
    samples = []
    for row in rows:
        key, labels, group, given_split, checksum = (*row, *[None] * (5 - len(row)))
        names = tuple(labels) if isinstance(labels, list | tuple) else (labels,)
        samples.append(Sample(key, Path(key), Labels(names), group, given_split, checksum=checksum or ""))
    found = sorted({name for sample in samples for name in sample.annotation.names})
    return Dataset(
        Path("root"), "folders", "classification", tuple(classes or found), tuple(samples), multilabel
    )


def alone(dataset: Dataset) -> range:
    """Clusters of one image each."""
    return range(len(dataset))


def plain(images: dict[str, int], **splits: int) -> Dataset:
    return dataset_of(
        [(f"{name}/{number:04}", name) for name, count in images.items() for number in range(count)]
    )


def given_splits(**counts: dict[str, int]) -> Dataset:
    """Images of given splits: ``train={"cat": 3}``."""
    rows = [
        (f"{split}/{name}/{number}", name, None, split)
        for split, classes in counts.items()
        for name, count in classes.items()
        for number in range(count)
    ]
    return dataset_of(rows)


def sizes(dataset: Dataset) -> dict[str, int]:
    return {name: len(positions) for name, positions in dataset.splits.items()}


def codes(dataset: Dataset) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in dataset.findings]


@st.composite
def datasets(draw):
    """Images with classes, groups and clusters, in any mixture."""
    count = draw(st.integers(12, 60))
    several = draw(st.booleans())
    label = st.sets(st.sampled_from("abcd"), max_size=3).map(sorted) if several else st.sampled_from("abcd")
    groups = st.one_of(st.none(), st.integers(0, 20).map(str))
    rows = [
        (
            f"{number:03}.jpg",
            draw(label),
            draw(groups),
            None,
            draw(st.sampled_from(["", "", f"sum{number // 2}"])),
        )
        for number in range(count)
    ]
    clusters = [draw(st.integers(0, 3 * count)) for _ in range(count)]
    return dataset_of(rows, multilabel=several, classes="abcd"), clusters


def try_split(dataset, clusters, **options) -> Dataset | None:
    """The split, or None when everything hangs together so that no val can be made."""
    try:
        return split_dataset(dataset, clusters=clusters, **options)
    except DataError as error:
        assert error.code == "too_few"  # noqa: PT017 - the only reason allowed here
        return None


class TestProperties:
    @given(datasets(), st.integers(0, 3))
    def test_every_image_is_placed_once_and_nothing_is_cut(self, given_data, seed):
        dataset, clusters = given_data
        split = try_split(dataset, clusters, seed=seed)
        if split is None:
            return
        placed = [position for positions in split.splits.values() for position in positions]
        assert sorted(placed) == list(range(len(dataset)))
        split_of = {position: name for name, positions in split.splits.items() for position in positions}
        together = defaultdict(set)
        for position, sample in enumerate(dataset.samples):
            together["cluster", clusters[position]].add(split_of[position])
            if sample.group is not None:
                together["group", sample.group].add(split_of[position])
            if sample.checksum:
                together["checksum", sample.checksum].add(split_of[position])
        assert all(len(splits) == 1 for splits in together.values())

    @given(datasets(), st.integers(0, 3), st.randoms(use_true_random=False))
    def test_the_order_of_files_does_not_matter(self, given_data, seed, chance):
        dataset, clusters = given_data
        order = list(range(len(dataset)))
        chance.shuffle(order)
        split = try_split(dataset, clusters, seed=seed)
        again = try_split(dataset.select(order), [clusters[position] for position in order], seed=seed)
        assert (split is None) == (again is None)
        if split and again:
            by_key = [
                {name: {d.samples[p].key for p in positions} for name, positions in d.splits.items()}
                for d in (split, again)
            ]
            assert by_key[0] == by_key[1]

    @given(datasets())
    def test_every_class_is_learnt(self, given_data):
        dataset, clusters = given_data
        split = try_split(dataset, clusters)
        if split:
            counts = split.split("train").count()
            assert all(counts[name] for name, count in dataset.count().items() if count)

    @given(
        st.lists(st.integers(20, 80), min_size=2, max_size=5),
        st.tuples(st.floats(0.1, 0.3), st.floats(0.1, 0.3)),
        st.integers(0, 5),
    )
    def test_shares_are_met_within_an_image_a_class(self, counts, shares, seed):
        dataset = plain({f"class{number}": count for number, count in enumerate(counts)})
        fractions = (1 - sum(shares), *shares)
        split = split_dataset(dataset, clusters=alone(dataset), fractions=fractions, seed=seed)
        for name, fraction in zip(("train", "val", "test"), fractions, strict=True):
            part = split.split(name)
            assert abs(len(part) - fraction * len(dataset)) <= len(counts)
            for class_name, count in dataset.count().items():
                assert abs(part.count()[class_name] - fraction * count) <= 2

    @given(st.lists(st.integers(1, 12), min_size=40, max_size=60), st.integers(0, 5))
    def test_shares_are_met_with_groups(self, group_sizes, seed):
        rows = [
            (f"{number:03}/{image}", "ab"[number % 2], str(number))
            for number, size in enumerate(group_sizes)
            for image in range(size)
        ]
        dataset = dataset_of(rows)
        split = split_dataset(dataset, clusters=alone(dataset), seed=seed)
        for name, fraction in zip(("train", "val", "test"), (0.7, 0.15, 0.15), strict=True):
            assert abs(len(split.split(name)) / len(dataset) - fraction) < 0.06

    @given(st.lists(st.sets(st.sampled_from("abcde"), min_size=1, max_size=3), min_size=80, max_size=120))
    @settings(max_examples=30)
    def test_classes_of_many_labels_are_spread(self, label_sets):
        dataset = dataset_of(
            [(f"{n:03}", sorted(names)) for n, names in enumerate(label_sets)],
            multilabel=True,
            classes="abcde",
        )
        split = split_dataset(dataset, clusters=alone(dataset))
        for name, total in dataset.count().items():
            if total >= 10:
                assert abs(split.split("train").count()[name] / total - 0.7) < 0.2
                assert split.split("val").count()[name]
                assert split.split("test").count()[name]


class TestMadeSplits:
    def test_another_seed_gives_another_split(self):
        dataset = plain({"a": 30, "b": 30})
        splits = {
            split_dataset(dataset, clusters=alone(dataset), seed=seed).splits["test"] for seed in range(5)
        }
        assert len(splits) == 5

    def test_it_is_random_enough(self):
        """Over many seeds each image is tested about as often as any other."""
        dataset = plain({"a": 12, "b": 8})
        seen = Counter()
        for seed in range(300):
            seen.update(split_dataset(dataset, clusters=alone(dataset), seed=seed).splits["test"])
        assert min(seen[position] for position in range(20)) > 15

    def test_says_what_it_made(self):
        dataset = plain({"a": 20, "b": 20})
        split = split_dataset(dataset, clusters=alone(dataset), seed=7)
        assert sizes(split) == {"train": 28, "val": 6, "test": 6}
        (finding,) = split.findings
        assert (finding.code, finding.outcome) == ("split_made", Outcome.NORMALISE)
        assert all(
            word in finding.message for word in ("seed 7", "train 28", "val 6", "test 6", "all images")
        )

    def test_44_a_class_of_one_image_stays_in_train(self):
        dataset = plain({"a": 20, "b": 20, "rare": 1})
        for seed in range(20):
            split = split_dataset(dataset, clusters=alone(dataset), seed=seed)
            assert split.split("train").count()["rare"] == 1
            assert ("not_evaluated", "rare") in codes(split)

    @pytest.mark.parametrize(("count", "in_splits"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 3)])
    def test_a_class_is_in_as_many_splits_as_it_can_be(self, count, in_splits):
        dataset = plain({"a": 40, "b": 40, "rare": count})
        for seed in range(20):
            split = split_dataset(dataset, clusters=alone(dataset), seed=seed)
            present = [name for name in split.splits if split.split(name).count()["rare"]]
            assert len(present) == in_splits
            assert "train" in present

    def test_a_class_of_one_group_stays_in_train(self):
        rows = [(f"a/{n}", "a") for n in range(20)] + [(f"b/{n}", "b", "one patient") for n in range(20)]
        dataset = dataset_of(rows)
        split = split_dataset(dataset, clusters=alone(dataset))
        assert split.split("train").count()["b"] == 20
        assert ("not_evaluated", "b") in codes(split)

    def test_40_near_duplicates_stay_together(self):
        dataset = plain({"a": 30, "b": 30})
        clusters = [position // 3 for position in range(60)]
        for seed in range(10):
            split = split_dataset(dataset, clusters=clusters, seed=seed)
            for positions in split.splits.values():
                assert all(count == 3 for count in Counter(p // 3 for p in positions).values())

    def test_too_few_images(self):
        for dataset in (
            plain({"a": 1, "b": 1}),
            dataset_of([(str(n), "ab"[n % 2], "one") for n in range(30)]),
        ):
            with pytest.raises(DataError) as caught:
                split_dataset(dataset, clusters=alone(dataset))
            assert caught.value.code == "too_few"

    @pytest.mark.parametrize(
        ("fractions", "test"),
        [((0.8, 0.2), "auto"), ((0.5, 0.2, 0.2), "auto"), ((1.2, -0.1, -0.1), "auto"),
         ((0, 0.5, 0.5), "auto"), ((0.8, 0, 0.2), "auto"), ((0.8, 0.2, 0), "from_train"),
         ((float("nan"), 0.5, 0.5), "auto")],
    )  # fmt: skip
    def test_impossible_fractions(self, fractions, test):
        dataset = plain({"a": 20, "b": 20})
        with pytest.raises(DataError) as caught:
            split_dataset(dataset, clusters=alone(dataset), fractions=fractions, test=test)
        assert caught.value.code == "bad_fractions"

    @pytest.mark.parametrize("options", [{"test": "absent"}, {"fractions": (0.8, 0.2, 0.0)}])
    def test_no_test_is_declared(self, options):
        dataset = plain({"a": 20, "b": 20})
        split = split_dataset(dataset, clusters=alone(dataset), **options)
        assert list(split.splits) == ["train", "val"]
        assert "no_test" in dict(codes(split))
        assert sum(sizes(split).values()) == 40

    def test_keeps_what_was_noticed_before(self):
        dataset = plain({"a": 20, "b": 20})
        first = split_dataset(dataset, clusters=alone(dataset))
        again = split_dataset(replace(dataset, findings=first.findings), clusters=alone(dataset))
        assert again.findings == first.findings


class TestGivenSplits:
    FULL = {"a": 40, "b": 40}  # noqa: RUF012 - only read

    @pytest.mark.parametrize(
        ("given", "test", "expected", "said"),
        [
            (["train"], "auto", {"train": 56, "val": 12, "test": 12}, ["split_made"]),
            (["train", "val"], "auto", {"train": 80, "val": 80}, ["no_test"]),
            (["train", "val"], "absent", {"train": 80, "val": 80}, ["no_test"]),
            (["train", "val"], "from_train", {"train": 66, "val": 80, "test": 14}, ["split_made"]),
            (["train", "test"], "auto", {"train": 66, "val": 14, "test": 80}, ["split_made"]),
            (["train", "val", "test"], "auto", {"train": 80, "val": 80, "test": 80}, []),
        ],
    )
    def test_only_what_is_missing_is_made_from_train(self, given, test, expected, said):
        dataset = given_splits(**dict.fromkeys(given, self.FULL))
        split = split_dataset(dataset, clusters=alone(dataset), test=test)
        assert sizes(split) == expected
        assert [code for code, _ in codes(split)] == said
        for name in set(given) - {"train"}:
            assert all(split.samples[position].given_split == name for position in split.splits[name])
        assert all(
            split.samples[position].given_split == "train"
            for name in ({"val", "test"} & set(split.splits)) - set(given)
            for position in split.splits[name]
        )

    @pytest.mark.parametrize(
        ("dataset", "options", "code"),
        [
            (given_splits(val=FULL, test=FULL), {}, "no_train"),
            (given_splits(train=FULL, test=FULL), {"test": "absent"}, "test_given"),
            (dataset_of([("1", "a", None, "train"), ("2", "b")]), {}, "no_split"),
        ],
    )
    def test_splits_that_cannot_be_used(self, dataset, options, code):
        with pytest.raises(DataError) as caught:
            split_dataset(dataset, clusters=alone(dataset), **options)
        assert caught.value.code == code

    def test_45_a_class_in_test_but_not_in_train(self):
        dataset = given_splits(train={"a": 9, "b": 9}, val={"a": 3, "b": 3}, test={"a": 3, "c": 3})
        with pytest.raises(DataError) as caught:
            split_dataset(dataset, clusters=alone(dataset))
        assert caught.value.code == "class_not_in_train"
        assert "'c'" in str(caught.value)

    def test_46_a_class_in_train_but_not_in_val(self):
        dataset = given_splits(train={"a": 9, "b": 9}, val={"a": 3}, test={"a": 3, "b": 3})
        assert ("class_not_in_val", "b") in codes(split_dataset(dataset, clusters=alone(dataset)))

    def test_a_class_in_train_only(self):
        dataset = given_splits(train={"a": 9, "b": 9}, val={"a": 3})
        assert ("not_evaluated", "b") in codes(split_dataset(dataset, clusters=alone(dataset)))

    def test_40_equal_files_across_splits_are_refused_by_name(self):
        rows = [
            ("train/a/1", "a", None, "train", "same"), ("train/b/2", "b", None, "train", "other"),
            ("val/a/3", "a", None, "val", "one"), ("val/b/4", "b", None, "val", "two"),
            ("test/a/5", "a", None, "test", "same"), ("test/b/6", "b", None, "test", "two"),
        ]  # fmt: skip
        dataset = dataset_of(rows)
        with pytest.raises(DataError) as caught:
            split_dataset(dataset, clusters=[0, 1, 2, 3, 0, 3])
        assert caught.value.code == "leak"
        text = str(caught.value)
        assert all(
            words in text for words in ("train/a/1 (train) and test/a/5 (test)", "val/b/4 (val) and test/b/6")
        )
        assert "--allow-leaks" in text
        split = split_dataset(dataset, clusters=[0, 1, 2, 3, 0, 3], allow_leaks=True)
        assert [f.outcome for f in split.findings if f.code == "leak"] == [Outcome.WARN, Outcome.WARN]
        assert "near_leak" not in dict(codes(split))

    def test_40_look_alikes_across_splits_are_counted(self):
        dataset = given_splits(train={"a": 3, "b": 3}, val={"a": 3, "b": 3}, test={"a": 1, "b": 1})
        split = split_dataset(dataset, clusters=[0, 0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 9, 2, 10])
        (finding,) = [finding for finding in split.findings if finding.code == "near_leak"]
        assert finding.outcome is Outcome.WARN
        assert "5 images in 2 sets" in finding.message

    def test_a_group_across_given_splits_is_a_leak(self):
        rows = [
            (f"{split}/{n}", "ab"[n % 2], f"{n}" if n else "both", split)
            for split in ("train", "val")
            for n in range(4)
        ]
        dataset = dataset_of([(k, c, g if g == "both" else f"{s}{g}", s) for k, c, g, s in rows])
        with pytest.raises(DataError) as caught:
            split_dataset(dataset, clusters=alone(dataset))
        assert caught.value.code == "leak"
        assert "group" in str(caught.value)

    def test_56_the_same_image_under_two_classes(self):
        rows = [(f"a/{n}", "a", None, None, f"a{n}") for n in range(9)] + [
            (f"b/{n}", "b", None, None, f"b{n}") for n in range(9)
        ]
        dataset = dataset_of([*rows, ("a/x", "a", None, None, "same"), ("b/x", "b", None, None, "same")])
        split = split_dataset(dataset, clusters=alone(dataset))
        (finding,) = [finding for finding in split.findings if finding.code == "conflicting_label"]
        assert finding.outcome is Outcome.WARN
        assert "a/x, b/x" in finding.message

    def test_with_given_splits(self):
        dataset = given_splits(train={"a": 2, "b": 2}, test={"a": 1})
        assert sizes(with_given_splits(dataset)) == {"train": 4, "test": 1}


def test_units_join_through_every_tie():
    rows = [("0", "a", "g"), ("1", "a", "g", None, "s"), ("2", "a", None, None, "s"), ("3", "a"), ("4", "a")]
    assert sorted(units_of(dataset_of(rows), [0, 1, 2, 2, 4])) == [(0, 1, 2, 3), (4,)]


def test_folds_are_places_too():
    """Cross-validation divides the same units among folds, none of which must be complete."""
    units = [Unit(f"{n:03}".encode(), {"ab"[n % 3 == 0]: 2}, 2) for n in range(30)]
    random.Random(1).shuffle(units)
    folds = place(units, {f"fold {n}": 0.2 for n in range(5)})
    assert set(Counter(folds).values()) == {6}
    rare = Counter(fold for fold, unit in zip(folds, units, strict=True) if "b" in unit.counts)
    assert set(rare.values()) == {2}


def test_a_class_that_rarer_ones_took_away_comes_back_to_train():
    """Both images of c also show a or b, whose turn comes first and who send them to val and test."""
    pairs = [("a",), ("b",), ("a", "c"), ("b", "c"), *([("d",)] * 20)]
    units = [Unit(f"{n:02}".encode(), dict.fromkeys(names, 1), 1) for n, names in enumerate(pairs)]
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    placed = zip(units, place(units, shares, complete="train"), strict=True)
    assert {name for unit, split in placed if split == "train" for name in unit.counts} == set("abcd")
