"""Factors of channels that leave the least int8 noise at the network's output, by a model of it.

``edgeseg.tflite.equalise`` makes channels alike, whatever they are worth, and stops where weights would lose as many steps as the
activation gains. Here both are weighed by what they do at the output: the error of a tensor is that of one step, a 255th of its
range, in each of its channels; the error of a row of weights that of a 127th of its largest. With squared gains
(``edgeseg.tflite.sensitivity``) for what an error does further on, the sum over all tensors and rows is a posynomial of the factors
wherever a range is taken as a p-norm of its channels' extremes: a geometric program, convex in their logarithms, so that what the
descent finds is the least there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseg.errors import missing_extra
from edgeseg.tflite.channels import ChannelTies, Float64, scales_weights
from edgeseg.tflite.equalise import rescaled
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.sensitivity import Moments, positions, squared_gains

__all__ = ["least_noise"]

_LARGEST = 256.0
_START = 8.0  # all factors at first: none goes below 1, and a factor common to all channels changes nothing
_DIFFERENT = 1.5  # times the typical factor, or less than the reverse
_POWER = 32  # of the norm that stands for a maximum; a power of two
_STEPS = 400
_LEVELS, _WEIGHT_LEVELS = 255.0, 127.0
_TINY = 1e-30


def least_noise(graph: TfGraph, moments: Mapping[str, Moments]) -> tuple[TfGraph, int]:
    """The same function with channels scaled so that the model's noise is least.

    Args:
        graph: float, not changed.
        moments: as ``sensitivity.channel_moments`` gives them.

    Returns:
        The graph, and how many channels have a factor that differs much from most others'; with 0 it is the graph given.

    Raises:
        EnvironmentLack: scipy is not installed.
    """
    ties = ChannelTies(graph)
    for name, channels in ties.members():
        if name not in moments or moments[name].low.size != channels.size:
            ties.pin(name)
    program = _Program(graph, ties, moments)
    factors = program.solve()
    typical = float(np.median(factors[program.free])) if program.free.any() else 1.0
    different = int((np.abs(np.log(factors[program.free] / typical)) > np.log(_DIFFERENT)).sum())
    return (rescaled(graph, ties, factors), different) if different else (graph, 0)


@dataclass(frozen=True)
class _Held:
    """A tensor in int8. ``channels``: their variables. ``low``, ``high``: magnitudes of the extremes on either side of 0.
    ``weight``: noise at the output for a range of 1, by channel."""

    channels: npt.NDArray[np.intp]
    low: Float64
    high: Float64
    weight: Float64


@dataclass(frozen=True)
class _Rows:
    """Weights in int8 with one scale a row. ``peaks``: (rows, channels) largest magnitudes. ``weight``: noise at the output for
    a row's peak of 1 and inputs of power 1, by row. ``power``: of the inputs, by channel, kernel positions counted."""

    channels: npt.NDArray[np.intp]
    peaks: npt.NDArray[np.float32]
    weight: Float64
    power: Float64


class _Program:
    """Variables: logarithms of the factors of all groups of tied channels that no pin holds."""

    def __init__(self, graph: TfGraph, ties: ChannelTies, moments: Mapping[str, Moments]) -> None:
        roots = ties.roots()
        groups, self._variable = np.unique(roots, return_inverse=True)
        self._pinned = np.isin(groups, ties.pinned())
        self._graph, self._ties, self._moments = graph, ties, moments
        self._gains = squared_gains(graph, moments)
        self._held = self._tensors()
        self._rows = self._weights()

    @property
    def free(self) -> npt.NDArray[np.bool_]:
        """bool (ties.size,)."""
        found: npt.NDArray[np.bool_] = ~self._pinned[self._variable]
        return found

    def solve(self) -> Float64:
        """Factors of all channels, float64 (ties.size,)."""
        try:
            from scipy.optimize import minimize
        except ImportError as error:
            raise missing_extra("scipy", "tflite", "to balance channels") from error
        start = np.where(self._pinned, 0.0, np.log(_START))
        bounds = [(0.0, 0.0 if pinned else float(np.log(_LARGEST))) for pinned in self._pinned]
        if self._pinned.all() or not self._held:
            return np.ones(self._ties.size)
        found = minimize(self._value, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
        factors: Float64 = np.exp(found.x)[self._variable]
        return factors

    def _tensors(self) -> list[_Held]:
        """Terms of a maximum have its range and round once, so they are no tensors of their own."""
        readers = self._graph.consumers()
        found = []
        for name, slots in self._ties.members():
            moments, gain = self._moments.get(name), self._gains.get(name)
            alone = [op.kind for op in readers.get(name, [])]
            if moments is None or gain is None or alone in (["MAXIMUM"], ["MINIMUM"]):
                continue
            weight = gain * positions(self._graph, name) / (12 * _LEVELS**2)
            low, high = np.maximum(-moments.low, 0.0), np.maximum(moments.high, 0.0)
            if weight.sum() > 0 and (low.any() or high.any()):
                found.append(_Held(self._variable[slots], low, high, weight))
        return found

    def _weights(self) -> list[_Rows]:
        """Depthwise convolutions have a scale for each channel, which no factor changes."""
        found = []
        for op in self._graph.ops:
            source = str(op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0]) if op.inputs else ""
            gain, moments = self._gains.get(op.id), self._moments.get(source)
            if op.kind == "DEPTHWISE_CONV_2D" or not scales_weights(self._graph, op) or gain is None or moments is None:
                continue
            values = np.abs(np.asarray(self._graph.tensors[str(op.inputs[1])].data, np.float32))
            rows = values.reshape(values.shape[0], -1, values.shape[-1])
            if rows.shape[2] != moments.power.size:  # grouped: a row reads some of the channels
                continue
            weight = gain * positions(self._graph, op.id) / (12 * _WEIGHT_LEVELS**2)
            channels = self._variable[self._ties.slots(source)]
            found.append(_Rows(channels, rows.max(axis=1), weight, moments.power * rows.shape[1]))
        return found

    def _value(self, logs: Float64) -> tuple[float, Float64]:
        """Logarithm of the noise, and its slope."""
        total, slope = 0.0, np.zeros(logs.size)
        for held in self._held:
            factors = np.exp(logs[held.channels])
            low, by_low = _norm(held.low * factors)
            high, by_high = _norm(held.high * factors)
            noise = held.weight / np.square(factors)
            whole, everywhere = low + high, float(noise.sum())
            total += whole**2 * everywhere
            change = 2 * whole * everywhere * (low * by_low + high * by_high) - 2 * whole**2 * noise
            np.add.at(slope, held.channels, change)
        for rows in self._rows:
            scales = np.asarray(np.exp(logs[rows.channels]), np.float32)
            peaks, shares = _norms(rows.peaks / scales)
            noise, power = rows.weight * np.square(peaks), rows.power * np.square(scales)
            total += float(noise.sum() * power.sum())
            np.add.at(slope, rows.channels, 2 * noise.sum() * power - 2 * power.sum() * (noise @ shares))
        slope[self._pinned] = 0.0
        return float(np.log(total)), slope / total


def _norm(values: Float64) -> tuple[float, Float64]:
    """The p-norm of values that are not negative, and how its logarithm changes with each one's; (C,)."""
    norms, shares = _norms(values[None])
    return float(norms[0]), np.asarray(shares[0], np.float64)


def _norms(values: npt.NDArray[np.floating]) -> tuple[Float64, npt.NDArray[np.floating]]:
    """``_norm`` of each row; (R,) and (R, C)."""
    top = np.maximum(values.max(axis=1, keepdims=True), _TINY)
    powers = values / top
    for _ in range(_POWER.bit_length() - 1):
        powers *= powers
    sums = np.maximum(powers.sum(axis=1, keepdims=True), _TINY)
    norms = (np.asarray(top, np.float64) * np.power(np.asarray(sums, np.float64), 1 / _POWER))[:, 0]
    return np.asarray(norms, np.float64), powers / sums
