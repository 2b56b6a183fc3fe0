"""Plots: what they show is where it should be, and nothing from outside becomes markup."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from edgeseg.interval import Interval
from edgeseg.report.plots import (
    Bar,
    Layer,
    Point,
    Tried,
    bars_of_steps,
    front_plot,
    interval_strip,
    layer_plot,
    nice_ticks,
    pareto_front,
    pareto_plot,
    ratio_ticks,
    score_bars,
)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.97), (-0.06, 0.05), (-31.0, 0.0), (0.0, 0.0), (12.0, 12.0), (-1e-9, 1e-9)])
def test_ticks_cover(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9


@pytest.mark.parametrize(("low", "high"), [(0.06, 1.0), (1.0, 1.0), (0.0312, 11.4), (0.1, 0.1)])
def test_ratio_ticks_cover(low: float, high: float) -> None:
    ticks = ratio_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert len(ticks) >= 2


def test_pareto_front() -> None:
    points = [Point("slow", 1.0, 0.0), Point("fast", 0.5, -0.01), Point("beaten", 0.6, -0.02), Point("twin", 0.5, -0.01)]
    assert pareto_front(points) == {"slow", "fast", "twin"}


def test_pareto_plot_places_points_and_keeps_labels_apart() -> None:
    points = [Point(f"file-{index}", 0.5, 0.0, Interval(estimate=0.5, low=0.4, high=0.6)) for index in range(4)]
    tree = ElementTree.fromstring(str(pareto_plot([*points, Point("better", 0.2, 0.01)], "base")))
    circles = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in tree.iter("circle")]
    assert circles[0] == circles[3]
    assert circles[4][0] < circles[0][0], "faster is to the left"
    assert circles[4][1] < circles[0][1], "better is up"
    labels = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in tree.iter("text") if (t.text or "").startswith("file-")]
    assert len(set(labels)) == 4


def test_pareto_plot_bears_an_interval_that_noise_widened_to_zero() -> None:
    noisy = Point("noisy", 0.5, 0.0, Interval(estimate=0.5, low=0.0, high=40.0))
    tree = ElementTree.fromstring(str(pareto_plot([noisy, Point("other", 1.0, 0.0)], "base")))
    assert len(list(tree.iter("circle"))) == 2


def test_strip_is_coloured_only_where_the_interval_excludes_zero() -> None:
    worse = str(interval_strip(-0.01, Interval(estimate=-0.01, low=-0.02, high=-0.001), 0.02))
    unsure = str(interval_strip(-0.01, Interval(estimate=-0.01, low=-0.02, high=0.001), 0.02))
    better = str(interval_strip(0.01, Interval(estimate=0.01, low=0.001, high=0.02), 0.02))
    assert "worse" in worse
    assert "better" in better
    assert not re.search("worse|better", unsure)
    assert interval_strip(math.nan, None, 0.1) == ""


def test_waterfall_bars_hang_on_each_other() -> None:
    steps = [
        Bar("export", 0.0),
        Bar("lower", -0.01),
        Bar("quantize", -0.02, Interval(estimate=-0.02, low=-0.03, high=-0.01)),
    ]
    tree = ElementTree.fromstring(str(bars_of_steps(steps, "quantize")))
    boxes = [(float(r.get("x", 0)), float(r.get("width", 0)), r.get("class", "")) for r in tree.iter("rect")]
    lower, quantize, total = boxes[1:]
    assert quantize[0] + quantize[1] == pytest.approx(lower[0], abs=0.2)
    assert quantize[2] == "worse guilty"
    assert total[1] == pytest.approx(lower[1] + quantize[1], abs=0.3)
    assert total[0] == quantize[0]
    assert sum(path.get("class") == "whisker" for path in tree.iter("path")) == 1


def test_names_are_escaped() -> None:
    name = '<script>"&'
    for plot in (
        pareto_plot([Point(name, 0.5, 0.0)], name),
        bars_of_steps([Bar(name, 0.0)], None),
        layer_plot([Layer(name, 20.0, True)]),
    ):
        assert "<script" not in plot
        assert name in "".join(ElementTree.fromstring(str(plot)).itertext())


def test_layers_that_are_equal_are_left_out() -> None:
    layers = [Layer("a", 30.0, True), Layer("b", None, True), Layer("c", 200.0, False)]
    tree = ElementTree.fromstring(str(layer_plot(layers)))
    first, last = list(tree.iter("circle"))
    assert (first.get("class"), last.get("class")) == ("dot", "dot beaten"), "int8 is filled, float is not"
    assert float(last.get("cy", 0)) < float(first.get("cy", 0)), "closer to float is higher"


def test_score_bars_are_as_long_as_the_scores() -> None:
    tree = ElementTree.fromstring(str(score_bars(0.5, 0.25)))
    widths = {r.get("class"): float(r.get("width", 0)) for r in tree.iter("rect")}
    assert widths["float"] == pytest.approx(widths["track"] / 2)
    assert widths["file"] == pytest.approx(widths["track"] / 4)
    assert score_bars(math.nan, math.nan) == ""


def test_front_marks_what_was_chosen_and_the_budget() -> None:
    tried = [Tried("all int8", 0.4, 1.2, False, False), Tried("price 3", 0.5, 0.12, True, True)]
    tree = ElementTree.fromstring(str(front_plot(tried, 0.3)))
    fast, chosen = list(tree.iter("circle"))
    assert "chosen" in "".join(tree.itertext())
    assert float(fast.get("cx", 0)) < float(chosen.get("cx", 0)), "faster is to the left"
    assert float(fast.get("cy", 0)) < float(chosen.get("cy", 0)), "less loss is lower"
    (limit,) = [path.get("d", "") for path in tree.iter("path") if path.get("class") == "limit"]
    line = float(re.findall(r"[\d.]+", limit)[1])
    assert float(fast.get("cy", 0)) < line < float(chosen.get("cy", 0))
