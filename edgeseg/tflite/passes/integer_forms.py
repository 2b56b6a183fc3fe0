"""Float-only arithmetic by operators that have integer kernels: SQUARE, NEG and division by a constant become MUL."""

from __future__ import annotations

import numpy as np

from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """All of them; a divisor must hold no zero."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if edit.before.tensors[op.id].dtype != "float32":
            continue
        source = str(op.inputs[0])
        other = source
        if op.kind == "NEG":
            other = edit.constant(f"{op.id}_minus", np.full(1, -1.0))
        elif op.kind == "DIV":
            divisor = edit.data(op.inputs[1])
            if divisor is None or not divisor.all():
                continue
            other = edit.constant(f"{op.id}_factor", 1.0 / divisor.astype(np.float64))
        elif op.kind != "SQUARE":
            continue
        fused = {"fusedActivationFunction": op.options.get("fusedActivationFunction", 0)}
        edit.replace(op, edit.op("MUL", (source, other), op.id, fused))
        edit.done()
    return edit.finish()
