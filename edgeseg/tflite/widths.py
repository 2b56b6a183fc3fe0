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
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.harm import with_int8_tensor
from edgeseg.tflite.judge import Judge

__all__ = ["choose_widths"]

_BETTER = 0.9  # a tighter range must bring a tensor's harm below this share
_HARDLY_MORE = 1.25  # times the harm: what a wider range may cost
_HARDLY_ANY = 0.25  # of the mean harm


def choose_widths(
    graph: TfGraph,
    observers: Mapping[str, Observer],
    ranges: Mapping[str, TensorQuant],
    harm: Mapping[str, float],
    judge: Judge,
    *,
    estimators: Collection[str],
    count: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, TensorQuant]:
    """The tensors of ``harm`` whose range changes, with the new one; the greatest harm first, until ``stop`` says so.

    Args:
        graph: float.
        observers: statistics of every tensor of ``harm``.
        ranges: what they have now.
        harm: of each of them as it is (``edgeseg.tflite.harm.measure_tensor_harm``); 0 leaves a tensor alone.
        judge: measures.
        estimators: to choose among.
        count: images per measurement.
    """
    mean, changed = float(np.mean(list(harm.values()))) if harm else 0.0, dict[str, TensorQuant]()
    for name in sorted(harm, key=lambda one: harm[one], reverse=True):
        if stop():
            break
        if harm[name] == 0.0:
            continue
        start = least = harm[name]
        for quant in _by_width(observers[name], estimators, ranges[name]):
            wider = quant.scale[0] > ranges[name].scale[0]
            noise = judge.score(with_int8_tensor(graph, [name], quant), count=count).noise
            if wider and noise <= max(_HARDLY_MORE * start, _HARDLY_ANY * mean):
                changed[name] = quant
                break
            if not wider and noise < _BETTER * least:
                least, changed[name] = noise, quant
    return changed


def _by_width(observer: Observer, estimators: Collection[str], current: TensorQuant) -> list[TensorQuant]:
    """The other estimators' quantizations, the widest first, each width once."""
    found = {quant.scale[0]: quant for name in estimators if (quant := choose(observer, estimator=name)).scale != current.scale}
    return [found[scale] for scale in sorted(found, reverse=True)]
