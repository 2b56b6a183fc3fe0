"""Recognises activation functions that an exporter has written out, by their values.

Exporters write GELU, HardSwish, Mish and others as chains of elementwise operators with scalar constants, in many orders. A
chain that starts and ends in one tensor is a function of one real variable: it is evaluated on a grid and compared with the
functions that have an operator. No form needs a pattern of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeseg.lower.source import AttrValue, Node, Source

__all__ = ["recognise"]

Values = npt.NDArray[np.float64]

_FAR = 600.0
"""The grid ends here: exp does not overflow, and every bound of a known function lies far inside."""

_GRID: Values = np.concatenate([np.linspace(-12, 12, 961), *(sign * np.geomspace(12, _FAR, 40) for sign in (-1.0, 1.0))])
_TOLERANCE = 2e-6
"""Relative to 1 + abs(value): what constants rounded to single precision leave. GELU and its tanh form differ by 5e-4."""

_LARGEST_CHAIN = 16

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _softplus(x: Values) -> Values:
    return np.logaddexp(x, 0.0)


_ONE: dict[str, Callable[[Values], Values]] = {
    "Abs": np.abs,
    "Erf": _erf,
    "Exp": np.exp,
    "Log": np.log,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "Softplus": _softplus,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}
_TWO: dict[str, Callable[[Values, Values], Values]] = {
    "Add": np.add,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Pow": np.power,
    "Sub": np.subtract,
}


def _tanh_gelu(x: Values) -> Values:
    values: Values = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return values


_KNOWN: tuple[tuple[str, dict[str, AttrValue], Values], ...] = (
    ("Gelu", {"approximate": "none"}, 0.5 * _GRID * (1 + _erf(_GRID / math.sqrt(2)))),
    ("Gelu", {"approximate": "tanh"}, _tanh_gelu(_GRID)),
    ("HardSwish", {}, _GRID * np.clip(_GRID + 3, 0, 6) / 6),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, np.clip(_GRID + 3, 0, 6) / 6),
    ("Mish", {}, _GRID * np.tanh(_softplus(_GRID))),
    ("Softplus", {}, _softplus(_GRID)),
    ("Sigmoid", {}, _ONE["Sigmoid"](_GRID)),
)


def recognise(source: Source) -> None:
    """Replaces chains that equal a known function by one node. Operators inside that are read elsewhere too stay."""
    consumers = source.consumers()
    done: set[str] = set()
    starts = dict.fromkeys((*source.inputs, *(name for node in source.nodes for name in node.outputs if name)))
    for start in starts:
        if start in done or source.dtypes.get(start) != "float32":
            continue
        chain = _chain(source, consumers, start)
        for node, values in reversed(chain):
            if node.outputs[0] in done or sum(1 for _ in chain) < 2:
                continue
            match = _match(values)
            if match is not None and node is not chain[0][0]:
                op, attrs = match
                source.nodes[source.nodes.index(node)] = Node(op, node.name, (start,), node.outputs, attrs)
                done.update(other.outputs[0] for other, _ in chain if other is not node)
                break


def _match(values: Values) -> tuple[str, dict[str, AttrValue]] | None:
    for op, attrs, known in _KNOWN:
        if np.all(np.abs(values - known) <= _TOLERANCE * (1 + np.abs(known))):
            return op, attrs
    return None


def _chain(source: Source, consumers: dict[str, list[Node]], start: str) -> list[tuple[Node, Values]]:
    """Nodes that compute a function of ``start`` and scalar constants alone, in graph order, with their values on the grid."""
    held: dict[str, Values] = {start: _GRID}
    found: list[tuple[Node, Values]] = []
    frontier = list(consumers.get(start, []))
    with np.errstate(all="ignore"):
        while frontier and len(found) < _LARGEST_CHAIN:
            node = frontier.pop(0)
            if node.outputs[0] in held or source.shapes[node.outputs[0]] != source.shapes[start]:
                continue
            values = _evaluate(source, node, held)
            if values is not None:
                held[node.outputs[0]] = values
                found.append((node, values))
                frontier.extend(consumers.get(node.outputs[0], []))
    return found


def _evaluate(source: Source, node: Node, held: dict[str, Values]) -> Values | None:
    operands: list[Values] = []
    for name in filter(None, node.inputs):
        scalar = source.scalar(name)
        if name in held:
            operands.append(held[name])
        elif scalar is not None and abs(scalar) < _FAR:
            operands.append(np.full_like(_GRID, scalar))
        else:
            return None
    if node.op in _ONE and len(operands) == 1:
        return _ONE[node.op](operands[0])
    if node.op in _TWO and len(operands) == 2:
        return _TWO[node.op](operands[0], operands[1])
    if node.op == "Clip":
        return _clip(node, operands)
    return None


def _clip(node: Node, operands: list[Values]) -> Values | None:
    if "min" in node.attrs or "max" in node.attrs:
        low, high = node.real("min", -math.inf), node.real("max", math.inf)
        return None if max(abs(low), abs(high)) > _FAR else np.clip(operands[0], low, high)
    values = operands.pop(0)
    if node.input(1):
        values = np.maximum(values, operands.pop(0))
    return np.minimum(values, operands.pop(0)) if node.input(2) else values
