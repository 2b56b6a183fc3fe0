"""The report as one HTML file: no script, no network, right on a phone and in print."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from markupsafe import Markup
from PIL import Image

from edgeseg.bench.result import BenchResult, Comparison
from edgeseg.gate.verdict import GateResult
from edgeseg.interval import Interval
from edgeseg.metrics.evidence import Delta
from edgeseg.report.overlay import CHANGES, UNCOUNTED, Panel
from edgeseg.report.plots import (
    Bar,
    Layer,
    Point,
    Tried,
    bars_of_steps,
    front_plot,
    interval_strip,
    layer_plot,
    pareto_plot,
    score_bars,
)
from edgeseg.report.result import BenchReport, DriftReport, LayerError
from edgeseg.session import UInt8

__all__ = ["Page", "Picture", "SearchFront", "TargetSection", "render"]

_WIDEST = 640
_QUALITY = 88
_LAYERS = 10


@dataclass(frozen=True)
class Picture:
    """One evaluation image with its panels; ``why`` it was chosen."""

    name: str
    why: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class SearchFront:
    """What the search tried while compiling; ``budget``: points of mIoU that it might lose."""

    tried: Sequence[Tried]
    budget: float


@dataclass(frozen=True)
class TargetSection:
    """Everything about one file. ``int8_share``: of the multiply-adds, 0..1; None where unknown, as is ``search``. ``simulated``:
    why another runtime ran it ("engine not built: no CUDA driver"), or empty."""

    name: str
    file: str
    file_bytes: int
    drift: DriftReport
    gate: GateResult
    pictures: Sequence[Picture]
    int8_share: float | None = None
    search: SearchFront | None = None
    simulated: str = ""


@dataclass(frozen=True)
class Page:
    """``bench``: the reference first, then the targets by name; None where latency was not measured. ``facts``: label and text.
    ``legend``: each class's name and colour (uint8 (3,))."""

    title: str
    created: str
    targets: Sequence[TargetSection]
    bench: BenchReport | None
    facts: Sequence[tuple[str, str]]
    reference_bytes: int
    legend: Sequence[tuple[str, UInt8]] = ()


def render(page: Page) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgeseg.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        change=_change,
        gap=_gap,
        ratio=_ratio,
        bytes=_bytes,
        data_uri=_data_uri,
        ms=_ms,
        css_color=lambda color: "#{:02x}{:02x}{:02x}".format(*(int(part) for part in color)),
    )
    return environment.get_template("report.html.j2").render(
        page=page,
        pareto=_pareto(page),
        ratio_of=_ratios(page.bench.runs[0]) if page.bench else {},
        comparison_of=lambda run: {entry.candidate: entry for entry in run.comparisons},
        strip=interval_strip,
        reach=_reach,
        short=_short_names(page),
        changes=CHANGES,
        uncounted=UNCOUNTED,
        waterfall=_waterfall,
        layers=lambda found: layer_plot([Layer(layer.tensor, layer.snr_db, layer.int8) for layer in found.layers]),
        front=lambda search: front_plot(search.tried, search.budget),
        score_bars=score_bars,
        noisiest=_noisiest,
        advice=_advice,
    )


def _ratios(run: BenchResult) -> dict[str, Comparison]:
    return {entry.candidate: entry for entry in run.comparisons}


def _pareto(page: Page) -> Markup | None:
    if page.bench is None:
        return None
    run = page.bench.runs[0]
    ratios = _ratios(run)
    names = _short_names(page)
    points = [
        Point(
            name=names[target.name],
            ratio=ratios[target.name].invoke.value.estimate,
            change=target.drift.drift.miou.change,
            ratio_interval=ratios[target.name].invoke.value,
            change_interval=target.drift.drift.miou.interval,
        )
        for target in page.targets
        if target.name in ratios and not math.isnan(target.drift.drift.miou.change)
    ]
    return pareto_plot(points, run.candidates[0].facts.name) if points else None


def _short_names(page: Page) -> dict[str, str]:
    """Names without what all of them begin with, up to a hyphen: the model's name."""
    names = [target.name for target in page.targets]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)) if len(names) > 1 else ()
    common = "".join(letters[0] for letters in alike)
    start = common.rfind("-") + 1
    return {name: name[start:] for name in names}


def _waterfall(found: DriftReport) -> Markup | None:
    if found.waterfall is None:
        return None
    steps = found.waterfall.steps
    return bars_of_steps([Bar(step.stage, step.miou.change, step.miou.interval) for step in steps], found.waterfall.culprit)


def _reach(deltas: Sequence[Delta]) -> float:
    """One scale for a group of strips: the largest end of an interval, at least 0.1 points."""
    ends = [0.001]
    for delta in deltas:
        if not math.isnan(delta.change):
            ends.append(abs(delta.change))
        if delta.interval is not None:
            ends += [abs(delta.interval.low), abs(delta.interval.high)]
    return max(ends)


def _noisiest(found: DriftReport) -> list[LayerError]:
    known = [layer for layer in found.layers if layer.snr_db is not None]
    return sorted(known, key=lambda layer: layer.snr_db or 0.0)[:_LAYERS]


def _advice(run: BenchResult) -> list[str]:
    """Each kind of disturbance once."""
    seen = {finding.kind: f"{finding.what}. {finding.advice}" for one in run.candidates for finding in one.noise.findings}
    return list(seen.values())


def _percent(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _change(delta: Delta) -> Markup:
    if math.isnan(delta.change):
        return Markup("–")
    told = "(too few images)"
    if delta.interval is not None:
        told = f"[{100 * delta.interval.low:+z.2f}, {100 * delta.interval.high:+z.2f}]"
    return _with_interval(f"{100 * delta.change:+z.2f}", told)


def _gap(value: Interval | None) -> Markup:
    if value is None:
        return Markup("(too few images)")
    return _with_interval(f"{100 * value.estimate:+z.2f}", f"[{100 * value.low:+z.2f}, {100 * value.high:+z.2f}]")


def _ratio(value: Interval) -> Markup:
    return _with_interval(f"{value.estimate:.3f}", f"[{value.low:.3f}, {value.high:.3f}]")


def _with_interval(value: str, told: str) -> Markup:
    # On a phone the interval goes below its value.
    return Markup("<span>{} <span class=ci>{}</span></span>").format(value, told)


def _ms(nanoseconds: float) -> str:
    """Three digits that count."""
    value = nanoseconds / 1e6
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _bytes(size: int) -> str:
    return f"{size / 1e3:.0f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"


def _data_uri(pixels: UInt8) -> str:
    """JPEG without chroma subsampling, which would smear the edges between classes; at most 640 pixels wide."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
