"""A tensor's own range: wider than what it started with where that does less harm at the output, or hardly more."""

from __future__ import annotations

import numpy as np
from tf_cases import C, H, W, builder, conv, finish, normal

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.session import Float32
from edgeseg.tflite.downstream import Downstream
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.harm import HarmMeter
from edgeseg.tflite.statistics import collect
from edgeseg.tflite.widths import AS_BEST, AS_NOW, Estimates, Tolerance, choose_widths

ESTIMATORS = ("percentile-99.9", "percentile-99.99", "minmax")


def net() -> tuple[TfGraph, str]:
    made = builder()
    held = conv(made, "x", np.eye(C, dtype=np.float32).reshape(C, 1, 1, C))
    return finish(made, conv(made, held, normal(3, 1, 1, C))), held


def picture(seed: int, *outliers: float) -> Float32:
    values = np.random.default_rng(seed).uniform(-1, 1, (1, H, W, C)).astype(np.float32)
    values.reshape(-1)[: len(outliers)] = outliers
    return values


def chosen(
    calibration: list[Float32], judged: list[Float32], start: str = ESTIMATORS[0], tolerance: Tolerance = AS_BEST
) -> tuple[TensorQuant | None, dict[str, TensorQuant]]:
    graph, held = net()
    observer = Observer(held)
    collect(graph, calibration, lambda _, values: observer.update(values), names={held})
    ranges = {name: choose(observer, estimator=name) for name in ESTIMATORS}
    meter = HarmMeter(Downstream(graph, judged))
    harm = {held: meter.measure(held, [ranges[start]])[0]}
    estimates = Estimates({held: observer}, ESTIMATORS)
    found = choose_widths(harm, {held: ranges[start]}, estimates, meter, tolerance)
    return (found[held][0] if held in found else None), ranges


def test_a_middle_range_is_not_passed_over_for_the_widest() -> None:
    """The first estimator clips values that every image has, the last spends its steps on one that a single image had. Less
    harm than the first is done by both; the middle does a small part of it."""
    calibration = [picture(seed, 4.0) for seed in range(39)] + [picture(39, 30.0)]
    found, ranges = chosen(calibration, [picture(100, 4.0), picture(101, 4.0)])
    assert ranges["percentile-99.9"].scale[0] < 0.5 * ranges["percentile-99.99"].scale[0]
    assert ranges["percentile-99.99"].scale[0] < 0.5 * ranges["minmax"].scale[0]
    assert found == ranges["percentile-99.99"]
    found, ranges = chosen(calibration, [picture(100, 4.0), picture(101, 4.0)], tolerance=AS_NOW)
    assert found == ranges["minmax"], "where operators can go to float, a wider range only has to do less harm than the first"


def test_a_range_that_costs_steps_is_not_taken() -> None:
    found, _ = chosen([picture(seed) for seed in range(19)] + [picture(19, 30.0)], [picture(100)])
    assert found is None or found.scale[0] < 3 / 255


def test_the_widest_range_is_left_as_it_is() -> None:
    found, _ = chosen([picture(seed, 4.0) for seed in range(4)], [picture(100)], start="minmax")
    assert found is None
