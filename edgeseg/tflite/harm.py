"""What each source of int8 noise costs at the network's output, one source at a time in an otherwise float network.

There are two kinds of source: a tensor that is held in int8 (whoever reads or writes it), and the weights of an operator.
Errors of different sources are nearly independent, so their powers at the output add: the measured powers of the sources
of any mixed graph give an estimate of its noise without running it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgeseg.quantize.plan import TensorQuant
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.graph import Quant, TfGraph, TfOp
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.support import RULES
from edgeseg.tflite.weights import quantize_linear

__all__ = ["Harm", "measure_tensor_harm", "measure_weight_harm", "with_int8_tensor", "with_int8_weights"]


@dataclass(frozen=True)
class Harm:
    """Noise power over signal power at the output: by tensor, and by operator for its weights."""

    tensors: Mapping[str, float]
    weights: Mapping[str, float]


def with_int8_tensor(graph: TfGraph, names: Iterable[str], quant: TensorQuant) -> TfGraph:
    """The float graph with tensors rounded to int8 and back, for every reader."""
    changed = graph.copy()
    build = GraphBuilder(changed)
    form = Quant(quant.scale, quant.zero_point)
    rounded: dict[str, str] = {}
    ops, changed.ops = changed.ops, []

    def insert(name: str) -> None:
        shape = graph.tensors[name].shape
        held = build.op("QUANTIZE", (name,), shape, name=f"{name}/held", dtype="int8", quant=form)
        rounded[name] = build.op("DEQUANTIZE", (held,), shape, name=f"{name}/rounded")

    wanted = set(names)
    for name in graph.inputs:
        if name in wanted:
            insert(name)
    for op in ops:
        changed.ops.append(replace(op, inputs=tuple(rounded.get(name, name) if name else None for name in op.inputs)))
        for name in op.outputs:
            if name in wanted:
                insert(name)
    changed.outputs = tuple(rounded.get(name, name) for name in graph.outputs)
    return changed


def with_int8_weights(graph: TfGraph, op: TfOp) -> TfGraph:
    """The float graph with one operator's weights rounded as int8 rounds them."""
    rule = RULES[op.kind]
    assert rule.weight is not None
    name = str(op.inputs[rule.weight])
    data = graph.tensors[name].data
    assert data is not None
    # An output scale this small never makes the kernel's rescaling factor the limit: the weights' own rounding alone counts.
    made = quantize_linear(data, rule.axis, None, input_scale=1.0, output_scale=1e-6)
    shape = [1] * data.ndim
    shape[rule.axis] = -1
    scale = np.asarray(made.quant.scale, np.float32)
    rounded = made.weights.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale)
    changed = graph.copy()
    fresh = GraphBuilder(changed).constant(f"{name}/rounded", rounded.astype(np.float32))
    place = changed.ops.index(op)
    inputs = tuple(fresh if i == rule.weight else operand for i, operand in enumerate(op.inputs))
    changed.ops[place] = replace(op, inputs=inputs)
    return changed


def measure_tensor_harm(
    graph: TfGraph,
    quants: Mapping[str, TensorQuant],
    judge: Judge,
    *,
    count: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Noise of holding each tensor in int8. Tensors that share one quantization by an operator that only moves values are
    measured once, at the first of them; the others follow it and add nothing.

    ``stop`` is asked before each measurement; tensors not reached get the mean of those measured, so that a search that ran
    out of time treats them alike.
    """
    found: dict[str, float] = {}
    followers = _followers(graph, quants)
    for name in quants:
        if name in followers:
            found[name] = 0.0
        elif not stop():
            found[name] = judge.score(with_int8_tensor(graph, [name], quants[name]), count=count).noise
    return _completed(found, quants)


def measure_weight_harm(
    graph: TfGraph, ops: Iterable[TfOp], judge: Judge, *, count: int, stop: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Noise of the weights of each of ``ops`` in int8; as ``measure_tensor_harm`` where time runs out."""
    candidates = {op.id: op for op in ops if _has_weights(op, graph)}
    found = {
        name: judge.score(with_int8_weights(graph, op), count=count).noise for name, op in candidates.items() if not stop()
    }
    return _completed(found, candidates)


def _has_weights(op: TfOp, graph: TfGraph) -> bool:
    rule = RULES.get(op.kind)
    return rule is not None and rule.weight is not None and graph.is_constant(str(op.inputs[rule.weight]))


def _followers(graph: TfGraph, quants: Mapping[str, TensorQuant]) -> frozenset[str]:
    """Outputs of operators that move values of one tensor, and keep its scale."""
    found = set()
    for op in graph.ops:
        rule = RULES.get(op.kind)
        if rule is None or rule.scales.value != "same" or rule.mixes:
            continue
        sources = [str(op.inputs[i]) for i in rule.operands(op)]
        if len(sources) == 1 and sources[0] in quants:
            found |= {name for name in op.outputs if quants.get(name) == quants[sources[0]]}
    return frozenset(found)


def _completed(found: dict[str, float], wanted: Iterable[str]) -> dict[str, float]:
    finite = [value for value in found.values() if math.isfinite(value)]
    typical = float(np.mean(finite)) if finite else 1.0
    return {name: found.get(name, typical) for name in wanted}
