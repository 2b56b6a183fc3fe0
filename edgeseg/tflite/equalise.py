"""Cross-layer equalisation: channels of one tensor get like ranges, at no change of what the network computes.

An int8 activation has one scale, so a channel a hundred times smaller than its neighbours keeps one or two bits. Positive
factors per channel pass through ReLU-like operators, sums, joins, pools and resizes unchanged, and convolutions take them into
their weights on either side (Nagel et al. 2019, arXiv:1906.04721, section 4.1, for pairs of convolutions). Here every set of
channels that such operators tie together shares one factor, so it works through joins and skip connections. A batch norm that
could not be folded takes factors too: into the gains of its product on either side, and through its sum (the equalisation of
single layers by their constants is that of Meller et al. 2019, arXiv:1902.01917).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.channels import ChannelTies, Float64, gains, scales_weights
from edgeseg.tflite.graph import Array, TfGraph, TfOp
from edgeseg.tflite.rewrite import channel_vector, prune
from edgeseg.tflite.runtime import Feed
from edgeseg.tflite.statistics import collect

__all__ = ["ChannelPeaks", "channel_peaks", "equalise", "rescaled"]

_LARGEST_FACTOR = 256.0  # a channel smaller than that beside its neighbours is noise
_TINY = 1e-12
_WORTH = 1.5  # a graph in which no factor exceeds this is left alone


class ChannelPeaks:
    """Of each float activation, per index of its last axis: the largest magnitude, averaged over the images."""

    def __init__(self) -> None:
        self._sums: dict[str, Float64] = {}
        self._images: dict[str, int] = {}

    def update(self, name: str, values: Array) -> None:
        """Take in one activation of one image; a ``statistics.Watch``."""
        if values.ndim:
            peaks = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0).astype(np.float64)
            self._sums[name] = self._sums[name] + peaks if name in self._sums else peaks
            self._images[name] = self._images.get(name, 0) + 1

    def means(self) -> dict[str, Float64]:
        """By tensor, float64 (C,)."""
        return {name: total / self._images[name] for name, total in self._sums.items()}


def channel_peaks(graph: TfGraph, inputs: Iterable[Feed], *, threads: int = 1) -> dict[str, Float64]:
    """``ChannelPeaks`` of a graph on images."""
    peaks = ChannelPeaks()
    collect(graph, inputs, peaks.update, threads=threads)
    return peaks.means()


def equalise(graph: TfGraph, peaks: Mapping[str, Float64]) -> tuple[TfGraph, int]:
    """The same function with better balanced channels.

    It helps where channels of one tensor differ much and readers are depthwise, and can cost a little elsewhere: measure.

    A channel is enlarged until it, or one tied to it, is as large as the largest of its tensor, so no tensor's range grows.
    Where a reader mixes channels with int8 weights of one scale a row, the factor stops at the geometric mean of what the
    activation gains and the weights lose.

    Args:
        graph: float, not changed.
        peaks: as ``channel_peaks`` gives them.

    Returns:
        The graph, and how many channels were enlarged by half or more; with 0 it is the graph given.
    """
    ties = ChannelTies(graph)
    factors = _factors(graph, ties, peaks)
    enlarged = int((factors > _WORTH).sum())
    if not enlarged:
        return graph, 0
    return rescaled(graph, ties, factors), enlarged


def rescaled(graph: TfGraph, ties: ChannelTies, factors: Float64) -> TfGraph:
    """The same function with each channel enlarged by its factor.

    Args:
        graph: float, not changed.
        ties: of its channels.
        factors: float64 (ties.size,), positive, equal among tied channels and 1 where one is pinned.
    """
    made = graph.copy()
    build = GraphBuilder(made)
    made.ops = [_rescaled(build, op, ties, factors) for op in graph.ops]
    prune(made)
    return made


def _factors(graph: TfGraph, ties: ChannelTies, peaks: Mapping[str, Float64]) -> Float64:
    """One factor for each channel of each tensor, equal among tied ones; float64 (ties.size,)."""
    room = np.full(ties.size, _LARGEST_FACTOR)
    for name, channel in ties.members():
        measured = peaks.get(name)
        if measured is None or measured.size != channel.size:
            ties.pin(name)
            continue
        largest = measured.max(initial=0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.where(measured > 0, largest / measured, 1.0)
        np.minimum.at(room, ties.groups(name), own)
    for op in graph.ops:
        constant = gains(graph, op)
        if constant is not None:
            _leave_precision(
                ties, str(op.inputs[1 - constant]), np.abs(_gains(graph, op, constant))[None], peaks, room, whole=True
            )
        elif scales_weights(graph, op) and op.kind != "DEPTHWISE_CONV_2D":
            weights = np.asarray(graph.tensors[str(op.inputs[1])].data, np.float64)
            columns = np.abs(weights).reshape(weights.shape[0], -1, weights.shape[-1]).max(axis=1)
            source = str(op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0])
            _leave_precision(ties, source, columns, peaks, room, whole=False)
    factors = np.maximum(room, 1.0)
    factors[ties.pinned()] = 1.0
    spread: Float64 = factors[ties.roots()]
    return spread


def _leave_precision(
    ties: ChannelTies, source: str, columns: Float64, peaks: Mapping[str, Float64], room: Float64, *, whole: bool
) -> None:
    """Limit factors to where a channel has the same share of its tensor's range as its weights have of their rows' (Nagel
    et al. 2019, equation 11). ``columns``: largest magnitudes by row and input channel; a row has one scale.

    ``whole``: one row holds the constants of all channels, so one factor common to all of them is free, and is chosen so that the
    largest fills its range. With a row for each output it is not: every row has channels of its own that are small (measured on
    ESPNet: with it, equalising no longer lowered the noise enough to be kept).
    """
    measured = peaks.get(source)
    if measured is None:
        return
    rows = columns.max(axis=1, keepdims=True)
    share = (columns / np.where(rows > 0, rows, 1.0)).max(axis=0)
    if share.size != measured.size:  # grouped: each column serves one channel of every group
        share = np.tile(share, measured.size // share.size)
    present = measured / max(float(measured.max(initial=0.0)), _TINY)
    limit = np.sqrt(share / np.maximum(present, _TINY))
    if whole:
        limit /= max(float(np.sqrt(share * present).max(initial=0.0)), _TINY)
    np.minimum.at(room, ties.groups(source), np.maximum(limit, 1.0))


def _gains(graph: TfGraph, op: TfOp, constant: int) -> Float64:
    """The factor of each channel of a product with a constant; float64 (C,)."""
    found = channel_vector(graph.tensors[str(op.inputs[constant])].data, graph.tensors[op.id].shape)
    assert found is not None
    return found


def _rescaled(build: GraphBuilder, op: TfOp, ties: ChannelTies, factors: Float64) -> TfOp:
    """The operator on enlarged channels."""
    graph = build.graph
    if scales_weights(graph, op):
        source = str(op.inputs[2] if op.kind == "TRANSPOSE_CONV" else op.inputs[0])
        into, out = factors[ties.slots(source)], factors[ties.slots(op.id)]
        if (into == 1).all() and (out == 1).all():
            return op
        position = 3 if op.kind == "TRANSPOSE_CONV" else 2
        weights = graph.tensors[str(op.inputs[1])].data
        assert weights is not None
        names = list(op.inputs)
        names[1] = _constant(build, f"{op.inputs[1]}_equalised", _scaled_weights(op.kind, weights, into, out))
        if len(op.inputs) > position and op.inputs[position] is not None:
            bias = graph.tensors[str(op.inputs[position])].data
            assert bias is not None
            names[position] = _constant(build, f"{op.inputs[position]}_equalised", np.asarray(bias, np.float64) * out)
        return replace(op, inputs=tuple(names))
    constant = gains(graph, op)
    if constant is not None:
        into, out = factors[ties.slots(str(op.inputs[1 - constant]))], factors[ties.slots(op.id)]
        if (into == 1).all() and (out == 1).all():
            return op
        made = _constant(build, f"{op.inputs[constant]}_equalised", _gains(graph, op, constant) * out / into)
        return replace(op, inputs=tuple(made if i == constant else name for i, name in enumerate(op.inputs)))
    if op.kind in {"ADD", "SUB"} and any(graph.is_constant(str(name)) for name in op.inputs):
        out = factors[ties.slots(op.id)]
        names = [
            _constant(build, f"{name}_equalised", np.asarray(data, np.float64) * out)
            if name is not None and (data := graph.tensors[name].data) is not None and (out != 1).any()
            else name
            for name in op.inputs
        ]
        return replace(op, inputs=tuple(names))
    return op


def _scaled_weights(kind: str, weights: Array, into: Float64, out: Float64) -> npt.NDArray[np.float64]:
    values = np.asarray(weights, np.float64)
    if kind == "DEPTHWISE_CONV_2D":
        return values * (out / np.repeat(into, out.size // into.size))
    rows = out.reshape(-1, *[1] * (values.ndim - 1))
    if values.shape[-1] == into.size:
        return values * rows / into
    groups = into.size // values.shape[-1]
    per_row = np.repeat(into.reshape(groups, -1), out.size // groups, axis=0)
    return values * rows / per_row.reshape(out.size, *[1] * (values.ndim - 2), -1)


def _constant(build: GraphBuilder, base: str, values: npt.NDArray[np.float64]) -> str:
    return build.constant(base, np.asarray(values, np.float32))
