"""A tensor's own range, by what it does at the network's output.

A few images judge, and what lies outside a range is clipped on every image to come: an object that was not among them is then
lost whole (docs/adr/0006). So the widest range is taken that does hardly more harm than the one all tensors started with, or
hardly any; a tighter one only where none will do, and the tensor does much of the harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.harm import HarmMeter

__all__ = ["Estimates", "choose_widths"]

_BETTER = 0.9  # a tighter range must bring a tensor's harm below this share
_HARDLY_MORE = 1.25  # times the harm: what a wider range may cost
_HARDLY_ANY = 0.25  # of the mean harm


class Estimates:
    """What each estimator says of each tensor; asked once, since the search for the least squared error takes a while."""

    def __init__(self, observers: Mapping[str, Observer], estimators: Sequence[str]) -> None:
        self._observers = observers
        self._estimators = estimators
        self._known: dict[tuple[str, str], TensorQuant] = {}

    def by(self, estimator: str) -> dict[str, TensorQuant]:
        """Every tensor's quantization by one estimator."""
        return {name: self._of(name, estimator) for name in self._observers}

    def others(self, name: str, current: TensorQuant) -> list[TensorQuant]:
        """A tensor's quantizations of other widths than the current one, the widest first, each width once."""
        quants = [self._of(name, estimator) for estimator in self._estimators]
        found = {quant.scale[0]: quant for quant in quants if quant.scale != current.scale}
        return [found[scale] for scale in sorted(found, reverse=True)]

    def _of(self, name: str, estimator: str) -> TensorQuant:
        key = (name, estimator)
        if key not in self._known:
            self._known[key] = choose(self._observers[name], estimator=estimator)
        return self._known[key]


def choose_widths(
    harm: Mapping[str, float],
    ranges: Mapping[str, TensorQuant],
    estimates: Estimates,
    meter: HarmMeter,
    *,
    covered: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, tuple[TensorQuant, float]]:
    """The tensors whose range changes, with the new one and the noise that it leaves at the output.

    Args:
        harm: noise over signal power at the output, of every tensor with the range that it has now.
        ranges: those, of the tensors that may change.
        estimates: to choose among.
        meter: measures.
        covered: share of all harm, most first, whose tensors may get a tighter range too. Tightening all of them gained 0.2 dB on
            ESPNet, and nothing on images that had not judged.
        stop: once it says so no more are looked at.
    """
    total, typical, passed = sum(harm.values()), float(np.mean(list(harm.values()))) if harm else 0.0, 0.0
    chosen: dict[str, tuple[TensorQuant, float]] = {}
    for name in sorted(harm, key=lambda one: harm[one], reverse=True):
        if stop():
            break
        if name not in ranges or harm[name] == 0.0:
            continue
        least, matters = harm[name], passed < covered * total
        passed += harm[name]
        for quant in estimates.others(name, ranges[name]):
            wider = quant.scale[0] > ranges[name].scale[0]
            if not wider and not matters:
                break
            (noise,) = meter.measure(name, [quant])
            if wider and noise <= max(_HARDLY_MORE * harm[name], _HARDLY_ANY * typical):
                chosen[name] = quant, noise
                break
            if not wider and noise < _BETTER * least:
                chosen[name], least = (quant, noise), noise
    return chosen
