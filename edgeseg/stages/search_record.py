"""What is kept of a search: ``search.json`` and the notes in the manifest."""

from __future__ import annotations

import msgspec

from edgeseg.artifact import ParetoPoint
from edgeseg.metrics.measured import MeasuredDrop
from edgeseg.spec import TuneFor
from edgeseg.stages.verdict import VETO, predicted_notes
from edgeseg.tflite.candidates import SearchResult, pareto

__all__ = ["SearchRecord", "TriedRecord", "given_notes", "pareto_of", "record_of", "search_notes"]

_GENTLER = "tflite-fp16 keeps the accuracy"


class TriedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture that was run: predicted time, expected loss of mIoU in points, noise at the output. ``masks``: loss against masks,
    with the ends of its 95 % interval, where it was measured."""

    name: str
    int8_operators: int
    predicted_ms: float
    drop: float
    snr_db: float
    latency_ms: float | None = None
    masks: tuple[float, float | None, float | None] | None = None


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written as ``search.json``. Times are of this machine, one thread; only their ratios travel. ``front``: the mixtures that no
    other beats in both predicted time and loss. ``costs``: where the operator costs are from, if not measured here;
    ``predicted_ratio``: time over float time that they predict for the processor tuned for."""

    budget: float
    within_budget: bool
    float_ms: float
    chosen: TriedRecord
    front: tuple[TriedRecord, ...]
    notes: tuple[str, ...]
    tuned_for: str = TuneFor.HERE.value
    costs: tuple[str, ...] = ()
    predicted_ratio: float | None = None


def record_of(result: SearchResult, budget: float) -> SearchRecord:
    """The record of a search that was allowed ``budget`` points."""
    tried = {
        id(one): TriedRecord(
            name=one.name,
            int8_operators=len(one.int8),
            predicted_ms=round(one.predicted_us / 1e3, 3),
            drop=round(one.score.drop, 4),
            snr_db=round(min(one.score.snr_db, 999.0), 2),
            latency_ms=None if one.latency_ms is None else round(one.latency_ms, 3),
            masks=None if one.measured is None else (one.measured.drop, one.measured.low, one.measured.high),
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


def pareto_of(record: SearchRecord) -> tuple[ParetoPoint, ...]:
    """The front and what was chosen (which need not be on it: times are measured at the end), for the manifest."""
    shown = {one.name: one for one in (*record.front, record.chosen)}
    points = [
        ParetoPoint(
            name=one.name,
            time_ratio=round((one.predicted_ms if one.latency_ms is None else one.latency_ms) / record.float_ms, 4),
            measured=one.latency_ms is not None,
            drop=one.drop,
            chosen=one.name == record.chosen.name,
        )
        for one in shown.values()
    ]
    return tuple(sorted(points, key=lambda point: point.time_ratio))


def expected_note(drop: float, budget: float) -> str:
    """What a plan is expected to lose, points of mIoU."""
    return f"expected loss {drop:.2f} points of {budget:g} allowed"


def given_notes(drop: float, budget: float, measured: MeasuredDrop | None) -> tuple[str, ...]:
    """Of a plan that the user gave, or a rule of theirs, the gravest first. ``measured``: on masks, where there are any."""
    worst = drop if measured is None else max(drop, measured.worst)
    vetoed = (f"{VETO}: what was asked for is not within the budget; {_GENTLER}",) if worst > budget else ()
    known = () if measured is None else (f"loses {measured.text}",)
    return (*vetoed, expected_note(drop, budget), *known)


def search_notes(record: SearchRecord) -> tuple[str, ...]:
    """What a person should read of it, the gravest first."""
    notes = [expected_note(record.chosen.drop, record.budget), *record.notes]
    if not record.within_budget:
        notes.insert(0, f"{VETO}: no mixture tried is within the budget, this is the one that does least harm; {_GENTLER}")
    if record.predicted_ratio is not None:
        notes += [
            f"operator costs: stored table {record.tuned_for}",
            *predicted_notes(record.predicted_ratio, record.tuned_for),
        ]
    return tuple(notes)
