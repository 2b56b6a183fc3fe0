"""A clamp that alone reads an operator which can clamp its own output becomes that operator's fused activation."""

from __future__ import annotations

from dataclasses import replace

from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]

_CLAMPS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # to ActivationFunctionType
_TAKERS = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DIV",
    "FULLY_CONNECTED",
    "MAX_POOL_2D",
    "MUL",
    "SUB",
    "TRANSPOSE_CONV",
}


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """RELU, RELU6 and RELU_N1_TO_1 behind convolutions, products, pools and arithmetic."""
    edit = Rewriter(graph)
    for op in graph.ops:
        if op.kind not in _CLAMPS:
            continue
        source = str(op.inputs[0])
        producer = edit.producer(source)
        if producer is None or producer.kind not in _TAKERS or edit.only_reader(source) is not op:
            continue
        if producer.options.get("fusedActivationFunction", 0) or edit.before.tensors[source].dtype != "float32":
            continue
        options = {**producer.options, "fusedActivationFunction": _CLAMPS[op.kind]}
        edit.replace(producer, replace(producer, outputs=op.outputs, options=options))
        edit.replace(op)
        edit.done()
    return edit.finish()
