"""The plan for hardware without float: every operator in integers, ranges chosen by the harm that they do at the output.

There are no domains to choose, so what can be chosen is the form of the graph, which estimator gives the ranges of all
tensors, and then each tensor's own. Every step is kept only if the emitted file, run on images that ranges were not
estimated from, is nearer to the float graph. Time is measured at the end against the float file, on this machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from edgeseg.errors import StageError
from edgeseg.pipeline import OUT_OF_TIME
from edgeseg.quantize.journal import plan_key
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import QuantPlan, TensorQuant
from edgeseg.spec import IoType
from edgeseg.tflite.candidates import Candidate, SearchResult, SearchSettings
from edgeseg.tflite.cost import operator_domains
from edgeseg.tflite.downstream import Downstream
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.harm import HarmMeter
from edgeseg.tflite.judge import Judge, Score, latency
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.runtime import Feed
from edgeseg.tflite.widths import AS_BEST, Estimates, choose_widths

__all__ = ["integer_search", "require_integers"]

log = logging.getLogger("edgeseg.search")

_HARDLY_MORE = 1.1  # times the noise: what all wider ranges together may cost
_RESERVE = 0.1  # of the time is kept for what makes use of the harm


def integer_search(
    graph: TfGraph, observers: Mapping[str, Observer], judge: Judge, image: Feed, settings: SearchSettings
) -> SearchResult:
    """Choose the ranges of a file in which everything runs in integers.

    Args:
        graph: float, with an integer kernel for every operator.
        observers: statistics of every float activation.
        judge: holds the images that candidates are scored on.
        image: what latency is measured with, as ``graph`` takes it.
        settings: ``boundary`` is not looked at.

    Raises:
        StageError: an operator cannot run in integers; the message names all of them.
    """
    tried: list[Candidate] = []
    notes: list[str] = []
    estimates = Estimates(observers, settings.effort.estimators)

    def run(name: str, ranges: Mapping[str, TensorQuant]) -> Candidate:
        plan = initial_plan(graph, {**ranges, **settings.fixed}, policy=Policy.INTEGER_ONLY)
        score = Score(
            *settings.journal.once(
                plan_key(plan), lambda: judge.score_of(quantize(graph, plan, integer_only=True), notes.append).values
            )
        )
        log.info("%s: expected drop %.2f, %.1f dB", name, score.drop, score.snr_db)
        tried.append(Candidate(name, plan, score, 0.0, frozenset(op.id for op in graph.ops)))
        return tried[-1]

    best, ranges, estimator = None, dict[str, TensorQuant](), ""
    for name in settings.effort.estimators:
        if best is not None and settings.late:
            notes.append(f"{OUT_OF_TIME} while choosing ranges")
            break
        settings.progress(f"ranges by {name}")
        given = estimates.by(name)
        candidate = run(f"ranges by {name}", given)
        if best is None or candidate.score.noise < best.score.noise:
            best, ranges, estimator = candidate, given, name
    assert best is not None
    notes.append(f"ranges by {estimator}")
    if best.score.drop > settings.budget / 2:
        settings.progress("harm of each tensor")
        better = _own_widths(graph, estimates, best.plan, ranges, judge, settings, notes)
        if better:
            candidate = run("ranges by each tensor's own harm", {**ranges, **better})
            if candidate.score.noise < _HARDLY_MORE * best.score.noise:
                best = candidate
                notes.append(f"{len(better)} ranges widened, by the tensor's own harm at the output")
    return _timed(graph, image, best, tried, notes, settings)


def _own_widths(
    graph: TfGraph,
    estimates: Estimates,
    plan: QuantPlan,
    ranges: Mapping[str, TensorQuant],
    judge: Judge,
    settings: SearchSettings,
    notes: list[str],
) -> dict[str, TensorQuant]:
    """Ranges that the plan took over from another tensor, or that a kernel prescribes, are not for the tensor to choose."""
    meter = HarmMeter(Downstream(graph, judge.images(settings.effort.harm_images)), settings.journal)
    fixed = settings.fixed.keys() | meter.followers(plan.tensors)
    free = {name: quant for name, quant in plan.tensors.items() if name not in fixed and quant == ranges.get(name)}
    reserve = settings.deadline - _RESERVE * max(0.0, settings.deadline - time.monotonic())
    harm: dict[str, float] = {}
    for name, quant in free.items():
        if time.monotonic() > reserve:
            notes.append(f"{OUT_OF_TIME} while measuring harm")
            break
        wider = [one for one in estimates.others(name, quant) if one.scale[0] > quant.scale[0]]
        harm[name] = meter.measure(name, [quant, *wider])[0]  # all at once: loading that part of the graph costs most
    return {name: quant for name, (quant, _) in choose_widths(harm, free, estimates, meter, AS_BEST).items()}


def _timed(
    graph: TfGraph, image: Feed, best: Candidate, tried: list[Candidate], notes: list[str], settings: SearchSettings
) -> SearchResult:
    settings.progress("latency")
    baseline = settings.baseline or (graph, image)
    # Float at the boundary costs one conversion each; the image is then given as the judge gives it.
    whole = quantize(graph, best.plan, io=IoType.FLOAT32, integer_only=True)
    float_ms, int8_ms = latency([baseline, (whole, image)], rounds=settings.effort.rounds)
    # All candidates are the same graph with other scales.
    final = [replace(one, predicted_us=1e3 * int8_ms, latency_ms=int8_ms if one is best else None) for one in tried]
    chosen = final[tried.index(best)]
    return SearchResult(
        best=chosen,
        within=chosen.score.drop <= settings.budget,
        float_ms=float_ms,
        candidates=tuple(final),
        notes=tuple(notes),
    )


def require_integers(graph: TfGraph) -> None:
    """Look at the file itself, since a plan may have been given by hand.

    Raises:
        StageError: an operator reads or writes float32.
    """
    floats = operator_domains(graph)["float"]
    conversions = [op for op in graph.ops if any(graph.tensors[name].dtype == "float32" for name in op.outputs)]
    if floats or conversions:
        listed = ", ".join(f"{count} {kind}" for kind, count in floats.items()) or f"{len(conversions)} DEQUANTIZE"
        raise StageError(
            f"the plan leaves float operators: {listed}.",
            hint="Give no --plan, or one in which every operator is int8.",
            stage="quantize_tflite",
        )
