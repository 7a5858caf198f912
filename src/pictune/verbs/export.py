"""`export`: a run's model as a file that answers without PyTorch, judged before it exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pictune.errors import ArtifactError, RecipeError, one_line
from pictune.exporting.artifact import SUFFIX, Artifact, is_artifact, write_artifact
from pictune.exporting.formats import FORMATS
from pictune.exporting.gate import Verdict
from pictune.exporting.graph import make_graph, open_torch_program, to_torch_program
from pictune.exporting.precision import to_half, to_openvino
from pictune.exporting.quantising import quantise, sensitive_layers
from pictune.recipe_text import load_yaml
from pictune.recipes import Recipe, read_recipe
from pictune.run import Run, weights_sum
from pictune.tasks.model import Model
from pictune.verbs import reading
from pictune.verbs.asked import trained_run
from pictune.verbs.export_trial import Candidate, Trial, decoding_of
from pictune.verbs.judging import versions
from pictune.verbs.model_card import model_card, origin_told
from pictune.verbs.opening import Opened, home_of, open_run
from pictune.verbs.tables import TABLES
from pictune.verbs.targets import check_export

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "fp16", "int8")
CALIBRATED = 256  # training pictures from which the ranges of int8 are read
MOST_NAMED = 3  # layers kept in float that a summary names
KEPT = (0, 1, 2, 4, 8, 16)  # layers kept in float, one try after the other, until the gate lets int8 pass


@dataclass(frozen=True)
class Replaced:
    """The exported model that was in the place of a new one.

    Args:
        id: Which model it was; empty where it was broken.
        run: The run that it was made of; empty where it was broken.
        same_run: Whether the new one is made of a run of the same name.
        same_weights: Whether the new one is made of the same weights.
    """

    id: str
    run: str
    same_run: bool
    same_weights: bool

    @classmethod
    def find(cls, place: Path, run: Run) -> Replaced | None:
        """What is going to be replaced; None where nothing is.

        Args:
            place: Where the new one is going to be.
            run: The run that the new one is made of.
        """
        if not is_artifact(place):
            return None
        try:
            before = Artifact.open(place)
        except ArtifactError:
            return cls("", "", same_run=False, same_weights=False)
        weights, name = before.content.get("weights"), one_line(str(before.content.get("run", "")))
        sum_before = weights.get("sha256") if isinstance(weights, Mapping) else None
        same = sum_before == weights_sum(run)
        return cls(before.id, name, same_run=name == run.name, same_weights=same)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"id": self.id or None, "run": self.run or None, "same_weights": self.same_weights}

    def sentence(self) -> str:
        """Which one it was."""
        if not self.id:
            return "an exported model that was broken"
        if self.same_weights:
            return f"the model {self.id}, of the same weights"
        if self.same_run:
            return f"the model {self.id}, of other weights of a run called {self.run}"
        return f"the model {self.id}, of another run: {self.run or 'it has no name'}"


@dataclass(frozen=True)
class Export:
    """An exported model.

    Args:
        path: Where it is.
        id: Which model it is, 16 hexadecimal digits.
        verdict: What the gate found.
        kept: Layers that stayed in float because the gate would not let them pass in int8.
        replaced: The exported model that was there before.
    """

    path: Path
    id: str
    verdict: Verdict
    kept: tuple[str, ...] = ()
    replaced: Replaced | None = None

    def rows(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "id": self.id,
            "replaced": self.replaced.to_json() if self.replaced else None,
            "kept_in_float": list(self.kept),
            "gate": self.verdict.to_json(),
        }

    def summary(self) -> str:
        """What the gate found, where the model is, and what was there before."""
        named = ", ".join(self.kept[:MOST_NAMED]) + (", …" if len(self.kept) > MOST_NAMED else "")
        many = f"{len(self.kept)} layer{'s' if len(self.kept) > 1 else ''}"
        kept = [f"  kept in float: {many} ({named}), all in the model card"] if self.kept else []
        replaced = [f"  replaced: {self.replaced.sentence()}"] if self.replaced else []
        return "\n".join([self.verdict.summary(), *kept, "", f"  exported: {self.path}", *replaced])


def export(
    run: Run | Path | str,
    *,
    out: Path | str | None = None,
    format: str = "onnx",
    precision: str = "fp32",
    dynamic_size: bool = False,
    accept_loss: bool = False,
    progress: reading.Progress | None = None,
) -> Export:
    """Writes a run's model as an artifact, if it answers the validation pictures as the run's model does.

    Args:
        run: A run or its folder.
        out: A file that ends in ``.pictune``, or a new folder; ``exports/<run>.pictune`` when None, with what
            is not as usual in its name: precision, size, format. An exported model that is
            there is replaced, and nothing else ever is.
        format: ``onnx``, ``openvino`` or ``torch``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        dynamic_size: Whether the network takes other sizes than that of its canvas, for other programs;
            pictune itself always shows it the canvas that it was judged with.
        accept_loss: Write it even if the gate refuses it; its card says so.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        RunError: When there is no run, it has no model, or the model cannot be written there.
        DataError: When the run's pictures are gone or were changed: the gate needs them.
        RecipeError: When the network cannot be exported so, or a wish contradicts another.
        ArtifactError: ``refused`` when the gate does not let it pass.
    """
    run = trained_run(run, verb="export")
    _check(format, precision)
    target = Path(out) if out is not None else _usual(run, format, precision, dynamic_size)
    check_export(target, format_name=format, data=home_of(run), flag="--out")
    model = Model.load(run.model)
    recipe = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES)
    graph = None if format == "torch" else make_graph(model, dynamic_size=dynamic_size)
    opened = open_run(run, recipe, side=model.specification.side, progress=progress)
    pictures = Trial(model, opened, recipe)
    best: Candidate | None = None
    for candidate in _candidates(model, graph, pictures, format, precision, dynamic_size):
        best = candidate if best is None or candidate.verdict.passed else best
        if candidate.verdict.passed:
            break
    assert best is not None, "there is one candidate at least"
    if not best.verdict.passed and not (accept_loss and best.verdict.measured):
        raise ArtifactError(
            f"{target.name} was not written: the gate refused it",
            code="refused",
            causes=best.verdict.reasons,
            instead="Another precision may pass; --accept-loss writes it all the same, and its card says so.",
        )
    verdict = replace(best.verdict, overruled=not best.verdict.passed)
    facts = _facts(run, model, recipe, pictures.opened, verdict, best.kept, dynamic_size=dynamic_size)
    replaced = Replaced.find(target, run)
    _write(target, best, facts, format, precision)
    return Export(target, Artifact.open(target).id, verdict, best.kept, replaced)


def _check(format_name: str, precision: str) -> None:
    causes = []
    if format_name not in FORMATS:
        causes.append(f"the format {format_name} is not known; there are {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        causes.append(f"the precision {precision} is not known; there are {', '.join(PRECISIONS)}")
    if format_name == "torch" and precision != "fp32":
        causes.append(f"the format torch is written in fp32 only, not in {precision}")
    if causes:
        raise RecipeError("nothing can be exported so", causes=causes)


def _usual(run: Run, format_name: str, precision: str, dynamic_size: bool) -> Path:  # noqa: FBT001
    parts = [run.name, *([precision] if precision != "fp32" else [])]
    parts += ["dynamic"] if dynamic_size else []
    parts += [format_name] if format_name != "onnx" else []
    return Path("exports") / f"{'-'.join(parts)}{SUFFIX}"


def _candidates(
    model: Model,
    graph: onnx.ModelProto | None,
    pictures: Trial,
    format_name: str,
    precision: str,
    dynamic_size: bool,  # noqa: FBT001 - handed through
) -> Iterator[Candidate]:
    """What may be shipped, one try after the other; only int8 has several."""
    judged = pictures.judge
    if graph is None:
        program = to_torch_program(model, dynamic_size=dynamic_size)
        session = open_torch_program(program, tuple(model.task.exported))
        yield judged({"model.pt2": program}, format_name, precision, session=session)
        return
    if precision != "int8":
        made = graph if precision == "fp32" else to_half(graph)
        yield judged(_files(made, format_name), format_name, precision)
        return
    canvases = pictures.canvases("train", CALIBRATED)
    kept: tuple[str, ...] = ()
    ranked: list[str] | None = None
    for count in KEPT:
        if count:
            if ranked is None:
                ranked = sensitive_layers(graph, quantise(graph, canvases), canvases[:64])
            if len(kept) >= len(ranked):
                return  # all of it would be float
            kept = tuple(ranked[:count])
        made = quantise(graph, canvases, kept=kept)
        yield replace(judged(_files(made, format_name), format_name, precision), kept=kept)


def _files(graph: onnx.ModelProto, format_name: str) -> dict[str, bytes]:
    return {"model.onnx": graph.SerializeToString()} if format_name == "onnx" else to_openvino(graph)


def _facts(
    run: Run,
    model: Model,
    recipe: Recipe,
    opened: Opened,
    verdict: Verdict,
    kept: Sequence[str],
    *,
    dynamic_size: bool,
) -> dict[str, Any]:
    """What model.json tells besides the specification."""
    spec, begun = model.specification, reading.origin_of(run)["weights"]
    return {
        "run": run.name,
        "made_with": exporting_versions(),
        "decoding": decoding_of(recipe),
        "dynamic_size": dynamic_size,
        "outputs": list(model.task.exported),
        "calibration": None,  # confidences leave the network as they are
        "kept_in_float": list(kept),
        "weights": {
            "kind": begun["kind"],
            "origin": origin_told(begun, network=spec.network),
            "licence": spec.licence,
            "sha256": weights_sum(run),
        },
        "data": {
            "fingerprint": opened.kept["fingerprint"],
            "images": {name: len(keys) for name, keys in opened.kept["splits"].items()},
        },
        "metrics": _metrics(run),
        "gate": verdict.to_json(),
    }


def exporting_versions() -> dict[str, str]:
    """Which software made an artifact."""
    from importlib.metadata import version

    return {**versions(), **{name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}}


def _metrics(run: Run) -> dict[str, Any]:
    """The numbers of the report that training ended with, with their intervals."""
    from pictune.evaluation.reporting import Report

    name = str(run.read("status.json").get("report", "test"))
    if not (run.path / "reports" / name / "report.json").is_file():
        return {}
    content = Report.open(run.path / "reports" / name).content
    return {
        "split": content["split"],
        "images": content["n"],
        "confidence": content["confidence"],
        "values": dict(content["metrics"]),
        "per_class": list(content["per_class"]),
    }


def _write(
    target: Path, candidate: Candidate, facts: Mapping[str, Any], format_name: str, precision: str
) -> None:
    spec = replace(candidate.exported.specification, origin=facts["weights"]["origin"])
    write_artifact(
        target,
        specification=spec,
        format_name=format_name,
        precision=precision,
        files=candidate.files,
        reference=candidate.exported.make_reference().to_bytes(),
        card=model_card(target.name, spec, facts, format_name=format_name, precision=precision),
        facts=facts,
    )
