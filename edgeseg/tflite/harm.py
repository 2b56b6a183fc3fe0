"""What each source of int8 noise costs at the network's output, one source at a time in an otherwise float network.

There are two kinds of source: a tensor that is held in int8 (whoever reads or writes it), and the weights of an operator.
Errors of different sources are nearly independent, so their powers at the output add: the measured powers of the sources
of any mixed graph give an estimate of its noise without running it.

A source is measured by what ``edgeseg.tflite.downstream`` runs behind it. A tensor's quantizations are all asked about in
one go, since loading that part of the graph costs more than running it; the answers are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeseg.quantize.journal import SearchJournal, tensor_key
from edgeseg.quantize.plan import TensorQuant
from edgeseg.session import Float32
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.downstream import Downstream, Tail, rounded
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.support import RULES
from edgeseg.tflite.weights import Rounding, quantize_linear

__all__ = ["Harm", "HarmMeter", "completed"]


@dataclass(frozen=True)
class Harm:
    """Noise power over signal power at the output: by tensor, and by operator for its weights."""

    tensors: Mapping[str, float]
    weights: Mapping[str, float]


class HarmMeter:
    """Measures sources of noise on a few images, and remembers what it measured.

    Args:
        downstream: of the float graph.
        journal: what was measured before on the same images.
    """

    def __init__(self, downstream: Downstream, journal: SearchJournal | None = None) -> None:
        self._graph = downstream.graph
        self._downstream = downstream
        self._producers = self._graph.producers()
        self._journal = journal or SearchJournal()
        self._weights: dict[str, float] = {}

    def measure(self, name: str, quants: Sequence[TensorQuant], *, weights: bool = False) -> list[float]:
        """The noise of holding a tensor in int8, for each quantization; with ``weights``, that of its producer's weights is
        measured on the way (``weights_of`` gives it)."""
        keys = {quant: tensor_key(name, quant) for quant in quants}
        fresh = [quant for quant, key in keys.items() if self._journal.get(key) is None]
        op = self._producers.get(name)
        weighs = weights and op is not None and self.has_weights(op) and self._recall(op) is None
        if fresh or weighs:
            with self._downstream.tail(name) as tail:
                for quant in fresh:
                    self._journal.once(keys[quant], lambda q=quant: (tail.noise(lambda _, values: rounded(values, q)),))  # type: ignore[misc]
                if weighs:
                    assert op is not None
                    self._weigh(op, tail)
        return [found[0] for quant in quants if (found := self._journal.get(keys[quant])) is not None]

    def weights_of(self, op: TfOp) -> float:
        """The noise of an operator's weights in int8."""
        known = self._recall(op)
        if known is not None:
            return known
        with self._downstream.tail(op.id) as tail:
            return self._weigh(op, tail)

    def known_weights(self) -> dict[str, float]:
        """What was measured of operators' weights so far."""
        return dict(self._weights)

    def _recall(self, op: TfOp) -> float | None:
        found = self._journal.get(tensor_key(op.id, None))
        if found is not None:
            self._weights[op.id] = found[0]
        return self._weights.get(op.id)

    def _weigh(self, op: TfOp, tail: Tail) -> float:
        (noise,) = self._journal.once(tensor_key(op.id, None), lambda: (self._weight_noise(op, tail),))
        self._weights[op.id] = noise
        return noise

    def has_weights(self, op: TfOp) -> bool:
        """Whether an operator has weights that int8 rounds."""
        rule = RULES.get(op.kind)
        return rule is not None and rule.weight is not None and self._graph.is_constant(str(op.inputs[rule.weight]))

    def followers(self, quants: Mapping[str, TensorQuant]) -> frozenset[str]:
        """Outputs of operators that only move values of one tensor and keep its scale: they add no noise to it."""
        found = set()
        for op in self._graph.ops:
            rule = RULES.get(op.kind)
            if rule is None or rule.scales.value != "same" or rule.mixes:
                continue
            sources = [str(op.inputs[i]) for i in rule.operands(op)]
            if len(sources) == 1 and sources[0] in quants:
                found |= {name for name in op.outputs if quants.get(name) == quants[sources[0]]}
        return frozenset(found)

    def _weight_noise(self, op: TfOp, tail: Tail) -> float:
        changed, graph = _with_int8_weights(self._graph, op)
        outputs = self._downstream.run_alone(changed, graph)
        return tail.noise(lambda index, _: outputs[index])


def completed(found: Mapping[str, float], wanted: Iterable[str]) -> dict[str, float]:
    """Every wanted source; those not measured (time ran out) count as the mean of those that were."""
    finite = [value for value in found.values() if math.isfinite(value)]
    typical = float(np.mean(finite)) if finite else 1.0
    return {name: found.get(name, typical) for name in wanted}


def _with_int8_weights(graph: TfGraph, op: TfOp) -> tuple[TfOp, TfGraph]:
    """One operator with its weights rounded as int8 rounds them, and the graph that holds those."""
    rule = RULES[op.kind]
    assert rule.weight is not None
    name = str(op.inputs[rule.weight])
    data = graph.tensors[name].data
    assert data is not None
    # No output scale, so that the kernel's rescaling factor is no limit: the weights' own rounding alone counts.
    made = quantize_linear(data, rule.axis, None, input_scale=1.0, output_scale=None, rounding=Rounding.BALANCED)
    shape = [1] * data.ndim
    shape[rule.axis] = -1
    scale = np.asarray(made.quant.scale, np.float32)
    values: Float32 = made.weights.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale)
    changed = graph.copy()
    fresh = GraphBuilder(changed).constant(f"{name}/rounded", values)
    return replace(op, inputs=tuple(fresh if i == rule.weight else one for i, one in enumerate(op.inputs))), changed
