"""How long COCO's numbers take: ours beside faster-coco-eval and pycocotools, in turn, in one process.

    python benchmarks/detection_metrics.py [--rounds 5] [--resamples 1000]
    python benchmarks/detection_metrics.py --run runs/latest

1,000 images with 7,000 true boxes and 31,000 predictions of 20 classes, drawn from a seed. Timed are the
numbers alone, from data that each library holds in its own form: matching and all twelve numbers. Medians
over rounds in which all three run one after another, so that a busy machine slows all alike; ratios are of
medians. Then the seconds of a bootstrap: mAP, mAP50, mAP75 and every class's average precision, 1,000 times.
With --run the table is what a trained detector says of its test pictures instead.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pictune.data.decoding import decode
from pictune.data.formats import read_dataset
from pictune.data.pixels import shrink
from pictune.evaluation.box_numbers import measure_boxes
from pictune.run import Run
from pictune.tasks.average_precision import coco_numbers, resampled
from pictune.tasks.matching import match
from pictune.tasks.model import Model
from pictune.tasks.table import BoxTable

IMAGES, TRUTHS, PREDICTIONS, CLASSES = 1_000, 7_000, 31_000, 20
PROMISED_RATIO, PROMISED_SECONDS = 2.0, 10.0


def random_table(seed: int = 0) -> BoxTable:
    """A detector of middling quality: seven of ten predictions lie near an object, the others anywhere."""
    generator = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = generator.random((count, 2)) * 500
        return np.concatenate([corner, corner + np.exp(generator.normal(4, 0.8, (count, 2)))], axis=1)

    true_image = np.sort(generator.integers(IMAGES, size=TRUTHS))
    true_label, true_box = generator.integers(CLASSES, size=TRUTHS), boxes(TRUTHS)
    box = boxes(PREDICTIONS)
    image, label = (generator.integers(count, size=PREDICTIONS) for count in (IMAGES, CLASSES))
    near = generator.random(PREDICTIONS) < 0.7
    whose = generator.integers(TRUTHS, size=int(near.sum()))
    size = np.tile(true_box[whose, 2:] - true_box[whose, :2], 2)
    box[near] = true_box[whose] + generator.normal(0, 0.1, (len(whose), 4)) * size
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    image[near] = true_image[whose]
    label[near] = np.where(generator.random(len(whose)) < 0.8, true_label[whose], label[near])
    score = np.where(near, generator.beta(3, 2, PREDICTIONS), generator.beta(2, 4, PREDICTIONS))
    order = np.argsort(image, kind="stable")
    return BoxTable(
        keys=tuple(f"{i}.png" for i in range(IMAGES)),
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        image=image[order],
        label=label[order],
        score=score[order],
        box=box[order],
        true_image=true_image,
        true_label=true_label,
        true_box=true_box,
        crowd=np.zeros(TRUTHS, bool),
        area=(true_box[:, 2:] - true_box[:, :2]).prod(axis=1),
        thresholds=np.full(CLASSES, 0.5),
    )


def table_of(folder: Path) -> BoxTable:
    """What a run's detector says of its test pictures, every answer that it gives."""
    run = Run(folder)
    model = Model.load(run.model)
    data, splits = Path(run.read("made_by.json")["data"]), run.read("splits.json")["splits"]
    tested = set(splits["test"])
    pairs = [(s, decode(s.path).pixels) for s in read_dataset(data).samples if s.key in tested]
    samples = [sample for sample, _ in pairs]
    stored = [shrink(pixels, model.specification.side) for _, pixels in pairs]
    sizes = [(pixels.shape[1], pixels.shape[0]) for _, pixels in pairs]
    table = model.task.score(
        [sample.key for sample in samples],
        model.answers(stored, sizes=sizes),
        [sample.annotation for sample in samples],
        None,
    )
    assert isinstance(table, BoxTable), "the run has no detector"
    return table


def described(table: BoxTable) -> tuple[dict, list[dict]]:
    """The table as a COCO file and as a list of results."""
    sizes = np.concatenate([table.box[:, :2], table.box[:, 2:] - table.box[:, :2]], axis=1).tolist()
    true_sizes = np.concatenate(
        [table.true_box[:, :2], table.true_box[:, 2:] - table.true_box[:, :2]], axis=1
    ).tolist()
    crowd = table.crowd.astype(int).tolist()
    columns = (table.true_image.tolist(), table.true_label.tolist(), true_sizes, table.area.tolist(), crowd)
    known = [
        {"id": i + 1, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": many}
        for i, (image, label, box, area, many) in enumerate(zip(*columns, strict=True))
    ]
    columns = (table.image.tolist(), table.label.tolist(), sizes, table.score.tolist())
    said = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, label, box, score in zip(*columns, strict=True)
    ]
    file = {
        "info": {},
        "images": [{"id": i} for i in range(len(table))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(table.classes)],
        "annotations": known,
    }
    return file, said


def peer(make: type, evaluation: type, table: BoxTable) -> Callable[[], np.ndarray]:
    """The twelve numbers by one of the others; loading the data isn't timed."""
    file, said = described(table)
    known = make()
    known.dataset = file
    known.createIndex()
    results = known.loadRes(said)

    def run() -> np.ndarray:
        done = evaluation(known, results, "bbox")
        done.evaluate()
        done.accumulate()
        done.summarize()
        return np.asarray(done.stats[:12], float)

    return run


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - started


def main() -> None:
    """Checks that all agree, measures them in turn, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians are printed")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of the bootstrap")
    parser.add_argument("--run", type=Path, help="a trained detector, instead of drawn boxes")
    options = parser.parse_args()
    table = table_of(options.run) if options.run else random_table()
    images, said, known = len(table), len(table.score), len(table.true_label)
    print(f"{images:,} images, {known:,} true boxes, {said:,} predictions of {len(table.classes)} classes")
    with contextlib.redirect_stdout(io.StringIO()):
        rivals = {
            "pictune": lambda: np.array(list(coco_numbers(match(table)).values())),
            "faster-coco-eval": peer(faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, table),
            "pycocotools": peer(COCO, COCOeval, table),
        }
        answers = {name: work() for name, work in rivals.items()}
    apart = max(float(np.abs(answers["pictune"] - values).max()) for values in answers.values())
    print(f"mAP {answers['pictune'][0]:.4f}; the twelve numbers differ by {apart:.1e} at most")
    rounds = [{name: seconds(work) for name, work in rivals.items()} for _ in range(options.rounds)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rivals}
    print(f"{'':<20}{'median':>9}{'ratio to ours':>15}   ({options.rounds} rounds)")
    for name, median in medians.items():
        print(f"{name:<20}{median:>7.3f} s{median / medians['pictune']:>15.2f}")
    ratio = medians["pictune"] / medians["faster-coco-eval"]
    print(f"ours / faster-coco-eval: {ratio:.2f} (promised: at most {PROMISED_RATIO:g})")
    matches = match(table)
    generator = np.random.default_rng(0)
    weights = generator.multinomial(images, np.full(images, 1 / images), size=options.resamples)
    drawn = seconds(lambda: resampled(matches, weights))
    print(f"{options.resamples} resamples of every class: {drawn:.1f} s (promised: {PROMISED_SECONDS:g})")
    whole = seconds(lambda: measure_boxes(table, resamples=options.resamples))
    print(f"measure_boxes, every number with its interval: {whole:.1f} s")
    late = ratio > PROMISED_RATIO or drawn > PROMISED_SECONDS
    sys.exit("slower than promised" if late or apart > 1e-9 else 0)


if __name__ == "__main__":
    main()
