"""Stored operator costs of processors other than the machine at hand.

A table holds, for each class of operators and each domain, microseconds as ``base + mac * multiply-adds + byte * bytes``:
multiply-adds with the output channels filled up to whole vectors, bytes of all activations and weights that the operator
reads and writes in that domain. A class is an operator kind with what its kernel distinguishes (``cost_class``). What the
delegate does not take in int8 is not for a table to say: ``edgeseg.tflite.probe.cuts_delegate`` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from math import prod

import msgspec

from edgeseg.quantize.plan import Domain
from edgeseg.spec import TuneFor
from edgeseg.tflite.cost import macs
from edgeseg.tflite.cost_table import CostTable, cost_table
from edgeseg.tflite.graph import TfGraph, TfOp, TfTensor
from edgeseg.tflite.probe import cuts_delegate
from edgeseg.tflite.support import RULES, supported

__all__ = ["ClassCost", "StoredCosts", "cost_class", "features", "stored_costs"]

_ANY = "any"
_LANES = 16  # output channels that one vector of accumulators holds: 16 with AVX-512, 4 registers of 4 with NEON
_ARITHMETIC = frozenset({"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"})
_SIZES = {Domain.FLOAT: 4, Domain.INT8: 1}


class ClassCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Microseconds: ``base + mac * (padded multiply-adds / 1000) + byte * (bytes / 1000)``."""

    base: float
    mac: float
    byte: float

    def us(self, padded_macs: float, traffic: float) -> float:
        return self.base + self.mac * padded_macs / 1e3 + self.byte * traffic / 1e3


class StoredCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One processor's table, as its file holds it.

    Attributes:
        source: where the figures are from: machine and method, or publications.
        measured: whether they were measured on such a processor by this project.
        classes: class of operators to its costs by domain; ``any`` for those that are not named.
        quantize, dequantize: of one float tensor to int8 and back.
    """

    name: str
    source: tuple[str, ...]
    measured: bool
    classes: Mapping[str, Mapping[str, ClassCost]]
    quantize: ClassCost
    dequantize: ClassCost
    schema: int = 1

    def __call__(self, graph: TfGraph) -> CostTable:
        """The costs of a float graph's operators, as ``edgeseg.tflite.probe.probe`` measures them."""

        def conversion(tensor: TfTensor, kind: str) -> float:
            return (self.quantize if kind == "QUANTIZE" else self.dequantize).us(0.0, 5.0 * prod(tensor.shape))

        return cost_table(graph, lambda chain, domain: self.us(chain[-1], graph, domain), conversion)

    def us(self, op: TfOp, graph: TfGraph, domain: Domain) -> float:
        """Microseconds of one operator; infinite where it cannot run in the domain without cutting the delegate."""
        if not supported(op, graph, domain) or cuts_delegate(op, graph, domain):
            return math.inf
        costs = self.classes.get(cost_class(op, graph)) or self.classes[_ANY]
        entry = costs.get(domain.value) or self.classes[_ANY][domain.value]
        return max(entry.us(*features(op, graph, domain)), 0.1)


def cost_class(op: TfOp, graph: TfGraph) -> str:
    """The class of operators that ``op`` is of: its kind, for convolutions with what their kernel is like, for arithmetic with
    whether one operand is spread over the other.

    >>> cost_class(TfOp("TANH", ("a",), ("b",)), TfGraph({}, [], (), ()))
    'TANH'
    """
    if op.kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}:
        window = graph.tensors[str(op.inputs[1])].shape[1:3]
        return f"{op.kind} {'1x1' if window == (1, 1) else 'window'}"
    if op.kind in _ARITHMETIC:
        shapes = {graph.tensors[name].shape for name in op.inputs if name is not None}
        return f"{op.kind} {'alike' if len(shapes) == 1 else 'spread'}"
    return op.kind


def features(op: TfOp, graph: TfGraph, domain: Domain) -> tuple[float, float]:
    """Multiply-adds with output channels filled up to whole vectors, and bytes read and written in ``domain``."""
    rule = RULES.get(op.kind)
    size = _SIZES[domain]
    touched = [name for name in (*op.inputs, *op.outputs) if name is not None and graph.tensors[name].dtype == "float32"]
    traffic = float(sum(size * prod(graph.tensors[name].shape) for name in touched))
    work = float(macs(op, graph))
    if work and rule is not None and rule.weight is not None:
        channels = graph.tensors[op.id].shape[-1]
        work *= -(-channels // _LANES) * _LANES / channels
    return work, traffic


@cache
def stored_costs(tune_for: TuneFor) -> StoredCosts:
    """The table that travels with edgeseg for a processor.

    >>> stored_costs(TuneFor.ARM_DOTPROD).measured
    False
    """
    data = resources.files("edgeseg.tflite").joinpath(f"costs/{tune_for.value}.json").read_bytes()
    return msgspec.json.decode(data, type=StoredCosts)
