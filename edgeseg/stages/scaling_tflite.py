"""Whether, and by which rule, channels are scaled before they are quantized: the form that leaves the least noise in int8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import choose
from edgeseg.session import Float32
from edgeseg.tflite.balance import least_noise
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.equalise import ChannelPeaks, channel_peaks, equalise
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.runtime import Feed, workers
from edgeseg.tflite.sensitivity import ChannelMoments, channel_moments
from edgeseg.tflite.statistics import activations, collect
from edgeseg.tflite.summaries import summarise

__all__ = ["ESTIMATORS", "SCALINGS", "best_scaling", "rescaling"]

_EQUALISE, _LEAST_NOISE = "equalise", "least_noise"
SCALINGS = frozenset({_EQUALISE, _LEAST_NOISE})
"""Names of the rules, as ``QuantPlan.passes`` lists them."""
ESTIMATORS = ("mse", "percentile-99.99", "mean-minmax")
"""The search will choose among estimators, so each form is judged by the best of several."""

_WORTH = 0.9
"""A rule must bring the noise below this share of what it is without."""


def best_scaling(
    graph: TfGraph, images: Callable[[], Iterable[Feed]], judge: Judge, fixed: Mapping[str, TensorQuant], policy: Policy
) -> tuple[TfGraph, str, str]:
    """The graph with scaled channels, the rule's name and a note; the graph given and empty strings where no rule is worth it.

    Args:
        graph: float.
        images: calibration images as the graph takes them, each time it is called.
        judge: of the noise.
        fixed: quantizations that are given.
        policy: of the operators that are in int8. ``INTEGER_ONLY`` tries the factors of least noise too: with few tensors in
            int8 they gained nothing over the simpler rule.
    """
    whole = policy is Policy.INTEGER_ONLY
    observers = {name: Observer(name) for name in activations(graph)}
    peaks, moments = ChannelPeaks(), ChannelMoments()

    def watch(name: str, values: Float32) -> None:
        peaks.update(name, values)
        observers[name].update(values)
        if whole:
            moments.update(name, values)

    collect(graph, images(), watch, threads=workers())

    def noise(form: TfGraph, seen: Mapping[str, Observer]) -> float:
        plans = (
            initial_plan(form, {name: choose(one, estimator=each) for name, one in seen.items()} | dict(fixed), policy=policy)
            for each in ESTIMATORS
        )
        return min(judge.score_of(quantize(form, plan, integer_only=whole)).noise for plan in plans)

    forms = {_EQUALISE: equalise(graph, peaks.means())}
    if whole:
        forms[_LEAST_NOISE] = least_noise(graph, moments.means())
    least, chosen = _WORTH, (graph, "", "")
    before = noise(graph, observers) if any(count for _, count in forms.values()) else 0.0
    for name, (form, count) in forms.items():
        if not count:
            continue
        seen = {one: Observer(one) for one in activations(form)}
        summarise(form, images(), seen, threads=workers())
        found = noise(form, seen)
        if found <= least * before:
            how = "equalised" if name == _EQUALISE else "scaled for the least noise"
            least, chosen = found / before if before else 0.0, (form, name, f"{count} channels {how}")
    return chosen


def rescaling(graph: TfGraph, name: str, images: Iterable[Feed]) -> TfGraph:
    """As a plan that names a rule wants it; the images must be those that it was made with."""
    if name == _LEAST_NOISE:
        return least_noise(graph, channel_moments(graph, images, threads=workers()))[0]
    return equalise(graph, channel_peaks(graph, images, threads=workers()))[0]
