"""Multiply-adds of a TFLite graph, and the share of them that runs in integer arithmetic."""

from __future__ import annotations

from math import prod

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.support import RULES

__all__ = ["int8_share", "macs", "operator_domains"]

_INTEGER = frozenset({"int8", "int16", "uint8"})


def macs(op: TfOp, graph: TfGraph) -> int:
    """Multiply-adds of one operator; 0 for everything that is no convolution or matrix product."""
    shapes = {name: graph.tensors[name].shape for name in (*op.inputs, *op.outputs) if name is not None}
    out = prod(shapes[op.outputs[0]])
    match op.kind:
        case "CONV_2D":
            return out * prod(shapes[str(op.inputs[1])][1:])
        case "DEPTHWISE_CONV_2D":
            return out * prod(shapes[str(op.inputs[1])][1:3])
        case "FULLY_CONNECTED":
            return out * shapes[str(op.inputs[1])][-1]
        case "TRANSPOSE_CONV":
            return prod(shapes[str(op.inputs[2])]) * prod(shapes[str(op.inputs[1])][:3])
        case "BATCH_MATMUL":
            left = shapes[str(op.inputs[0])]
            return out * (left[-2] if op.options.get("adjX") else left[-1])
        case _:
            return 0


def _integer(op: TfOp, graph: TfGraph) -> bool:
    """Whether an operator computes with integers; conversions and shape arithmetic do not count."""
    rule = RULES.get(op.kind)
    if rule is None:
        return False
    return any(graph.tensors[str(op.inputs[i])].dtype in _INTEGER for i in rule.operands(op))


def int8_share(graph: TfGraph) -> float:
    """Multiply-adds on integer operands over all multiply-adds, 0..1; 0 for a graph without any."""
    total = sum(macs(op, graph) for op in graph.ops)
    integer = sum(macs(op, graph) for op in graph.ops if _integer(op, graph))
    return integer / total if total else 0.0


def operator_domains(graph: TfGraph) -> dict[str, dict[str, int]]:
    """Operators counted by domain (``integer``, ``float``, ``conversion``, ``other``) and kind.

    ``conversion`` is QUANTIZE and DEQUANTIZE; ``other`` handles neither floats nor quantized values (shapes, indices).
    """
    counts: dict[str, dict[str, int]] = {"integer": {}, "float": {}, "conversion": {}, "other": {}}
    for op in graph.ops:
        names = [name for name in (*op.inputs, *op.outputs) if name is not None]
        if op.kind in {"QUANTIZE", "DEQUANTIZE"}:
            domain = "conversion"
        elif _integer(op, graph):
            domain = "integer"
        else:
            domain = "float" if any(graph.tensors[name].dtype == "float32" for name in names) else "other"
        counts[domain][op.kind] = counts[domain].get(op.kind, 0) + 1
    return counts
