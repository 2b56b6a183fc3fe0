"""An average over whole windows is a depthwise convolution with equal weights, which has an int8 kernel in the delegate.

Its int8 weights are all 127, so nothing is lost in them. A pool that counts padding arrives here as PAD and a pool without
padding; the PAD then fuses into the convolution. Pools whose windows shrink at the border stay as they are.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import POINTWISE, Rewriter

__all__ = ["run"]

_LARGEST_WINDOW = 64  # positions; beyond that the delegate's pooling is much faster than a convolution


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Every pool whose windows are whole and not too large."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind != "AVERAGE_POOL_2D" or edit.before.tensors[op.id].dtype != "float32" or not _whole(edit, op):
            continue
        height, width = (cast(int, op.options[name]) for name in ("filterHeight", "filterWidth"))
        if height * width > _LARGEST_WINDOW:
            continue
        source = str(op.inputs[0])
        channels = edit.shape(source)[3]
        weights = edit.constant(f"{op.id}_window", np.full((1, height, width, channels), 1.0 / (height * width)))
        bias = edit.constant(f"{op.id}_zero", np.zeros(channels))
        kept = {name: op.options[name] for name in ("padding", "strideW", "strideH") if name in op.options}
        options = {
            **POINTWISE,
            **kept,
            "depthMultiplier": 1,
            "fusedActivationFunction": op.options.get("fusedActivationFunction", 0),
        }
        edit.replace(op, edit.op("DEPTHWISE_CONV_2D", (source, weights, bias), op.id, options))
        edit.done()
    return edit.finish()


def _whole(edit: Rewriter, op: TfOp) -> bool:
    """Whether every window lies within the picture."""
    if op.options.get("padding", 0) == 1:
        return True
    before, after = edit.shape(str(op.inputs[0])), edit.shape(op.id)
    return all(
        (after[axis] - 1) * cast(int, op.options[f"stride{side}"]) + cast(int, op.options[f"filter{name}"]) <= before[axis]
        for axis, side, name in ((1, "H", "Height"), (2, "W", "Width"))
    )
