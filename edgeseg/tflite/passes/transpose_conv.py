"""A transposed convolution whose kernel equals its stride is a 1x1 convolution and a DEPTH_TO_SPACE.

Its windows do not overlap, so output pixel (y * s + i, x * s + j) depends on input pixel (y, x) only.
"""

from __future__ import annotations

import numpy as np

from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.rewrite import POINTWISE, Rewriter

__all__ = ["run"]


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Square strides; constant weights; an output of exactly stride times the input."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind != "TRANSPOSE_CONV":
            continue
        weights, source = edit.data(op.inputs[1]), str(op.inputs[2])
        bias = edit.data(op.inputs[3]) if len(op.inputs) > 3 else None
        if weights is None or (len(op.inputs) > 3 and op.inputs[3] is not None and bias is None):
            continue
        channels, height, width, depth = weights.shape
        step = int(np.asarray(op.options["strideH"]))
        _, rows, columns, _ = edit.shape(source)
        square = (height, width, op.options["strideW"]) == (step, step, step)
        if not square or edit.shape(op.id)[1:3] != (rows * step, columns * step):
            continue
        # DEPTH_TO_SPACE reads channel (i * s + j) * channels + c for row i, column j of a block.
        pointwise = weights.transpose(1, 2, 0, 3).reshape(step * step * channels, 1, 1, depth)
        repeated = np.tile(np.zeros(channels) if bias is None else bias, step * step)
        blocks = edit.tensor(f"{op.id}_blocks", (1, rows, columns, step * step * channels))
        names = (source, edit.constant(f"{op.inputs[1]}_1x1", pointwise), edit.constant(f"{op.id}_bias_1x1", repeated))
        options = {**POINTWISE, "fusedActivationFunction": op.options.get("fusedActivationFunction", 0)}
        edit.replace(
            op,
            edit.op("CONV_2D", names, blocks, options),
            edit.op("DEPTH_TO_SPACE", (blocks,), op.id, {"blockSize": step}),
        )
        edit.done()
    return edit.finish()
