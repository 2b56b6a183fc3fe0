"""What the operators of one graph cost, whoever says so: measured here (``probe``) or stored for another processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeseg.quantize.plan import Domain
from edgeseg.tflite.graph import TfGraph, TfOp, TfTensor

__all__ = ["CostTable", "OpCost", "cost_table", "fused_pads", "mean_table"]


@dataclass(frozen=True)
class OpCost:
    """Microseconds; infinite where the operator cannot run in that domain."""

    float_us: float
    int8_us: float


@dataclass(frozen=True)
class CostTable:
    """Costs of one graph. ``quantize_us``/``dequantize_us``: of converting a float tensor to int8 and back, by its name."""

    ops: Mapping[str, OpCost]
    quantize_us: Mapping[str, float]
    dequantize_us: Mapping[str, float]


def cost_table(
    graph: TfGraph,
    operator: Callable[[list[TfOp], Domain], float],
    conversion: Callable[[TfTensor, str], float],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> CostTable:
    """Ask for the costs of every operator and conversion of a float graph.

    Args:
        graph: float.
        operator: microseconds of neighbours that run as one, in a domain.
        conversion: microseconds of ``QUANTIZE`` or ``DEQUANTIZE`` of a tensor.
        progress: called with operators done and in all.
    """
    pads = fused_pads(graph)
    absorbed = {pad.id for pad in pads.values()}
    ops: dict[str, OpCost] = {}
    for index, op in enumerate(graph.ops):
        chain = [pads[op.id], op] if op.id in pads else [op]
        ops[op.id] = (
            OpCost(0.0, 0.0) if op.id in absorbed else OpCost(operator(chain, Domain.FLOAT), operator(chain, Domain.INT8))
        )
        progress(index + 1, len(graph.ops))
    held = {name: tensor for name, tensor in graph.tensors.items() if tensor.data is None and tensor.dtype == "float32"}
    quantize, dequantize = ({name: conversion(tensor, kind) for name, tensor in held.items()} for kind in _CONVERSIONS)
    for pad in pads.values():
        # A conversion parts it from its convolution: it then runs by itself, which took longer than many a convolution.
        quantize[pad.id] += operator([pad], Domain.FLOAT)
        dequantize[pad.id] += operator([pad], Domain.INT8)
    return CostTable(ops, quantize, dequantize)


_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


def mean_table(tables: Sequence[CostTable], weights: Sequence[float]) -> CostTable:
    """The weighted sum of several tables of one graph.

    >>> one = CostTable({"a": OpCost(4.0, 2.0)}, {"x": 1.0}, {"x": 1.0})
    >>> mean_table((one, one), (0.5, 1.0)).ops["a"]
    OpCost(float_us=6.0, int8_us=3.0)
    """

    def mean(costs: Sequence[float]) -> float:
        return sum(weight * each for weight, each in zip(weights, costs, strict=True))

    return CostTable(
        {
            name: OpCost(mean([t.ops[name].float_us for t in tables]), mean([t.ops[name].int8_us for t in tables]))
            for name in tables[0].ops
        },
        {name: mean([t.quantize_us[name] for t in tables]) for name in tables[0].quantize_us},
        {name: mean([t.dequantize_us[name] for t in tables]) for name in tables[0].dequantize_us},
    )


def fused_pads(graph: TfGraph) -> dict[str, TfOp]:
    """For each convolution that is the only reader of a PAD: that PAD. The delegate runs the two as one, so they are timed as
    one, under the convolution's name."""
    producers, consumers = graph.producers(), graph.consumers()
    found = {}
    for op in graph.ops:
        pad = producers.get(op.inputs[0] or "")
        if (
            op.kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}
            and pad is not None
            and pad.kind == "PAD"
            and len(consumers[pad.id]) == 1
            and pad.id not in graph.outputs
        ):
            found[op.id] = pad
    return found
