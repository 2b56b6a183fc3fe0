"""CONCATENATION of many tensors and SPLIT into many become several of a width the delegate takes (5 inputs, 4 outputs)."""

from __future__ import annotations

from typing import cast

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]

_INPUTS = 5
_OUTPUTS = 4


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Wide joins as a tree of joins; wide splits as one SLICE for each part that is read."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind == "CONCATENATION" and len(op.inputs) > _INPUTS:
            _tree(edit, op)
        elif op.kind == "SPLIT" and len(op.outputs) > _OUTPUTS and edit.data(op.inputs[0]) is not None:
            _slices(edit, op)
    return edit.finish()


def _tree(edit: Rewriter, op: TfOp) -> None:
    axis = cast(int, op.options.get("axis", 0)) % len(edit.shape(op.id))
    parts, made = [str(name) for name in op.inputs], list[TfOp]()
    options = {"axis": axis}
    while len(parts) > _INPUTS:
        joined: list[str] = []
        for start in range(0, len(parts), _INPUTS):
            group = parts[start : start + _INPUTS]
            if len(group) == 1:
                joined += group
                continue
            shape = list(edit.shape(group[0]))
            shape[axis] = sum(edit.shape(name)[axis] for name in group)
            name = edit.tensor(f"{op.id}_part", shape)
            made.append(edit.op("CONCATENATION", group, name, options))
            joined.append(name)
        parts = joined
    edit.replace(op, *made, edit.op("CONCATENATION", parts, op.id, op.options))
    edit.done()


def _slices(edit: Rewriter, op: TfOp) -> None:
    source = str(op.inputs[1])
    given = edit.data(op.inputs[0])
    assert given is not None
    axis = int(np.asarray(given).reshape(-1)[0]) % len(edit.shape(source))
    made = []
    for index, name in enumerate(op.outputs):
        size = edit.shape(name)
        begin = [0] * len(size)
        begin[axis] = index * size[axis]
        bounds = (edit.constant(f"{name}_begin", begin, "int32"), edit.constant(f"{name}_size", size, "int32"))
        made.append(edit.op("SLICE", (source, *bounds), name))
    edit.replace(op, *made)
    edit.done()
