"""A tensor's estimator, chosen by what its range does at the network's output.

A few images judge, and what lies outside a range is clipped on every image to come: an object that was not among them is then
lost whole. So the widest range is taken that does hardly more harm than the one all tensors started with; a tighter one only
where it does much less.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.harm import HarmMeter

__all__ = ["choose_widths"]

_BETTER = 0.9  # a tighter range must bring a tensor's harm below this share
_HARDLY_MORE = 1.25  # times the harm: what a wider range may cost
_HARDLY_ANY = 0.25  # of the mean harm


def choose_widths(
    observers: Mapping[str, Observer],
    ranges: Mapping[str, TensorQuant],
    names: Collection[str],
    meter: HarmMeter,
    *,
    estimators: Collection[str],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, TensorQuant]:
    """The tensors of ``names`` whose range changes, with the new one. Once ``stop`` says so no more are measured.

    Args:
        observers: statistics of every tensor of ``names``.
        ranges: what they have now.
        meter: measures.
        estimators: to choose among.
    """
    widths: dict[str, list[TensorQuant]] = {}
    harm: dict[str, list[float]] = {}
    for name in names:
        if stop():
            break
        widths[name] = _by_width(observers[name], estimators, ranges[name])
        harm[name] = meter.measure(name, [ranges[name], *widths[name]])
    mean = float(np.mean([noises[0] for noises in harm.values()])) if harm else 0.0
    chosen = {
        name: _chosen(ranges[name], widths[name], noises[0], noises[1:], mean) for name, noises in harm.items() if noises[0] > 0
    }
    return {name: quant for name, quant in chosen.items() if quant != ranges[name]}


def _chosen(current: TensorQuant, widths: list[TensorQuant], start: float, noises: list[float], mean: float) -> TensorQuant:
    """``widths`` are the alternatives, the widest first, ``noises`` what they do; ``start`` is what ``current`` does."""
    best, least = current, start
    for quant, noise in zip(widths, noises, strict=True):
        wider = quant.scale[0] > current.scale[0]
        if wider and noise <= max(_HARDLY_MORE * start, _HARDLY_ANY * mean):
            return quant
        if not wider and noise < _BETTER * least:
            best, least = quant, noise
    return best


def _by_width(observer: Observer, estimators: Collection[str], current: TensorQuant) -> list[TensorQuant]:
    """The other estimators' quantizations, the widest first, each width once."""
    found = {quant.scale[0]: quant for name in estimators if (quant := choose(observer, estimator=name)).scale != current.scale}
    return [found[scale] for scale in sorted(found, reverse=True)]
