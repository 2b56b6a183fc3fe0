"""Constant scales and shifts per channel go into the weights and bias of a neighbouring convolution or matrix product.

Behind the linear operator: ``a * (W x + b) + c`` is ``(a W) x + (a b + c)``. Before it: ``W (a x + c)`` is
``(W a) x + (W c)``, the shift only where no padding mixes zeros in. Batch norms that the exporter left, and divisions by
constants, end here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import Float64, Rewriter, channel_vector

__all__ = ["run"]

_OUTPUT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_VALID = 1


@dataclass(frozen=True)
class _Affine:
    """``gain * x + shift`` per channel, and the operand that is x."""

    source: str
    gain: Float64
    shift: Float64


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Fold until nothing more folds."""
    total = 0
    while True:
        graph, count = _once(graph)
        if not count:
            return graph, total
        total += count


def _once(graph: TfGraph) -> tuple[TfGraph, int]:
    edit = Rewriter(graph)
    for op in graph.ops:
        affine = _affine(edit, op)
        if affine is None or not edit.untouched(op):
            continue
        producer = edit.producer(affine.source)
        if producer is not None and _takes_behind(edit, producer, affine) and edit.untouched(producer):
            _fold_behind(edit, producer, op, affine)
            edit.done()
        elif _takes_before(edit, op, affine):
            _fold_before(edit, op, affine)
            edit.done()
    return edit.finish()


def _affine(edit: Rewriter, op: TfOp) -> _Affine | None:
    """Read an elementwise operator with one constant operand as an affine map per channel."""
    if op.kind not in {"MUL", "ADD", "SUB", "DIV"} or len(op.inputs) != 2:
        return None
    first, second = str(op.inputs[0]), str(op.inputs[1])
    shape = edit.shape(op.id)
    right, left = channel_vector(edit.data(second), shape), channel_vector(edit.data(first), shape)
    source, constant = (first, right) if right is not None else (second, left)
    if constant is None or edit.shape(source) != shape or edit.before.tensors[op.id].dtype != "float32":
        return None
    one, nothing = np.ones_like(constant), np.zeros_like(constant)
    match op.kind:
        case "MUL":
            return _Affine(source, constant, nothing)
        case "ADD":
            return _Affine(source, one, constant)
        case "SUB":
            return _Affine(source, one, -constant) if right is not None else _Affine(source, -one, constant)
        case _:
            divides = right is not None and bool((constant != 0).all())
            return _Affine(source, 1.0 / constant, nothing) if divides else None


def _linear(edit: Rewriter, op: TfOp) -> bool:
    """A float convolution or matrix product with constant weights and bias."""
    if op.kind not in _OUTPUT_AXIS or edit.before.tensors[op.id].dtype != "float32":
        return False
    weights = edit.data(op.inputs[1])
    return weights is not None and all(edit.data(name) is not None for name in op.inputs[2:] if name is not None)


def _takes_behind(edit: Rewriter, producer: TfOp, affine: _Affine) -> bool:
    if not _linear(edit, producer) or edit.only_reader(affine.source) is None:
        return False
    return producer.options.get("fusedActivationFunction", 0) == 0


def _fold_behind(edit: Rewriter, producer: TfOp, op: TfOp, affine: _Affine) -> None:
    weights, bias = _terms(edit, producer)
    shape = [1] * weights.ndim
    shape[_OUTPUT_AXIS[producer.kind]] = -1
    folded = _rebuilt(edit, producer, weights * affine.gain.reshape(shape), bias * affine.gain + affine.shift, op.outputs)
    options = {**producer.options, "fusedActivationFunction": op.options.get("fusedActivationFunction", 0)}
    edit.replace(producer, replace(folded, options=options))
    edit.replace(op)


def _takes_before(edit: Rewriter, op: TfOp, affine: _Affine) -> bool:
    """All readers are linear, nothing lies between, and a shift meets no padding."""
    readers = edit.readers(op.id)
    if not readers or op.id in edit.before.outputs or op.options.get("fusedActivationFunction", 0):
        return False
    shifts = bool(affine.shift.any())
    for reader in readers:
        if not _linear(edit, reader) or reader.inputs[0] != op.id or reader.inputs.count(op.id) != 1:
            return False
        if not edit.untouched(reader) or (shifts and not _unpadded(edit, reader)):
            return False
        if reader.kind == "CONV_2D" and edit.shape(str(reader.inputs[1]))[3] != edit.shape(op.id)[3]:
            return False
        if reader.kind == "FULLY_CONNECTED" and edit.shape(str(reader.inputs[1]))[1] != edit.shape(op.id)[-1]:
            return False
    return True


def _unpadded(edit: Rewriter, op: TfOp) -> bool:
    if op.kind == "FULLY_CONNECTED" or op.options.get("padding", 0) == _VALID:
        return True
    return edit.shape(str(op.inputs[1]))[1:3] == (1, 1)


def _fold_before(edit: Rewriter, op: TfOp, affine: _Affine) -> None:
    for reader in edit.readers(op.id):
        weights, bias = _terms(edit, reader)
        if reader.kind == "DEPTHWISE_CONV_2D":
            multiplier = weights.shape[3] // affine.gain.size
            gain, shift = np.repeat(affine.gain, multiplier), np.repeat(affine.shift, multiplier)
            scaled, moved = weights * gain, (weights * shift).sum(axis=(0, 1, 2))
        else:
            scaled = weights * affine.gain
            moved = (weights * affine.shift).reshape(weights.shape[0], -1).sum(axis=1)
        folded = _rebuilt(edit, reader, scaled, bias + moved, reader.outputs)
        edit.replace(reader, folded.with_inputs(affine.source, *folded.inputs[1:]))
    edit.replace(op)


def _terms(edit: Rewriter, op: TfOp) -> tuple[Float64, Float64]:
    weights = edit.data(op.inputs[1])
    assert weights is not None
    given = edit.data(op.inputs[2]) if len(op.inputs) > 2 else None
    channels = weights.shape[_OUTPUT_AXIS[op.kind]]
    bias = np.zeros(channels) if given is None else given.astype(np.float64)
    return weights.astype(np.float64), bias


def _rebuilt(edit: Rewriter, op: TfOp, weights: Float64, bias: Float64, outputs: tuple[str, ...]) -> TfOp:
    names = (edit.constant(f"{op.inputs[1]}_folded", weights), edit.constant(f"{op.id}_bias_folded", bias))
    return replace(op, inputs=(op.inputs[0], *names), outputs=outputs)
