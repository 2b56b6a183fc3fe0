"""A scale and shift per channel that no neighbour can take becomes one depthwise 1x1 convolution.

As MUL and ADD it has one int8 scale for the constants of all channels, which a batch norm whose gains reach from 0 to above 1
does not survive. The convolution's weights have a scale each, and its bias is int32. Up to 8 channels a dense 1x1 convolution
with a diagonal matrix does the same in less time: a depthwise kernel fills its vectors with channels.
"""

from __future__ import annotations

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import POINTWISE, Float64, Rewriter, channel_vector

__all__ = ["channelwise", "run"]

_DENSE = 8  # channels


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """MUL by a constant per channel, and the ADD or SUB of one that alone reads it; 4-dimensional tensors only."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind != "MUL" or len(edit.shape(op.id)) != 4 or not edit.untouched(op):
            continue
        found = _operands(edit, op)
        if found is None:
            continue
        source, gain = found
        shift, last = np.zeros_like(gain), op
        reader = edit.only_reader(op.id)
        if reader is not None and reader.kind in {"ADD", "SUB"} and not op.options.get("fusedActivationFunction", 0):
            added = _operands(edit, reader)
            if added is not None and (reader.kind == "ADD" or reader.inputs[0] == op.id):
                shift, last = added[1] if reader.kind == "ADD" else -added[1], reader
        fused = int(np.asarray(last.options.get("fusedActivationFunction", 0)))
        edit.replace(last, channelwise(edit, source, gain, shift, last.id, activation=fused))
        if last is not op:
            edit.replace(op)
        edit.done()
    return edit.finish()


def channelwise(edit: Rewriter, source: str, gain: Float64, shift: Float64, output: str, *, activation: int = 0) -> TfOp:
    """``gain * source + shift`` per channel as one 1x1 convolution that writes ``output``; place it with ``edit.replace``.

    ``gain``, ``shift``: (C,). ``activation``: the schema's number of a fused activation.
    """
    bias = edit.constant(f"{output}_shift", shift)
    options = {**POINTWISE, "fusedActivationFunction": activation}
    if gain.size <= _DENSE:
        weights = edit.constant(f"{output}_gain", np.diag(gain).reshape(gain.size, 1, 1, gain.size))
        return edit.op("CONV_2D", (source, weights, bias), output, options)
    weights = edit.constant(f"{output}_gain", gain.reshape(1, 1, 1, -1))
    return edit.op("DEPTHWISE_CONV_2D", (source, weights, bias), output, {**options, "depthMultiplier": 1})


def _operands(edit: Rewriter, op: TfOp) -> tuple[str, Float64] | None:
    """The activation and the constant of an elementwise operator."""
    shape = edit.shape(op.id)
    for source, other in ((op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])):
        vector = channel_vector(edit.data(other), shape)
        if vector is not None and source is not None and edit.data(source) is None and edit.shape(source) == shape:
            return source, vector
    return None
