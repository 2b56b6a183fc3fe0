"""The last round of a search: of the candidates within the budget, those that hold against the truth where there is one, and of
these the one that is fastest on the runtime."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace

from edgeseg.tflite.candidates import Candidate, SearchResult, SearchSettings
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import latency
from edgeseg.tflite.runtime import Feed

__all__ = ["decide"]

_SAME_TIME = 1.03
_FINALISTS = 5


def decide(
    graph: TfGraph, image: Feed, tried: Sequence[Candidate], settings: SearchSettings, notes: Sequence[str]
) -> SearchResult:
    """Measure the most promising candidates and choose.

    Args:
        graph: float; what the candidates' plans are carried out on.
        image: what latency is measured with.
        tried: in any order.
        notes: what the search has to say so far.
    """
    everyone = sorted(tried, key=lambda one: one.predicted_us)
    finalists, refuted = _finalists(graph, everyone, settings)
    settings.progress("latency")
    baseline = settings.baseline or (graph, image)
    emitted = [(quantize(graph, one.plan), image) for one in finalists]
    graphs, rounds = [baseline, *emitted], settings.effort.rounds
    times = latency(graphs, rounds=rounds)
    timed = [replace(one, latency_ms=ms) for one, ms in zip(finalists, times[1:], strict=True)]
    # An application may use one thread or several; a candidate must be good at both.
    paired = latency(graphs, threads=2, rounds=rounds) if (os.cpu_count() or 1) > 1 else times
    shares = [math.sqrt(one / times[0] * two / paired[0]) for one, two in zip(times[1:], paired[1:], strict=True)]
    # Times this close are the same on any other day; the better of two equals is the one that loses less.
    limit = _SAME_TIME * min(shares)
    best = min((one for one, share in zip(timed, shares, strict=True) if share <= limit), key=lambda one: one.drop)
    known = {id(one.plan): one for one in (*refuted, *timed)}
    said = [*notes]
    if best.measured is not None:
        said.append(f"loses {best.measured.text}")
    if refuted:
        said.append(f"{len(refuted)} faster mixtures lost more than the budget on the masks")
    return SearchResult(
        best=best,
        within=(best.score.drop if best.measured is None else best.measured.worst) <= settings.budget,
        float_ms=times[0],
        candidates=tuple(known.get(id(one.plan), one) for one in everyone),
        notes=tuple(said),
    )


def _finalists(
    graph: TfGraph, everyone: Sequence[Candidate], settings: SearchSettings
) -> tuple[list[Candidate], list[Candidate]]:
    """Those to be timed, and those that the truth refuted."""
    inside = [one for one in everyone if settings.holds(one)]
    gentlest = [min(everyone, key=lambda one: one.score.noise)]
    if settings.truth is None:
        return inside[:_FINALISTS] or gentlest, []
    finalists: list[Candidate] = []
    refuted: list[Candidate] = []
    for one in inside or gentlest:
        if len(finalists) == _FINALISTS or (settings.late and finalists):
            break
        settings.progress(f"masks, {one.name}")
        measured = settings.truth(quantize(graph, one.plan))
        (finalists if measured.worst <= settings.budget else refuted).append(replace(one, measured=measured))
    if not finalists:
        finalists = [refuted.pop(refuted.index(min(refuted, key=lambda one: one.drop)))]
    return finalists, refuted
