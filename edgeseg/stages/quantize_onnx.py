"""Stage: quantize an ONNX graph to INT8 as Q/DQ pairs, and prove that onnxruntime runs it on integers."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import StageError
from edgeseg.graph import Format, Graph
from edgeseg.onnxgraph.budget import hold_budget
from edgeseg.onnxgraph.kernels import INTEGER_WEIGHTED, QuantizedShare, quantized_share, runtime_operators
from edgeseg.onnxgraph.planning import end_operators, initial_plan, quantized_tensors, tensor_options, without_kinds
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq
from edgeseg.onnxgraph.statistics import collect, run_images, streamed
from edgeseg.onnxgraph.view import WEIGHTED, load_model
from edgeseg.pipeline import OUT_OF_TIME, Outcome
from edgeseg.quantize.estimate import Trial, decision_snr, refine, relax
from edgeseg.quantize.journal import SearchJournal, plan_key
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, read_plan
from edgeseg.session import ModelInput
from edgeseg.spec import Layout, ModelSpec
from edgeseg.stages.qdq_options import QdqOptions, budget_notes
from edgeseg.stages.search_journal import resumed_notes

if TYPE_CHECKING:
    import onnx

__all__ = ["ImageSet", "QuantizeResult", "SearchSettings", "quantize_onnx", "quantize_onnx_stage"]

_STAGE = "quantize"
# Judged on a few images, choices among hundreds of tensors fit those images: measured on five networks, single tensors changed
# by less than the images' noise, and so did estimators within half a decibel. Only a clear gain for all tensors is taken.
_ESTIMATORS = ("mse", "percentile-99.999", "mean-minmax", "minmax")
_MARGIN_DB = 0.5


class ImageSet(Protocol):
    """Prepared images that can be iterated any number of times; ``CalibrationSet`` is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ModelInput]: ...


@dataclass(frozen=True)
class SearchSettings:
    """How much is spent on the plan.

    Attributes:
        images: calibration images on which plans are judged; held back from the statistics where there are enough.
        evaluations: of range estimators at the output, at most.
        ends_share: of the multiply-adds that the operators at the network's ends may do to be tried in float.
        ends_gain_db: what they must gain at the output to stay there. A normalised image loses more than its network's other
            activations in eight bits, and the logits decide alone.
        floor_db: decision SNR below which operators return to float.
        relax_evaluations: spent on finding those, at most.
        deadline: of ``time.monotonic``; what is not measured by then is left as it is, and a note says so.
        journal: what an interrupted search of the same graph on the same images has measured.
    """

    images: int = 4
    evaluations: int = 4
    ends_share: float = 0.1
    ends_gain_db: float = 1.0
    floor_db: float = 20.0
    relax_evaluations: int = 30
    deadline: float = math.inf
    journal: SearchJournal = field(default_factory=SearchJournal)

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class QuantizeResult:
    """Attributes:
    graph: the INT8 file.
    plan: what was carried out.
    share: what of the file is int8, in operators and multiply-adds.
    score_db: decision SNR against the float graph on the judging images; NaN for a plan that was given.
    trials: what was tried to find the plan.
    notes: what the search for it has to say.
    """

    graph: Graph
    plan: QuantPlan
    share: QuantizedShare
    score_db: float
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()

    @property
    def int8_ops(self) -> tuple[OpPlan, ...]:
        return tuple(entry for entry in self.plan.ops if entry.domain is Domain.INT8)

    @property
    def float_ops(self) -> tuple[OpPlan, ...]:
        return tuple(entry for entry in self.plan.ops if entry.domain is Domain.FLOAT)


def quantize_onnx_stage(
    graph: Graph, calibration: CalibrationSet, spec: ModelSpec, work: Path, options: QdqOptions | None = None
) -> Outcome:
    """``quantize_onnx`` as a stage, held to the budget: writes ``model.onnx`` and ``quantization.json`` into ``work``.

    Raises:
        UsageError: policy, effort or plan make no sense.
    """
    options = options or QdqOptions()
    options.check()
    timed = SearchSettings(
        deadline=time.monotonic() + options.time_limit_s,
        journal=options.journal(graph.path.read_bytes(), calibration, spec, style=QdqStyle.ONNXRUNTIME),
    )
    given = read_plan(options.plan) if options.plan is not None else None
    out = work / "quantized.onnx"
    # A policy that names domains is carried out as it is: nothing is tried in float that it did not name.
    settings = timed if options.policy == "auto" else replace(timed, ends_share=0, floor_db=-math.inf)
    result = quantize_onnx(graph, calibration, out, plan=given, settings=settings, progress=options.progress)
    model = load_model(graph.path)
    wanted = without_kinds(model, result.plan, options.float_kinds, style=QdqStyle.ONNXRUNTIME)
    options.progress("estimating the loss of mIoU")
    judges = list(islice(iter(calibration), options.judged))
    budgeted = hold_budget(
        model,
        wanted,
        judges,
        replace(
            options.settings(spec, calibration, partial(streamed, model, pixels=graph.pixels, layout=Layout.NCHW)),
            deadline=timed.deadline,
            journal=timed.journal,
        ),
        style=QdqStyle.ONNXRUNTIME,
        pixels=graph.pixels,
        progress=options.progress,
    )
    if budgeted.plan is not result.plan:
        again = quantize_onnx(graph, calibration, out, plan=budgeted.plan)
        result = replace(result, graph=again.graph, plan=again.plan, share=again.share)
    (work / "quantization.json").write_bytes(msgspec.json.format(msgspec.json.encode(result.plan), indent=1))
    timed.journal.finish((*result.notes, *budgeted.notes))
    kinds = Counter(quant.estimator or "given" for quant in result.plan.tensors.values())
    return Outcome(
        result.graph,
        (
            *budget_notes(budgeted, options.budget, instead="onnx-fp32"),
            *result.notes,
            *resumed_notes(timed.journal),
            f"{result.share.int8.total()} of {result.share.int8.total() + result.share.others.total()} operators and "
            f"{result.share.share:.1%} of the multiply-adds in int8",
            "ranges by " + ", ".join(f"{name} ({count})" for name, count in kinds.most_common()),
            *(f"tried {trial.change}: {trial.score:.1f} dB{', kept' if trial.kept else ''}" for trial in result.trials),
        ),
    )


def quantize_onnx(
    graph: Graph,
    calibration: ImageSet,
    out: Path,
    *,
    plan: QuantPlan | None = None,
    style: QdqStyle = QdqStyle.ONNXRUNTIME,
    settings: SearchSettings | None = None,
    layout: Layout = Layout.NCHW,
    progress: Callable[[str], None] = lambda _: None,
) -> QuantizeResult:
    """Quantize a float ONNX graph after training.

    Statistics of every activation that may be quantized are streamed from the calibration images; each tensor gets the range of
    least squared error, unless another estimator is clearly better at the network's output; operators whose int8 form costs
    too much return to float.

    Args:
        plan: carry out this plan instead of making one.
        out: the file to write.

    Raises:
        StageError: nothing could be quantized, or onnxruntime does not run on integers what the plan wants so.
        UsageError: the given plan does not fit the graph.
    """
    model = load_model(graph.path)
    score = float("nan")
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()
    if plan is None:
        plan, score, trials, notes = _search(graph, calibration, style, settings or SearchSettings(), layout, progress)
    wanted = [entry for entry in plan.ops if entry.domain is Domain.INT8 and entry.kind in WEIGHTED]
    if not wanted:
        raise StageError(
            f"no operator of {graph.path.name} can run in int8: {_reasons(plan)}.",
            hint="Choose the float32 target, or rewrite the model with convolutions or linear layers of constant weights.",
            stage=_STAGE,
        )
    quantized = insert_qdq(model, plan, style=style)
    if style is QdqStyle.ONNXRUNTIME:
        _require_kernels(quantized, wanted)
    out.write_bytes(quantized.SerializeToString())
    made = Graph.of(out, Format.ONNX, pixels=graph.pixels)
    return QuantizeResult(made, plan, quantized_share(quantized), score, trials, notes)


def _search(
    graph: Graph,
    calibration: ImageSet,
    style: QdqStyle,
    settings: SearchSettings,
    layout: Layout,
    progress: Callable[[str], None],
) -> tuple[QuantPlan, float, tuple[Trial, ...], tuple[str, ...]]:
    """The plan, its score on the judging images, what was tried, and notes."""
    model = load_model(graph.path)
    judges = list(islice(iter(calibration), settings.images))
    # Ranges are judged on images that did not make them, unless there are too few to do without.
    skipped = len(judges) if len(calibration) >= 4 * len(judges) else 0
    progress("statistics of activations")
    observed = quantized_tensors(model, style=style)
    observers = collect(
        graph.path, islice(iter(calibration), skipped, None), tensors=observed, pixels=graph.pixels, layout=layout
    )
    run = partial(run_images, inputs=judges, pixels=graph.pixels, layout=layout)
    reference = run(model)
    evaluate = _Evaluation(
        lambda plan: decision_snr(reference, run(insert_qdq(model, plan, style=style))), settings.journal, progress
    )
    start = initial_plan(model, observers, style=style)
    if not start.tensors:
        return start, float("nan"), (), ()
    evaluate.doing = "choosing ranges"
    refined = refine(
        start,
        tensor_options(model, start, observers, style=style, estimators=_ESTIMATORS),
        evaluate,
        budget=settings.evaluations,
        estimators=_ESTIMATORS,
        margin_db=_MARGIN_DB,
        stop=lambda: settings.late,
    )
    notes = [f"{OUT_OF_TIME} while choosing ranges"] if refined.stopped else []

    def rebuild(reasons: Mapping[str, str]) -> QuantPlan:
        fresh = initial_plan(model, observers, style=style, keep_float=reasons)
        chosen = {name: refined.plan.tensors.get(name, quant) for name, quant in fresh.tensors.items()}
        return msgspec.structs.replace(fresh, tensors=chosen)

    plan, score, trials, floats = refined.plan, refined.score, list(refined.trials), dict[str, str]()
    first, last = end_operators(model, plan, share=settings.ends_share)
    for where, ends in (("first", first), ("last", last)):
        if not ends or len(floats) + len(ends) >= len(_weighted(refined.plan)):
            continue
        if settings.late:
            notes.append(f"{OUT_OF_TIME} before the {where} weighted operators were tried in float")
            continue
        evaluate.doing = f"the {where} weighted operators in float"
        trial = rebuild(floats | dict.fromkeys(ends, "tried in float"))
        gained = evaluate(trial) - score
        kept = gained >= settings.ends_gain_db
        trials.append(Trial(f"the {where} weighted operators in float", score + gained, kept))
        if kept:
            floats |= dict.fromkeys(ends, f"{where} of the network: in float it gains {gained:.1f} dB for little work")
            plan, score = rebuild(floats), score + gained
    if score >= settings.floor_db:
        return plan, score, tuple(trials), tuple(notes)
    evaluate.doing = "looking for operators that lose too much in int8"
    relaxed = relax(
        plan,
        evaluate,
        settings.floor_db,
        units=_weighted(plan),
        rebuild=lambda ops: rebuild(floats | dict.fromkeys(ops, "its int8 form costs accuracy")),
        budget=settings.relax_evaluations,
        stop=lambda: settings.late,
    )
    if relaxed.stopped:
        notes.append(f"{OUT_OF_TIME} while looking for operators that lose too much in int8")
    return relaxed.plan, relaxed.score, (*trials, *relaxed.trials[1:]), tuple(notes)


@dataclass
class _Evaluation:
    """Scores plans, dB, and tells what is being done and the best score so far. ``doing``: which step of the search it is."""

    measure: Callable[[QuantPlan], float]
    journal: SearchJournal
    progress: Callable[[str], None]
    doing: str = ""
    best: float = -math.inf

    def __call__(self, plan: QuantPlan) -> float:
        told = f"; best so far {self.best:.1f} dB" if math.isfinite(self.best) else ""
        self.progress(self.doing + told)
        (score,) = self.journal.once(f"output {plan_key(plan)}", lambda: (self.measure(plan),))
        self.best = max(self.best, score)
        return score


def _weighted(plan: QuantPlan) -> list[str]:
    """The weighted operators that the plan runs in int8."""
    return [entry.op for entry in plan.ops if entry.domain is Domain.INT8 and entry.kind in WEIGHTED]


def _require_kernels(quantized: onnx.ModelProto, wanted: Sequence[OpPlan]) -> None:
    """Fail where onnxruntime left a weighted operator in float that the plan wants in int8."""
    kinds = runtime_operators(quantized)
    integer = sum(count for kind, count in kinds.items() if kind in INTEGER_WEIGHTED)
    if integer < len(wanted):
        planned = Counter(entry.kind for entry in wanted)
        raise StageError(
            f"onnxruntime runs {integer} weighted operators on integers, the plan has {len(wanted)} "
            f"({', '.join(f'{count} {kind}' for kind, count in sorted(planned.items()))}).",
            hint="Set the operators for which onnxruntime has no integer kernel (ConvTranspose, grouped MatMul) to float32 in "
            "the plan, or leave the plan out to have one made.",
            stage=_STAGE,
        )


def _reasons(plan: QuantPlan) -> str:
    found = Counter(f"{entry.kind}: {entry.why}" for entry in plan.ops if entry.kind in WEIGHTED)
    return "; ".join(f"{count} {reason}" for reason, count in found.most_common(3)) or "it has no weighted operators"
