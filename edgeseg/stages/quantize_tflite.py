"""Stage: quantize a float TFLite file to INT8 by the plan that measuring says is fastest and still segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import StageError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.preprocess import raw_threshold
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.quantize.ranges import choose
from edgeseg.session import Float32, ModelInput
from edgeseg.spec import IoType, ModelSpec, OutputKind
from edgeseg.stages.rewrite_tflite import best_float, operator_costs
from edgeseg.tflite.cost import int8_share
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.passes import PASSES, apply
from edgeseg.tflite.pixels import Normalisation, PixelInput, fold_input_normalisation
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.preparation import PassReport, prepare
from edgeseg.tflite.search import EFFORTS, SearchResult, SearchSettings, pareto, search
from edgeseg.tflite.statistics import activations, collect

__all__ = ["QuantizeOptions", "SearchRecord", "TriedRecord", "quantize_tflite"]

_STAGE = "quantize"
_JUDGED = {"quick": 6, "normal": 12, "max": 24}
"""Calibration images that judge candidates, by effort."""
_FOLD_NOISE = 3e-3
"""Noise over signal at the output above which folding the normalisation costs more at the borders than exact pixels gain."""


@dataclass(frozen=True)
class QuantizeOptions:
    """See ``edgeseg.compiling.CompileOptions``."""

    io: IoType = IoType.FLOAT32
    plan: Path | None = None
    policy: str = "auto"
    effort: str = "normal"
    budget: float = 0.3
    time_limit_s: float = 600.0
    progress: Callable[[str], None] = lambda _: None


class TriedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture that was run: predicted time, expected loss of mIoU in points, noise at the output."""

    name: str
    int8_operators: int
    predicted_ms: float
    drop: float
    snr_db: float
    latency_ms: float | None = None


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written as ``search.json``. Times are of this machine, one thread; only their ratios travel. ``front``: the mixtures that no
    other beats in both predicted time and loss."""

    budget: float
    within_budget: bool
    float_ms: float
    chosen: TriedRecord
    front: tuple[TriedRecord, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Prepared:
    """The graph that is quantized and how it is fed."""

    graph: TfGraph
    pixels: PixelInput | None
    passes: tuple[str, ...]

    def feed(self, image: ModelInput) -> Float32:
        if self.pixels is not None:
            return self.pixels.feed(image.pixels)
        return _values(image)


def quantize_tflite(
    graph: Graph, calibration: CalibrationSet, spec: ModelSpec, work: Path, options: QuantizeOptions
) -> Outcome:
    """Quantize ``graph``; writes ``int8.tflite``, ``quantization.json`` and, after a search, ``search.json`` into ``work``.

    Raises:
        StageError: nothing runs in int8, or the plan asks for what no kernel does.
        UsageError: policy, effort or plan make no sense.
    """
    deadline = time.monotonic() + options.time_limit_s
    original = read(graph.path)
    given = None if options.plan is None else _read_plan(options.plan)
    prepared, notes = _prepare(original, calibration, spec, options, given)
    if given is not None:
        plan = given
    else:
        options.progress("statistics")
        observers = {name: Observer(name) for name in activations(prepared.graph)}
        collect(prepared.graph, map(prepared.feed, calibration), lambda name, values: observers[name].update(values))
        plan, more = _plan(original, prepared, observers, calibration, spec, options, deadline, work)
        plan = msgspec.structs.replace(plan, passes=prepared.passes)
        notes += more
    emitted = quantize(prepared.graph, plan, io=options.io)
    share = int8_share(emitted)
    if share == 0.0:
        raise StageError(
            "no multiply-add of the result runs in int8.",
            hint="On this model int8 costs more than the budget allows or saves nothing; use tflite-fp16, or raise --budget.",
            stage=_STAGE,
        )
    out = work / "int8.tflite"
    write(emitted, out)
    (work / "quantization.json").write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))
    return Outcome(
        Graph.of(out, Format.TFLITE, pixels=prepared.pixels is not None),
        (f"{share:.1%} of the multiply-adds in int8", *notes),
    )


def _prepare(
    original: TfGraph, calibration: CalibrationSet, spec: ModelSpec, options: QuantizeOptions, given: QuantPlan | None
) -> tuple[_Prepared, tuple[str, ...]]:
    """Rewrite the graph where that makes it faster; fold the normalisation where the file is to take 8-bit input and the fold does
    no harm."""
    options.progress("rewrites")
    boundary = Domain.FLOAT if options.io is IoType.FLOAT32 else Domain.INT8
    if given is None:
        graph, report = _rewritten(original, boundary, options)
    else:
        graph, places = apply(original, given.passes)
        report = PassReport(places, ())
    passes = tuple(report.places)
    if options.io is IoType.FLOAT32:
        return _Prepared(graph, None, passes), (report.text,)
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(spec.preprocess, spec.input.channels))
    prepared = _Prepared(folded, pixels, passes)
    judge = _judge(original, prepared, list(islice(calibration, 2)), spec)
    noise = judge.score(folded).noise
    if noise > _FOLD_NOISE:
        why = f"normalisation not folded: at the borders it would cost {noise:.1e} of the signal"
        return _Prepared(graph, None, passes), (report.text, why)
    return prepared, (report.text, "takes exact pixels")


def _rewritten(original: TfGraph, boundary: Domain, options: QuantizeOptions) -> tuple[TfGraph, PassReport]:
    """The policy ``full`` wants everything in int8, so it takes every rewrite that makes that possible; otherwise the fast ones."""
    if options.policy == "full":
        graph, places = apply(original, tuple(PASSES))
        return graph, PassReport({name: count for name, count in places.items() if count}, ())
    return prepare(original, operator_costs, boundary=boundary, int8=True)


def _plan(
    original: TfGraph,
    prepared: _Prepared,
    observers: dict[str, Observer],
    calibration: CalibrationSet,
    spec: ModelSpec,
    options: QuantizeOptions,
    deadline: float,
    work: Path,
) -> tuple[QuantPlan, tuple[str, ...]]:
    fixed = {} if prepared.pixels is None else {prepared.graph.inputs[0]: prepared.pixels.quant()}
    policy, _, kinds = options.policy.partition("=")
    if policy in {"full", "float-ops"}:
        ranges = {name: choose(observer) for name, observer in observers.items()} | fixed
        named = {kind.strip().upper() for kind in kinds.split(",") if kind.strip()}
        unknown = named - {op.kind for op in prepared.graph.ops}
        if unknown:
            raise UsageError(
                f"The graph has no operator {', '.join(sorted(unknown))}.",
                hint=f"It has {', '.join(sorted({op.kind for op in prepared.graph.ops}))}.",
            )
        return initial_plan(prepared.graph, ranges, policy=Policy.FULL, float_kinds=named), (f"policy {options.policy}",)
    if policy != "auto" or options.effort not in EFFORTS:
        raise UsageError(
            f"There is no policy '{options.policy}' or effort '{options.effort}'.",
            hint=f"Policies: auto, full, float-ops=KIND,KIND. Efforts: {', '.join(EFFORTS)}.",
        )
    options.progress("operator times")
    costs = operator_costs(prepared.graph)
    images = list(islice(calibration, _JUDGED[options.effort]))
    result = search(
        prepared.graph,
        observers,
        _judge(original, prepared, images, spec),
        costs,
        prepared.feed(images[0]),
        SearchSettings(
            budget=options.budget,
            effort=EFFORTS[options.effort],
            boundary=Domain.FLOAT if options.io is IoType.FLOAT32 else Domain.INT8,
            deadline=deadline,
            fixed=fixed,
            baseline=(best_float(original)[0], _values(images[0])),
            progress=options.progress,
        ),
    )
    record = _record(result, options.budget)
    (work / "search.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    return result.best.plan, _search_notes(record)


def _judge(original: TfGraph, prepared: _Prepared, images: list[ModelInput], spec: ModelSpec) -> Judge:
    return Judge(
        original,
        [_values(image) for image in images],
        [prepared.feed(image) for image in images],
        threshold=raw_threshold(spec),
        probability=spec.output.kind is OutputKind.PROBABILITY,
    )


def _values(image: ModelInput) -> Float32:
    """float32 (1, H, W, C)."""
    return np.ascontiguousarray(image.values.transpose(0, 2, 3, 1))


def _record(result: SearchResult, budget: float) -> SearchRecord:
    tried = {
        id(one): TriedRecord(
            name=one.name,
            int8_operators=len(one.int8),
            predicted_ms=round(one.predicted_us / 1e3, 3),
            drop=round(one.score.drop, 4),
            snr_db=round(min(one.score.snr_db, 999.0), 2),
            latency_ms=None if one.latency_ms is None else round(one.latency_ms, 3),
        )
        for one in (*result.candidates, result.best)
    }
    return SearchRecord(
        budget=budget,
        within_budget=result.within,
        float_ms=round(result.float_ms, 3),
        chosen=tried[id(result.best)],
        front=tuple(tried[id(one)] for one in pareto(result.candidates)),
        notes=result.notes,
    )


def _search_notes(record: SearchRecord) -> tuple[str, ...]:
    chosen = record.chosen
    notes = [f"expected loss {chosen.drop:.2f} points of {record.budget:g} allowed", *record.notes]
    if not record.within_budget:
        notes.insert(0, "no mixture tried is within the budget; this is the one that does least harm")
    if chosen.latency_ms is not None:
        ratio = chosen.latency_ms / record.float_ms
        notes.append(f"{ratio:.2f} of the float time here, one thread")
        if ratio >= 1.0:
            notes.append(
                "VETO: int8 is not faster than float on this machine's runtime; tflite-fp32 or tflite-fp16 serves better"
            )
    return tuple(notes)


def _read_plan(path: Path) -> QuantPlan:
    try:
        return msgspec.json.decode(path.read_bytes(), type=QuantPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"'{path}' is not a quantization plan: {error}.", hint="Give a quantization.json that a compile has written."
        ) from error
