"""How much an error in one channel of one tensor does at the network's output, estimated from the weights alone.

Squared gains are carried back from the output through every operator, as if errors of different channels and places arrived
independently (the diagonal of the Gauss-Newton matrix; Becker and Le Cun 1988, "Improving the convergence of back-propagation
learning with second order methods"). Nothing is run but a few images for the moments of each channel. It says which channels
matter more than others, not how large the noise will be: on ESPNet the logarithms correlate with measured harm at 0.82.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeseg.tflite.channels import Float64, gains, scales_weights
from edgeseg.tflite.graph import Array, TfGraph, TfOp
from edgeseg.tflite.rewrite import channel_vector
from edgeseg.tflite.runtime import Feed
from edgeseg.tflite.statistics import collect

__all__ = ["ChannelMoments", "Moments", "channel_moments", "positions", "squared_gains"]

_AVERAGING = {"AVERAGE_POOL_2D", "MEAN"}
_CLIPPING = {"RELU", "RELU6", "RELU_N1_TO_1"}


@dataclass(frozen=True)
class Moments:
    """Of a tensor's channels, each float64 (C,): mean over images of the least and the largest value, mean square, and share of
    values above 0."""

    low: Float64
    high: Float64
    power: Float64
    positive: Float64

    def plus(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def over(self, count: int) -> Moments:
        return Moments(*(a / count for a in vars(self).values()))


class ChannelMoments:
    """Gathers ``Moments`` of each float activation, per index of its last axis."""

    def __init__(self) -> None:
        self._sums: dict[str, Moments] = {}
        self._images: dict[str, int] = {}

    def update(self, name: str, values: Array) -> None:
        """Take in one activation of one image; a ``statistics.Watch``."""
        if not values.ndim:
            return
        flat = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        found = Moments(
            *(
                np.asarray(one, np.float64)
                for one in (
                    flat.min(axis=0),
                    flat.max(axis=0),
                    np.einsum("nc,nc->c", flat, flat) / flat.shape[0],
                    np.count_nonzero(flat > 0, axis=0) / flat.shape[0],
                )
            )
        )
        self._sums[name] = self._sums[name].plus(found) if name in self._sums else found
        self._images[name] = self._images.get(name, 0) + 1

    def means(self) -> dict[str, Moments]:
        """By tensor."""
        return {name: total.over(self._images[name]) for name, total in self._sums.items()}


def channel_moments(graph: TfGraph, inputs: Iterable[Feed], *, threads: int = 1) -> dict[str, Moments]:
    """``Moments`` of a graph's activations on images."""
    moments = ChannelMoments()
    collect(graph, inputs, moments.update, threads=threads)
    return moments.means()


def positions(graph: TfGraph, name: str) -> int:
    """How many values a channel has: the product of all axes but the last."""
    return math.prod(graph.tensors[name].shape[:-1])


def squared_gains(graph: TfGraph, moments: Mapping[str, Moments]) -> dict[str, Float64]:
    """Error power at the first output, summed over its values, per error power in one value of a channel.

    Args:
        graph: float.
        moments: as ``channel_moments`` gives them.

    Returns:
        float64 (C,) by tensor, for float activations that reach the output. What an operator without a rule of its own (a product
        of two activations, a softmax) does to errors is taken to be nothing.
    """
    return _Backward(graph, moments).run()


class _Backward:
    def __init__(self, graph: TfGraph, moments: Mapping[str, Moments]) -> None:
        self._graph = graph
        self._moments = moments
        self._found: dict[str, Float64] = {}

    def run(self) -> dict[str, Float64]:
        output = self._graph.outputs[0]
        self._found[output] = np.ones(self._graph.tensors[output].shape[-1])
        for op in reversed(self._graph.ops):
            behind = [name for name in op.outputs if name in self._found]
            if not behind:
                continue
            if len(op.outputs) > 1:
                self._spread(op, np.full(1, float(np.mean([self._found[name].mean() for name in behind]))))
                continue
            given = self._found[op.id]
            if op.options.get("fusedActivationFunction", 0) or op.kind in _CLIPPING:
                given = given * self._positive(op.id, given.size)
            self._operator(op, given)
        return self._found

    def _operator(self, op: TfOp, given: Float64) -> None:
        rule = _RULES.get(op.kind)
        if scales_weights(self._graph, op):
            self._linear(op, given)
        elif (constant := gains(self._graph, op)) is not None:
            factor = channel_vector(self._graph.tensors[str(op.inputs[constant])].data, self._graph.tensors[op.id].shape)
            assert factor is not None
            self._add(op.inputs[1 - constant], given * factor**2)
        elif rule is not None:
            rule(self, op, given)
        else:
            self._spread(op, given)

    def _linear(self, op: TfOp, given: Float64) -> None:
        source = str(op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0])
        square = np.square(np.asarray(self._graph.tensors[str(op.inputs[1])].data, np.float64))
        channels = self._graph.tensors[source].shape[-1]
        if op.kind == "DEPTHWISE_CONV_2D":
            back = (square.sum(axis=(0, 1, 2)) * given).reshape(channels, -1).sum(axis=1)
        else:
            rows = square.reshape(square.shape[0], -1, square.shape[-1]).sum(axis=1)
            groups = channels // rows.shape[1]
            back = np.einsum("go,goi->gi", given.reshape(groups, -1), rows.reshape(groups, -1, rows.shape[1])).reshape(-1)
        # Every output sums over its kernel, so an input meets as many kernels as there are outputs for each input.
        ratio = 1.0 if op.kind == "TRANSPOSE_CONV" else positions(self._graph, op.id) / positions(self._graph, source)
        self._add(source, back * ratio)

    def _joined(self, op: TfOp, given: Float64) -> None:
        begin = 0
        sizes = [self._graph.tensors[str(name)].shape[-1] for name in op.inputs]
        if sum(sizes) != given.size:  # along another axis
            self._spread(op, given)
            return
        for name, size in zip(op.inputs, sizes, strict=True):
            self._add(name, given[begin : begin + size])
            begin += size

    def _greater(self, op: TfOp, given: Float64) -> None:
        """Of PRELU's two terms the first decides where it is positive."""
        share = self._positive(str(op.inputs[0]), given.size)
        share = 1.0 - share if op.kind == "MINIMUM" else share
        for name, part in zip(op.inputs, (share, 1.0 - share), strict=True):
            self._add(name, given * part)

    def _blocks(self, op: TfOp, given: Float64) -> None:
        source = str(op.inputs[0])
        self._add(source, np.tile(given, self._graph.tensors[source].shape[-1] // given.size))

    def _spread(self, op: TfOp, given: Float64) -> None:
        """To every activation that it reads: channel by channel where there are as many, else the mean."""
        for name in op.inputs:
            if name is None or self._graph.is_constant(name) or not self._graph.tensors[name].shape:
                continue
            channels = self._graph.tensors[name].shape[-1]
            share = positions(self._graph, op.id) / positions(self._graph, name)
            share = share**2 if op.kind in _AVERAGING else share
            self._add(name, share * (given if channels == given.size else np.full(channels, given.mean())))

    def _positive(self, name: str, channels: int) -> Float64:
        found = self._moments.get(name)
        return found.positive if found is not None and found.positive.size == channels else np.full(channels, 0.5)

    def _add(self, name: str | None, gain: Float64) -> None:
        if name is not None and not self._graph.is_constant(name):
            self._found[name] = self._found[name] + gain if name in self._found else gain


_RULES: Mapping[str, Callable[[_Backward, TfOp, Float64], None]] = {
    "CONCATENATION": _Backward._joined,
    "MAXIMUM": _Backward._greater,
    "MINIMUM": _Backward._greater,
    "DEPTH_TO_SPACE": _Backward._blocks,
}
