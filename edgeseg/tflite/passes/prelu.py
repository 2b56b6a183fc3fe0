"""PRELU from operators that have int8 kernels in the delegate: ``relu(x) - a * relu(-x)``.

The second term is a depthwise 1x1 convolution by ``-a`` with a fused RELU where all slopes are 0 or more. A float PRELU between
QUANTIZE and DEQUANTIZE is cheaper on x86; this is for hardware without float.
"""

from __future__ import annotations

import numpy as np

from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.rewrite import POINTWISE, Rewriter, channel_vector

__all__ = ["run"]

_RELU = 1


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """PRELUs of 4-dimensional tensors with one slope a channel. Slopes of one value become LEAKY_RELU."""
    edit = Rewriter(graph)
    for op in graph.ops:
        slopes = channel_vector(edit.data(op.inputs[1]), edit.shape(op.id)) if op.kind == "PRELU" else None
        if slopes is None or len(edit.shape(op.id)) != 4:
            continue
        source, shape = str(op.inputs[0]), edit.shape(op.id)
        if (slopes == slopes[0]).all() and slopes[0] != 0:
            edit.replace(op, edit.op("LEAKY_RELU", (source,), op.id, {"alpha": float(slopes[0])}))
            edit.done()
            continue
        positive, negative = edit.tensor(f"{op.id}_positive", shape), edit.tensor(f"{op.id}_negative", shape)
        none = edit.constant(f"{op.id}_zero", np.zeros(slopes.size))
        clipped = {**POINTWISE, "depthMultiplier": 1, "fusedActivationFunction": _RELU}
        made = [edit.op("RELU", (source,), positive)]
        if (slopes >= 0).all():
            weights = edit.constant(f"{op.id}_slopes", -slopes.reshape(1, 1, 1, -1))
            made.append(edit.op("DEPTHWISE_CONV_2D", (source, weights, none), negative, clipped))
            made.append(edit.op("SUB", (positive, negative), op.id))
        else:
            flipped = edit.tensor(f"{op.id}_flipped", shape)
            minus = edit.constant(f"{op.id}_minus", np.full((1, 1, 1, slopes.size), -1.0))
            weights = edit.constant(f"{op.id}_slopes", -slopes.reshape(1, 1, 1, -1))
            made.append(edit.op("DEPTHWISE_CONV_2D", (source, minus, none), flipped, clipped))
            made.append(edit.op("DEPTHWISE_CONV_2D", (flipped, weights, none), negative, {**POINTWISE, "depthMultiplier": 1}))
            made.append(edit.op("ADD", (positive, negative), op.id))
        edit.replace(op, *made)
        edit.done()
    return edit.finish()
