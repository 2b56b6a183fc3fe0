"""Stage: quantize a float TFLite file to INT8 by the plan that measuring says is fastest and still segments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import StageError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.metrics.measured import MeasuredDrop
from edgeseg.pipeline import Outcome
from edgeseg.preprocess import raw_threshold
from edgeseg.quantize.journal import SearchJournal
from edgeseg.quantize.learned import LayerWeights, load_learned, store_learned
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain, QuantPlan, TensorQuant, read_plan
from edgeseg.quantize.ranges import choose
from edgeseg.session import Float32, ModelInput
from edgeseg.spec import IoType, ModelSpec, OutputKind, TuneFor
from edgeseg.stages.policy import parse_policy
from edgeseg.stages.rewrite_tflite import OperatorCosts
from edgeseg.stages.scaling_tflite import ESTIMATORS, SCALINGS, best_scaling, rescaling
from edgeseg.stages.search_journal import journal_of, resumed_notes
from edgeseg.stages.search_record import SearchRecord, given_notes, record_of, search_notes
from edgeseg.stages.truth import CHECKED, TruthJudge
from edgeseg.tflite.candidates import SearchResult, SearchSettings
from edgeseg.tflite.cost import int8_share
from edgeseg.tflite.effort import EFFORTS
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import read, serialise, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.integer_only import integer_search, require_integers
from edgeseg.tflite.judge import Judge, streamed
from edgeseg.tflite.passes import PASSES, apply
from edgeseg.tflite.pixels import Normalisation, PixelInput, fold_input_normalisation
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.preparation import PassReport, fastest_us, prepare
from edgeseg.tflite.refine import RefineSettings, refine
from edgeseg.tflite.runtime import workers
from edgeseg.tflite.search import search
from edgeseg.tflite.statistics import activations
from edgeseg.tflite.summaries import summarise

__all__ = ["BEST_FLOAT", "QuantizeOptions", "quantize_tflite"]

BEST_FLOAT = "rewritten.tflite"

_STAGE = "quantize"
_JUDGED = {"quick": 8, "normal": 20, "max": 40}
"""Calibration images that judge candidates, by effort."""
_FOLD_NOISE = 3e-3
"""Noise over signal at the output above which folding the normalisation costs more at the borders than exact pixels gain."""

_SOME = 16
"""Calibration images that decide on scaling channels; the same for every effort, so that a plan finds the same factors again."""
_REFINED = {"max": 0.5}
"""Share of the time limit that is kept for learning weights, by effort; the others learn none."""


@dataclass(frozen=True)
class QuantizeOptions:
    """See ``edgeseg.compile_options.CompileOptions``. ``resumes``: go on from what an interrupted search has measured."""

    io: IoType = IoType.FLOAT32
    plan: Path | None = None
    policy: str = "auto"
    effort: str = "normal"
    budget: float = 0.3
    time_limit_s: float = 600.0
    tune_for: TuneFor = TuneFor.HERE
    resumes: bool = True
    progress: Callable[[str], None] = lambda _: None


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

    @property
    def fixed(self) -> dict[str, TensorQuant]:
        """Quantizations that are given, not estimated."""
        return {} if self.pixels is None else {self.graph.inputs[0]: self.pixels.quant()}


def quantize_tflite(
    graph: Graph, calibration: CalibrationSet, spec: ModelSpec, work: Path, options: QuantizeOptions
) -> Outcome:
    """Quantize ``graph``; writes ``int8.tflite``, ``quantization.json`` and, after a search, ``search.json`` into ``work``;
    ``weights.npz`` too where weights were learned, and ``BEST_FLOAT``, the fastest float form, which INT8 has to beat, where the
    file is meant for the machine at hand.

    Raises:
        StageError: nothing runs in int8, or the plan asks for what no kernel does.
        UsageError: policy, effort or plan make no sense.
    """
    job = _Job(read(graph.path), calibration, spec, options, time.monotonic() + options.time_limit_s)
    prepared, plan, search_record = job.run()
    emitted = quantize(prepared.graph, plan, io=options.io, integer_only=job.integer_only, learned=job.learned)
    if job.integer_only:
        require_integers(emitted)
    share = int8_share(emitted)
    if share == 0.0:
        raise StageError(
            "no multiply-add of the result runs in int8.",
            hint="On this model int8 costs more than the budget allows or saves nothing; use tflite-fp16, or raise --budget.",
            stage=_STAGE,
        )
    out = work / "int8.tflite"
    write(emitted, out)
    if job.costs.stored is None:
        write(job.best_float, work / BEST_FLOAT)
    plan = store_learned(job.learned, plan, work)
    (work / "quantization.json").write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))
    if search_record is not None:
        (work / "search.json").write_bytes(msgspec.json.format(msgspec.json.encode(search_record), indent=1))
    return Outcome(
        Graph.of(out, Format.TFLITE, pixels=prepared.pixels is not None),
        (f"{share:.1%} of the multiply-adds in int8", *job.notes),
    )


@dataclass
class _Job:
    """One quantization: the inputs, and the notes and learned weights that gather on the way."""

    original: TfGraph
    calibration: CalibrationSet
    spec: ModelSpec
    options: QuantizeOptions
    deadline: float
    notes: list[str] = field(default_factory=list)
    learned: Mapping[str, LayerWeights] = field(default_factory=dict)

    @property
    def integer_only(self) -> bool:
        return self.options.tune_for is TuneFor.INTEGER_ONLY

    @cached_property
    def costs(self) -> OperatorCosts:
        return OperatorCosts.of(self.original, self.options.tune_for)

    @cached_property
    def best_float(self) -> TfGraph:
        """The fastest float form of the network: what INT8 has to beat."""
        return self.costs.best_float(self.original)[0]

    @property
    def boundary(self) -> Domain:
        return Domain.FLOAT if self.options.io is IoType.FLOAT32 else Domain.INT8

    @property
    def held_back(self) -> CalibrationSet:
        """The images that judge."""
        return self._split()[1]

    @property
    def fitted(self) -> CalibrationSet:
        """The images that ranges are estimated from: none of those that judge, where there are enough."""
        return self._split()[0]

    def _split(self) -> tuple[CalibrationSet, CalibrationSet]:
        count, total = _JUDGED.get(self.options.effort, 0), len(self.calibration)
        if total < 3 * count:
            return self.calibration, self.calibration.take(count)
        return self.calibration.split(count / total)

    def run(self) -> tuple[_Prepared, QuantPlan, SearchRecord | None]:
        options = self.options
        if options.effort not in EFFORTS:
            raise UsageError(f"There is no effort '{options.effort}'.", hint=f"Efforts: {', '.join(EFFORTS)}.")
        if options.plan is not None:
            given = read_plan(options.plan)
            self.learned = load_learned(given, options.plan.parent)
            names = tuple(name for name in given.passes if name not in SCALINGS)
            prepared = self.folded(apply(self.original, names)[0], names)
            prepared = self.scaled(prepared, given.passes)
            self.rated(prepared, given)
            return prepared, given, None
        policy = parse_policy(options.policy, options.tune_for)
        options.progress("rewrites")
        prepared = self.rewritten(everything=self.integer_only or policy.name == "full")
        if self.integer_only:
            initial_plan(prepared.graph, {}, policy=Policy.INTEGER_ONLY)  # says early what has no integer kernel
        prepared = self.balanced(prepared)
        options.progress("statistics")
        observers = self.observe(prepared, self.fitted)
        if policy.name != "auto":
            plan = self.ruled(prepared, observers, policy.kinds)
            self.refined(prepared, plan)
            self.rated(prepared, plan)
            return prepared, msgspec.structs.replace(plan, passes=prepared.passes), None
        result = self.searched(prepared, observers)
        record = self.recorded(result)
        self.notes += search_notes(record)
        self.refined(prepared, result.best.plan)
        return prepared, msgspec.structs.replace(result.best.plan, passes=prepared.passes), record

    # ------------------------------------------------------------------------------------------- the graph

    def rewritten(self, *, everything: bool) -> _Prepared:
        """``everything``: every rewrite that makes an integer form possible; otherwise those that make the file faster."""
        if everything:
            graph, places = apply(self.original, tuple(PASSES))
            report = PassReport({name: count for name, count in places.items() if count}, ())
        else:
            graph, report = prepare(self.original, self.costs, boundary=self.boundary, int8=True)
        self.notes.append(report.text)
        return self.folded(graph, tuple(report.places))

    def folded(self, graph: TfGraph, passes: tuple[str, ...]) -> _Prepared:
        """Fold the normalisation where the file is to take 8-bit input and the fold does no harm."""
        plain = _Prepared(graph, None, passes)
        if self.options.io is IoType.FLOAT32:
            return plain
        folded, pixels = fold_input_normalisation(graph, Normalisation.of(self.spec.preprocess, self.spec.input.channels))
        prepared = _Prepared(folded, pixels, passes)
        noise = self.judge(prepared, 2).score(folded).noise
        if noise > _FOLD_NOISE:
            self.notes.append(f"normalisation not folded: at the borders it would cost {noise:.1e} of the signal")
            return plain
        self.notes.append("takes exact pixels")
        return prepared

    def balanced(self, prepared: _Prepared) -> _Prepared:
        """Scale channels where that leaves less noise with everything in int8."""
        policy = Policy.INTEGER_ONLY if self.integer_only else Policy.AUTO
        images = self.calibration.take(_SOME)
        graph, name, note = best_scaling(
            prepared.graph, lambda: map(prepared.feed, images), self.judge(prepared, 4), prepared.fixed, policy
        )
        if not name:
            return prepared
        self.notes.append(note)
        return _Prepared(graph, prepared.pixels, (*prepared.passes, name))

    def scaled(self, prepared: _Prepared, passes: Sequence[str]) -> _Prepared:
        """As a plan that names a rule for scaling channels wants it."""
        for name in SCALINGS.intersection(passes):
            graph = rescaling(prepared.graph, name, map(prepared.feed, self.calibration.take(_SOME)))
            prepared = _Prepared(graph, prepared.pixels, (*prepared.passes, name))
        return prepared

    # ------------------------------------------------------------------------------------------- the plan

    def observe(self, prepared: _Prepared, images: CalibrationSet) -> dict[str, Observer]:
        observers = {name: Observer(name) for name in activations(prepared.graph)}
        summarise(prepared.graph, map(prepared.feed, images), observers, threads=workers())
        return observers

    def ruled(self, prepared: _Prepared, observers: dict[str, Observer], named: frozenset[str]) -> QuantPlan:
        """Everything in int8 that has a kernel, but for the kinds that were named."""
        ranges = _ranges(observers) | prepared.fixed
        present = {op.kind for op in prepared.graph.ops}
        if named - present:
            raise UsageError(
                f"The graph has no operator {', '.join(sorted(named - present))}.",
                hint=f"It has {', '.join(sorted(present))}.",
            )
        self.notes.append(f"policy {self.options.policy}")
        whole = Policy.INTEGER_ONLY if self.integer_only else Policy.FULL
        return initial_plan(prepared.graph, ranges, policy=whole, float_kinds=named)

    def rated(self, prepared: _Prepared, plan: QuantPlan) -> None:
        """Say what a plan that was not searched loses; it is carried out all the same."""
        emitted = quantize(prepared.graph, plan, integer_only=self.integer_only, learned=self.learned)
        expected = self.judge(prepared, _JUDGED[self.options.effort]).score(emitted).drop
        truth = self.truth(prepared)
        self.notes += given_notes(expected, self.options.budget, None if truth is None else truth(emitted))

    def searched(self, prepared: _Prepared, observers: dict[str, Observer]) -> SearchResult:
        options = self.options
        image = next(iter(self.calibration))
        settings = SearchSettings(
            budget=options.budget,
            effort=EFFORTS[options.effort],
            boundary=self.boundary,
            deadline=self.deadline - _REFINED.get(options.effort, 0.0) * options.time_limit_s,
            fixed=prepared.fixed,
            baseline=(self.best_float, _values(image)),
            truth=self.truth(prepared),
            journal=self.journal(prepared),
            progress=options.progress,
        )
        self.notes += resumed_notes(settings.journal)
        judge = self.judge(prepared, _JUDGED[options.effort])
        if self.integer_only:
            result = integer_search(prepared.graph, observers, judge, prepared.feed(image), settings)
            settings.journal.finish(result.notes)
            return result
        options.progress("operator times")
        costs = self.costs
        result = search(prepared.graph, observers, judge, costs(prepared.graph), prepared.feed(image), settings)
        settings.journal.finish(result.notes)
        if costs.stored is None:
            return result
        # What was timed here was timed on the wrong processor: among those within the budget the prediction decides.
        finalists = [one for one in result.candidates if one.latency_ms is not None]
        return replace(result, best=min(finalists, key=lambda one: (one.predicted_us, one.score.drop)))

    def truth(self, prepared: _Prepared) -> Callable[[TfGraph], MeasuredDrop] | None:
        """Scores graphs against the masks of the calibration images, where there are any."""
        if not self.calibration.masks:
            return None
        images = self.calibration.take(CHECKED[self.options.effort])
        judge = TruthJudge(partial(streamed, self.original, _values), images)
        return lambda graph: judge(partial(streamed, graph, prepared.feed))

    def journal(self, prepared: _Prepared) -> SearchJournal:
        """What was measured of this graph on these images, if a search of them was interrupted."""
        if not self.options.resumes:
            return SearchJournal()
        asked = f"{self.options.effort} {self.options.io} {self.integer_only}"
        return journal_of(bytes(serialise(prepared.graph)), self.calibration, self.spec, asked)

    def recorded(self, result: SearchResult) -> SearchRecord:
        record, tune_for = record_of(result, self.options.budget), self.options.tune_for
        stored = None if self.integer_only else self.costs.stored
        if stored is None:
            return msgspec.structs.replace(record, tuned_for=tune_for.value)
        best_float = fastest_us(stored(self.best_float), self.best_float, Domain.FLOAT, int8=False)
        predicted = result.best.predicted_us / best_float
        return msgspec.structs.replace(
            record, tuned_for=tune_for.value, costs=stored.source, predicted_ratio=round(predicted, 3)
        )

    def refined(self, prepared: _Prepared, plan: QuantPlan) -> None:
        """Learn better weights for the plan, where the effort allows it."""
        if self.options.effort not in _REFINED:
            return
        images = map(prepared.feed, self.fitted.take(_SOME // 2))
        settings = RefineSettings(self.deadline, integer_only=self.integer_only, progress=self.options.progress)
        found = refine(prepared.graph, plan, images, self.judge(prepared, _JUDGED[self.options.effort]), settings)
        self.learned = found.layers
        self.notes += found.notes

    def judge(self, prepared: _Prepared, count: int) -> Judge:
        images = list(islice(self.held_back, count))
        return Judge(
            self.original,
            [_values(image) for image in images],
            [prepared.feed(image) for image in images],
            threshold=raw_threshold(self.spec),
            probability=self.spec.output.kind is OutputKind.PROBABILITY,
        )


def _ranges(observers: Mapping[str, Observer], estimator: str = ESTIMATORS[0]) -> dict[str, TensorQuant]:
    return {name: choose(observer, estimator=estimator) for name, observer in observers.items()}


def _values(image: ModelInput) -> Float32:
    """float32 (1, H, W, C)."""
    return np.ascontiguousarray(image.values.transpose(0, 2, 3, 1))
