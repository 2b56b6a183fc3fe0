"""A tensor's own range, by what it does at the network's output.

A few images judge, and what lies outside a range is clipped on every image to come: an object that was not among them is then
lost whole (docs/adr/0006). So the widest range is taken that does hardly more harm than what it is held against, or hardly any; a
tighter one only where none will do, and the tensor does much of the harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.harm import HarmMeter

__all__ = ["AS_BEST", "AS_NOW", "Estimates", "Tolerance", "choose_widths"]

_BETTER = 0.9  # a tighter range must bring a tensor's harm below this share


@dataclass(frozen=True)
class Tolerance:
    """What a wider range may cost: ``more`` times the harm it is held against, or ``any`` of the mean harm. That is the harm of the
    range that the tensor has; ``least``: of the best of this one and all wider ones."""

    more: float
    any: float
    least: bool = False


AS_NOW = Tolerance(1.25, 0.25)
"""Where operators that do too much harm can still go to float."""

AS_BEST = Tolerance(1.1, 0.05, least=True)
"""With no operator in float there are hundreds of tensors, and what each may cost beside the best adds up."""


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
    tolerance: Tolerance,
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
        tolerance: of what wider ranges cost.
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
        others = estimates.others(name, ranges[name])
        wider = [quant for quant in others if quant.scale[0] > ranges[name].scale[0]]
        held = min([least, *meter.measure(name, wider)]) if tolerance.least and wider else least
        for quant in others:
            if quant not in wider and not matters:
                break
            (noise,) = meter.measure(name, [quant])
            if quant in wider and noise <= max(tolerance.more * held, tolerance.any * typical):
                chosen[name] = quant, noise
                break
            if quant not in wider and noise < _BETTER * least:
                chosen[name], least = (quant, noise), noise
    return chosen
