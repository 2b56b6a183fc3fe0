"""HARD_SWISH from operators that have int8 kernels in the delegate: ``x * relu6(x + 3) / 6``.

The division is left as a MUL by a constant behind, for ``fold_affine`` to put into whatever linear operator follows.
"""

from __future__ import annotations

import numpy as np

from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]

_RELU6 = 3


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """All of them."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind != "HARD_SWISH":
            continue
        source, shape = str(op.inputs[0]), edit.shape(op.id)
        gate, gated = edit.tensor(f"{op.id}_gate", shape), edit.tensor(f"{op.id}_gated", shape)
        three, sixth = edit.constant(f"{op.id}_three", np.full(1, 3.0)), edit.constant(f"{op.id}_sixth", np.full(1, 1 / 6))
        edit.replace(
            op,
            edit.op("ADD", (source, three), gate, {"fusedActivationFunction": _RELU6}),
            edit.op("MUL", (source, gate), gated),
            edit.op("MUL", (gated, sixth), op.id),
        )
        edit.done()
    return edit.finish()
