"""Data movement that cancels or has a cheaper form.

TRANSPOSE of a TRANSPOSE is one or none; a TRANSPOSE that only moves axes of length 1, a SQUEEZE and an EXPAND_DIMS are a
RESHAPE, which the delegate takes; a RESHAPE of a RESHAPE is one; what leads back to the same shape is none.
"""

from __future__ import annotations

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Simplify until nothing changes."""
    total = 0
    while True:
        graph, count = _once(graph)
        if not count:
            return graph, total
        total += count


def _once(graph: TfGraph) -> tuple[TfGraph, int]:
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind == "TRANSPOSE":
            _transpose(edit, op)
        elif op.kind in {"SQUEEZE", "EXPAND_DIMS"}:
            _reshape(edit, op, str(op.inputs[0]))
        elif op.kind == "RESHAPE":
            _merge(edit, op)
    return edit.finish()


def _transpose(edit: Rewriter, op: TfOp) -> None:
    order = _order(edit, op)
    if order is None:
        return
    source = str(op.inputs[0])
    before = edit.producer(source)
    earlier = _order(edit, before) if before is not None and before.kind == "TRANSPOSE" else None
    shape = edit.shape(source)
    if before is not None and earlier is not None and edit.untouched(before):
        whole = tuple(earlier[axis] for axis in order)
        origin = str(before.inputs[0])
        if whole == tuple(range(len(whole))):
            _bypass(edit, op, origin)
        else:
            edit.replace(op, edit.op("TRANSPOSE", (origin, edit.constant(f"{op.id}_order", whole, "int32")), op.id))
            edit.done()
    elif [axis for axis in order if shape[axis] > 1] == sorted(axis for axis in order if shape[axis] > 1):
        _reshape(edit, op, source)


def _order(edit: Rewriter, op: TfOp) -> tuple[int, ...] | None:
    data = edit.data(op.inputs[1])
    return None if data is None else tuple(int(axis) for axis in data.reshape(-1))


def _merge(edit: Rewriter, op: TfOp) -> None:
    source = str(op.inputs[0])
    before = edit.producer(source)
    if edit.shape(source) == edit.shape(op.id):
        _bypass(edit, op, source)
    elif before is not None and before.kind == "RESHAPE" and edit.untouched(before):
        _reshape(edit, op, str(before.inputs[0]))


def _reshape(edit: Rewriter, op: TfOp, source: str) -> None:
    shape = edit.shape(op.id)
    target = edit.constant(f"{op.id}_shape", shape, "int32")
    edit.replace(op, edit.op("RESHAPE", (source, target), op.id, {"newShape": shape}))
    edit.done()


def _bypass(edit: Rewriter, op: TfOp, source: str) -> None:
    """Let the readers of ``op`` read ``source``; an output of the graph keeps its operator."""
    readers = edit.readers(op.id)
    if op.id in edit.before.outputs or not edit.untouched(op, *readers):
        return
    for reader in readers:
        edit.replace(reader, reader.with_inputs(*(source if name == op.id else name for name in reader.inputs)))
    edit.replace(op)
    edit.done()
