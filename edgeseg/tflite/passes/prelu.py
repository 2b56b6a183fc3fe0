"""PRELU from operators that have int8 kernels: ``max(y, a y)`` for slopes up to 1.

Both terms are depthwise 1x1 convolutions, and both have the scale of the maximum: below its range the other decides, so
the tail of negative values that only the slope reads costs no precision, and no value is rounded twice. Where ``y`` is itself
a scale and shift per channel of ``x`` (a batch norm that nothing could take), the two are computed from ``x``, and ``y`` is
never held at all. The delegate has no int8 MAXIMUM, but the reference kernel and the cut together take a quarter of the
time of a subtraction. Larger slopes: ``relu(y) - a relu(-y)``. Slopes of one value become LEAKY_RELU.

On x86 a float PRELU between QUANTIZE and DEQUANTIZE costs about the same; this is for hardware without float.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.passes.affine_depthwise import channelwise
from edgeseg.tflite.rewrite import Float64, Rewriter, channel_vector

__all__ = ["run"]

_RELU = 1


@dataclass(frozen=True)
class _Affine:
    """``gain * source + shift`` per channel; ``maker`` is the operator that computes it, where there is one."""

    source: str
    gain: Float64
    shift: Float64
    maker: TfOp | None = None


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """PRELUs of 4-dimensional tensors with one slope a channel."""
    edit = Rewriter(graph)
    for op in graph.ops:
        slopes = channel_vector(edit.data(op.inputs[1]), edit.shape(op.id)) if op.kind == "PRELU" else None
        if slopes is None or len(edit.shape(op.id)) != 4:
            continue
        if (slopes == slopes[0]).all() and slopes[0] != 0:
            edit.replace(op, edit.op("LEAKY_RELU", (op.inputs[0],), op.id, {"alpha": float(slopes[0])}))
        else:
            affine = _affine(edit, op)
            edit.replace(op, *_parts(edit, op, affine, slopes))
            if affine.maker is not None:
                edit.replace(affine.maker)
        edit.done()
    return edit.finish()


def _parts(edit: Rewriter, op: TfOp, y: _Affine, slopes: Float64) -> list[TfOp]:
    """The operators that compute the PRELU of ``y``."""
    first, second = (edit.tensor(f"{op.id}_{name}", edit.shape(op.id)) for name in ("straight", "bent"))
    nothing = np.zeros_like(slopes)
    if (slopes <= 1).all():
        bent = channelwise(edit, y.source, slopes * y.gain, slopes * y.shift, second)
        if y.maker is None:
            return [bent, edit.op("MAXIMUM", (y.source, second), op.id)]
        straight = channelwise(edit, y.source, y.gain, y.shift, first)
        return [straight, bent, edit.op("MAXIMUM", (first, second), op.id)]
    positive = channelwise(edit, y.source, y.gain, y.shift, first, activation=_RELU)
    if (slopes >= 0).all():
        negative = channelwise(edit, y.source, -slopes * y.gain, -slopes * y.shift, second, activation=_RELU)
        return [positive, negative, edit.op("SUB", (first, second), op.id)]
    flipped = edit.tensor(f"{op.id}_flipped", edit.shape(op.id))
    return [
        positive,
        channelwise(edit, y.source, -y.gain, -y.shift, flipped, activation=_RELU),
        channelwise(edit, flipped, -slopes, nothing, second),
        edit.op("ADD", (first, second), op.id),
    ]


def _affine(edit: Rewriter, op: TfOp) -> _Affine:
    """What the PRELU reads, as a scale and shift of what lies before; of itself where that is none."""
    name = str(op.inputs[0])
    channels = edit.shape(op.id)[-1]
    maker = edit.producer(name)
    if maker is not None and edit.only_reader(name) is op and edit.untouched(maker):
        found = _gain_and_shift(edit, maker)
        if found is not None:
            return _Affine(str(maker.inputs[0]), *found, maker)
    return _Affine(name, np.ones(channels), np.zeros(channels))


def _gain_and_shift(edit: Rewriter, op: TfOp) -> tuple[Float64, Float64] | None:
    """Of a 1x1 convolution that mixes no channels (``affine_depthwise`` makes them)."""
    if op.kind not in {"CONV_2D", "DEPTHWISE_CONV_2D"} or op.options.get("fusedActivationFunction", 0):
        return None
    weights, bias = edit.data(op.inputs[1]), edit.data(op.inputs[2]) if len(op.inputs) > 2 else None
    if weights is None or bias is None or edit.shape(op.id) != edit.shape(str(op.inputs[0])):
        return None
    if op.kind == "DEPTHWISE_CONV_2D":
        return (weights.reshape(-1).astype(np.float64), bias.astype(np.float64)) if weights.shape[1:3] == (1, 1) else None
    if weights.shape[1:3] != (1, 1) or weights.shape[0] != weights.shape[3]:
        return None
    matrix = weights[:, 0, 0, :].astype(np.float64)
    gain = np.diag(matrix).copy()
    return (gain, bias.astype(np.float64)) if np.array_equal(matrix, np.diag(gain)) else None
