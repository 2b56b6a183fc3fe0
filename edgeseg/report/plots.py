"""Plots as inline SVG. Colours are CSS classes of the page; text is in the page's font."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgeseg.interval import Interval

__all__ = [
    "Bar",
    "Layer",
    "Point",
    "Tried",
    "bars_of_steps",
    "front_plot",
    "interval_strip",
    "layer_plot",
    "nice_ticks",
    "pareto_front",
    "pareto_plot",
    "ratio_ticks",
    "score_bars",
]

_WIDTH = 440
_HEIGHT = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 16, 44


@dataclass(frozen=True)
class Point:
    """One file: time against time of the base, and change of mIoU in points, each with its interval where it has one."""

    name: str
    ratio: float
    change: float
    ratio_interval: Interval | None = None
    change_interval: Interval | None = None


@dataclass(frozen=True)
class Bar:
    """One stage: its change (a fraction) with its interval."""

    name: str
    change: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Layer:
    """One tensor: dB against float (None: equal), and whether it is held in 8 bits."""

    name: str
    snr_db: float | None
    int8: bool


@dataclass(frozen=True)
class Tried:
    """One mixture that the search ran: its time against the float file's, predicted or measured, and the loss that was expected of
    it, points."""

    name: str
    ratio: float
    loss: float
    measured: bool
    chosen: bool


@dataclass(frozen=True)
class _Axis:
    """Values ``low..high`` to pixels ``start..end``."""

    low: float
    high: float
    start: float
    end: float

    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        share = (self._place(value) - self._place(self.low)) / (self._place(self.high) - self._place(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def _place(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that cover ``low..high``, the first at or below ``low``, the last at or above ``high``.

    >>> nice_ticks(0.0, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def pareto_front(points: Sequence[Point]) -> set[str]:
    """Names of the points that no other beats in both: at least as fast and as accurate, and better in one."""
    return {
        one.name
        for one in points
        if not any(
            other.ratio <= one.ratio and other.change >= one.change and (other.ratio, other.change) != (one.ratio, one.change)
            for other in points
        )
    }


def ratio_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, the first at or below ``low``, the last at or above ``high``; both above 0.

    >>> ratio_ticks(0.06, 1.0)
    [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [float(f"{unit}e{power}") for power in powers for unit in (1, 2, 5)]
    first = max(index for index, tick in enumerate(every) if tick <= low)
    last = min(index for index, tick in enumerate(every) if tick >= high)
    return every[first : max(last, first + 1) + 1]


def pareto_plot(points: Sequence[Point], base: str) -> Markup:
    """Time ratio on a logarithmic scale (to the left is faster) against change of mIoU (up is better), with interval bars."""
    spans = [_drawn(point.ratio, _span(point.ratio, point.ratio_interval)) for point in points]
    changes = [_points(_span(point.change, point.change_interval)) for point in points]
    across = ratio_ticks(min([1.0, *(low for low, _ in spans)]), max([1.0, *(high for _, high in spans)]))
    up = nice_ticks(min([-0.1, *(low for low, _ in changes)]), max([0.1, *(high for _, high in changes)]))
    x = _Axis(across[0], across[-1], _LEFT, _WIDTH - _RIGHT, logarithmic=True)
    y = _Axis(up[0], up[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y, across, up, f"time / time of {base}", "change of mIoU, points")]
    front = pareto_front(points)
    spots = [(x(point.ratio), y(100 * point.change)) for point in points]
    for point, (px, py), (left, right), (low, high) in zip(points, spots, spans, changes, strict=True):
        parts.append(f'<path class="bar thin" d="M{x(left)} {py}H{x(right)}M{px} {y(low)}V{y(high)}"/>')
        parts.append(f'<circle class="{"dot" if point.name in front else "dot beaten"}" cx="{px}" cy="{py}" r="5"/>')
    parts += _labels([point.name for point in points], spots)
    return _svg(parts, _WIDTH, _HEIGHT, "Time ratio against change of mIoU; filled points are not beaten in both")


_FURTHEST = 10.0


def _drawn(ratio: float, span: tuple[float, float]) -> tuple[float, float]:
    """As far as a ratio's bar is drawn: noise may widen an interval down to 0, which a logarithmic scale has not."""
    return max(span[0], ratio / _FURTHEST), min(span[1], ratio * _FURTHEST)


_LETTER = 6.6  # width of a letter of 12 units, about
_LINE = 14.0


def _labels(names: Sequence[str], spots: Sequence[tuple[float, float]]) -> list[str]:
    """Each name beside its point, in the first place where it lies on no other name or point; where there is none, above."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    parts = []
    for name, (px, py) in zip(names, spots, strict=True):
        width = _LETTER * len(name)
        places = [
            (px + side if side > 0 else px + side - width, py + down) for down in (-8, 16, -24, 32, -40, 48) for side in (8, -8)
        ]
        boxes = [(left, base - _LINE + 3, left + width, base + 3) for left, base in places]
        free = [
            box
            for box in boxes
            if box[0] >= _LEFT and box[2] <= _WIDTH and box[1] >= 0 and not any(_overlap(box, other) for other in taken)
        ]
        box = free[0] if free else boxes[0]
        taken.append(box)
        parts.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{escape(name)}</text>')
    return parts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def interval_strip(value: float, interval: Interval | None, reach: float) -> Markup:
    """One change (a fraction) with its interval on a common scale from -``reach`` to ``reach``, zero in the middle."""
    if math.isnan(value):
        return Markup("")
    width, height = 160, 18
    x = _Axis(-reach, reach, 4, width - 4)
    parts = [f'<path class="zero" d="M{width / 2} 1V{height - 1}"/>']
    sure = ""
    if interval is not None:
        sure = " worse" if interval.high < 0 else " better" if interval.low > 0 else ""
        parts.append(f'<path class="bar{sure}" d="M{x(max(interval.low, -reach))} 9H{x(min(interval.high, reach))}"/>')
    parts.append(f'<circle class="dot{sure}" cx="{x(max(-reach, min(reach, value)))}" cy="9" r="4"/>')
    return _svg(parts, width, height, f"{100 * value:+z.2f} points", css="strip")


def score_bars(before: float, after: float) -> Markup:
    """Two scores (fractions) as bars from 0 to 1, the reference's above; nothing where both are undefined."""
    if math.isnan(before) and math.isnan(after):
        return Markup("")
    width, height = 120, 16
    x = _Axis(0.0, 1.0, 0, width)
    parts = [f'<rect class="track" x="0" y="1" width="{width}" height="14"/>']
    for value, css, top in ((before, "float", 1), (after, "file", 8)):
        if not math.isnan(value):
            parts.append(f'<rect class="{css}" x="0" y="{top}" width="{max(x(value), 0.5)}" height="7"/>')
    told = ", ".join("undefined" if math.isnan(value) else f"{100 * value:.1f} %" for value in (before, after))
    return _svg(parts, width, height, f"float and file: {told}", css="bars")


_ROW = 30
_NAMES, _VALUES = 96, 56  # what names to the left and numbers to the right need


def bars_of_steps(steps: Sequence[Bar], culprit: str | None) -> Markup:
    """A waterfall from top to bottom: each stage's change hangs on the sum of those before it; the last bar is the sum."""
    sums = [0.0]
    for step in steps:
        sums.append(sums[-1] + 100 * (0.0 if math.isnan(step.change) else step.change))
    ends = [*sums]
    for start, step in zip(sums, steps, strict=False):
        if step.interval is not None:
            ends += [start + 100 * step.interval.low, start + 100 * step.interval.high]
    ticks = nice_ticks(min([*ends, -0.05]), max([*ends, 0.05]), 4)
    height = _ROW * (len(steps) + 1) + 44
    x = _Axis(ticks[0], ticks[-1], _NAMES, _WIDTH - _VALUES)
    bottom = height - 40
    parts = [f'<path class="{"zero" if value == 0 else "grid"}" d="M{x(value)} 2V{bottom}"/>' for value in ticks]
    parts += [f'<text class="tick" x="{x(value)}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>' for value in ticks]
    parts.append(
        f'<text class="axis" x="{(_NAMES + _WIDTH - _VALUES) / 2}" y="{height - 6}" text-anchor="middle">'
        "mIoU against the model, points</text>"
    )
    bars = [(step.name, sums[i], sums[i + 1], step.interval, step.name == culprit) for i, step in enumerate(steps)]
    bars.append(("total", 0.0, sums[-1], None, False))
    for index, (name, start, end, interval, guilty) in enumerate(bars):
        top = 4 + _ROW * index
        left, right = min(x(start), x(end)), max(x(start), x(end))
        kind = "total" if index == len(steps) else "worse" if end < start else "better"
        middle = top + 11
        parts.append(
            f'<rect class="{kind}{" guilty" if guilty else ""}" x="{left:.1f}" y="{top}" width="{max(right - left, 1.5):.1f}" '
            f'height="22"/>'
        )
        if interval is not None:
            low, high = x(start + 100 * interval.low), x(start + 100 * interval.high)
            parts.append(f'<path class="whisker" d="M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8"/>')
        css = ' class="strong"' if guilty or index == len(steps) else ""
        parts.append(f'<text{css} x="{_NAMES - 8}" y="{middle + 4}" text-anchor="end">{escape(_short(name))}</text>')
        parts.append(f'<text{css} x="{_WIDTH - 2}" y="{middle + 4}" text-anchor="end">{end - start:+z.2f}</text>')
        if index + 1 < len(steps):
            parts.append(f'<path class="link" d="M{x(end)} {top + 22}v{_ROW - 22}"/>')
    return _svg(parts, _WIDTH, height, "Change of mIoU stage by stage")


def _short(name: str, letters: int = 13) -> str:
    return name if len(name) <= letters else name[: letters - 1] + "…"


_HIGHEST_DB = 80.0


def layer_plot(layers: Sequence[Layer]) -> Markup:
    """Signal-to-noise ratio of each tensor in execution order, cut at 80 dB (float's own rounding); tensors that are equal are left
    out."""
    known = [(index, layer, min(layer.snr_db, _HIGHEST_DB)) for index, layer in enumerate(layers) if layer.snr_db is not None]
    up = nice_ticks(min([0.0, *(db for _, _, db in known)]), max([40.0, *(db for _, _, db in known)]))
    x = _Axis(0, max(len(layers) - 1, 1), _LEFT + 6, _WIDTH - _RIGHT - 6)
    y = _Axis(up[0], up[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(None, y, [], up, "tensors in execution order", "dB against float, higher is closer")]
    if known:
        parts.append(f'<path class="line" d="M{"L".join(f"{x(index)} {y(db)}" for index, _, db in known)}"/>')
    for index, layer, db in known:
        told = f"{layer.name}: {layer.snr_db:.1f} dB"
        parts.append(
            f'<circle class="dot{"" if layer.int8 else " beaten"}" cx="{x(index)}" cy="{y(db)}" r="2.6">'
            f"<title>{escape(told)}</title></circle>"
        )
    return _svg(parts, _WIDTH, _HEIGHT, "Signal-to-noise ratio of each tensor")


def front_plot(tried: Sequence[Tried], budget: float) -> Markup:
    """What the search tried: time ratio (to the left is faster) against expected loss (down is better), the budget as a line."""
    across = nice_ticks(min(one.ratio for one in tried), max([1.0, *(one.ratio for one in tried)]))
    up = nice_ticks(0.0, max([budget * 1.2, *(one.loss for one in tried)]))
    x = _Axis(across[0], across[-1], _LEFT, _WIDTH - _RIGHT)
    y = _Axis(up[0], up[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y, across, up, "time / time of the float file", "expected loss of mIoU, points")]
    parts.append(f'<path class="limit" d="M{_LEFT} {y(budget)}H{_WIDTH - _RIGHT}"/>')
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT - 4}" y="{y(budget) - 5}" text-anchor="end">budget {budget:g}</text>')
    ordered = sorted(tried, key=lambda one: one.ratio)
    parts.append(f'<path class="line" d="M{"L".join(f"{x(one.ratio)} {y(one.loss)}" for one in ordered)}"/>')
    for one in ordered:
        told = f"{one.name}: {one.ratio:.2f} of the time{'' if one.measured else ' (predicted)'}, {one.loss:.2f} points"
        parts.append(
            f'<circle class="dot{"" if one.chosen else " beaten"}" cx="{x(one.ratio)}" cy="{y(one.loss)}" '
            f'r="{6 if one.chosen else 4}"><title>{escape(told)}</title></circle>'
        )
        if one.chosen:
            left = x(one.ratio) < _WIDTH / 2
            parts.append(
                f'<text class="strong" x="{x(one.ratio) + (9 if left else -9)}" y="{y(one.loss) - 8}" '
                f'text-anchor="{"start" if left else "end"}">chosen</text>'
            )
    return _svg(parts, _WIDTH, _HEIGHT, "What the search tried: time against expected loss")


def _span(value: float, interval: Interval | None) -> tuple[float, float]:
    return (value, value) if interval is None else (interval.low, interval.high)


def _points(span: tuple[float, float]) -> tuple[float, float]:
    return 100 * span[0], 100 * span[1]


def _grid(x: _Axis | None, y: _Axis, across: Sequence[float], up: Sequence[float], below: str, beside: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    parts = [f'<path class="grid" d="M{_LEFT} {y(value)}H{_WIDTH - _RIGHT}"/>' for value in up]
    parts += [f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{value:g}</text>' for value in up]
    if x is not None:
        parts += [f'<path class="grid" d="M{x(value)} {_TOP}V{bottom}"/>' for value in across]
        parts += [
            f'<text class="tick" x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>' for value in across
        ]
    if y.low < 0.0 < y.high:
        parts.append(f'<path class="zero" d="M{_LEFT} {y(0.0)}H{_WIDTH - _RIGHT}"/>')
    if below:
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(below)}</text>')
    center = (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" transform="translate(13 {center}) rotate(-90)" text-anchor="middle">{escape(beside)}</text>'
    )
    return "".join(parts)


def _svg(parts: Sequence[str], width: int, height: int, title: str, css: str = "plot") -> Markup:
    # Every text that comes from outside went through escape() above.
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
