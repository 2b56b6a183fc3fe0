"""Which operators run in int8 and which in float: the cheapest assignment for given costs, found exactly by a minimum cut.

The cost of an assignment is the time of every operator in its domain, the time of every conversion that crossing domains
makes necessary (one per tensor and direction, however many operators share it), and ``weight`` times the harm of every
operator in int8 (its weights) and of every tensor that some int8 operator reads or writes. Every term is submodular, so a
minimum s-t cut gives the global minimum (Kolmogorov and Zabih 2004, What Energy Functions Can Be Minimized via Graph
Cuts?, IEEE PAMI 26(2)).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import missing_extra
from edgeseg.quantize.plan import Domain

__all__ = ["Choice", "Link", "assign", "cost"]

_SCALE = 1000.0  # capacities are integers: nanoseconds for times in microseconds
_NEVER = 2**27


@dataclass(frozen=True)
class Choice:
    """One operator. Times in microseconds; infinite where it cannot run in that domain. ``harm``: in any unit, at least 0."""

    op: str
    float_us: float
    int8_us: float
    harm: float = 0.0


@dataclass(frozen=True)
class Link:
    """One tensor between operators. ``producer`` is an operator's name, or the domain in which the file's input arrives;
    a consumer likewise is an operator's name, or the domain in which the file's output is wanted. ``harm`` is paid once,
    when anything at either end is in int8."""

    producer: str | Domain
    consumers: tuple[str | Domain, ...]
    quantize_us: float
    dequantize_us: float
    harm: float = 0.0


def cost(choices: Sequence[Choice], links: Sequence[Link], int8: frozenset[str], weight: float) -> float:
    """The cost of running exactly the operators ``int8`` in int8."""
    total = 0.0
    for choice in choices:
        total += choice.int8_us + weight * choice.harm if choice.op in int8 else choice.float_us
    for link in links:
        source = _is_int8(link.producer, int8)
        wanted = {_is_int8(consumer, int8) for consumer in link.consumers}
        if source and False in wanted:
            total += link.dequantize_us
        if not source and True in wanted:
            total += link.quantize_us
        if source or True in wanted:
            total += weight * link.harm
    return total


def _is_int8(end: str | Domain, int8: frozenset[str]) -> bool:
    return end is Domain.INT8 if isinstance(end, Domain) else end in int8


def assign(choices: Sequence[Choice], links: Sequence[Link], weight: float = 0.0) -> frozenset[str]:
    """The operators that run in int8 in the cheapest assignment; of equally cheap ones the one with the most float.

    >>> chain = [Choice("a", 10, 4), Choice("b", 3, 5), Choice("c", 10, 4)]
    >>> wires = [Link(Domain.FLOAT, ("a",), 1, 1), Link("a", ("b",), 2, 2), Link("b", ("c",), 2, 2)]
    >>> sorted(assign(chain, wires))
    ['a', 'b', 'c']

    Raises:
        EnvironmentLack: scipy is not installed.
    """
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow
    except ImportError as error:
        raise missing_extra("scipy", "tflite", "to choose which operators run in int8") from error

    network = _Network()
    for choice in choices:
        node = network.node(choice.op)
        network.edge(_SOURCE, node, choice.float_us)
        network.edge(node, _SINK, choice.int8_us + weight * choice.harm)
    for link in links:
        _add_link(network, link, weight)
    size = network.size
    rows, columns, capacities = network.arrays()
    graph = csr_array((capacities, (rows, columns)), shape=(size, size), dtype=np.int32)
    graph.sum_duplicates()
    flow = maximum_flow(graph, _SOURCE, _SINK).flow
    residual = (graph - flow).tocsr()
    reached = _reachable(residual, size)
    return frozenset(choice.op for choice in choices if network.node(choice.op) in reached)


_SOURCE = 0  # the side of int8
_SINK = 1  # the side of float


class _Network:
    def __init__(self) -> None:
        self._nodes: dict[str, int] = {}
        self._extra = 0
        self._edges: list[tuple[int, int, int]] = []

    @property
    def size(self) -> int:
        return 2 + len(self._nodes) + self._extra

    def node(self, name: str) -> int:
        if name not in self._nodes:
            self._nodes[name] = self.size
        return self._nodes[name]

    def extra(self) -> int:
        number = self.size
        self._extra += 1
        return number

    def edge(self, tail: int, head: int, capacity: float) -> None:
        whole = _NEVER if math.isinf(capacity) else min(round(capacity * _SCALE), _NEVER)
        if whole > 0:
            self._edges.append((tail, head, whole))

    def arrays(self) -> tuple[list[int], list[int], list[int]]:
        rows, columns, capacities = zip(*self._edges, strict=True) if self._edges else ((), (), ())
        return list(rows), list(columns), list(capacities)


def _add_link(network: _Network, link: Link, weight: float) -> None:
    def end(which: str | Domain) -> int:
        if isinstance(which, Domain):
            return _SOURCE if which is Domain.INT8 else _SINK
        return network.node(which)

    producer = end(link.producer)
    # One node per direction makes the conversion be paid once: it is cut off from the producer, never from a consumer.
    out, back = network.extra(), network.extra()
    network.edge(producer, out, link.dequantize_us)
    network.edge(back, producer, link.quantize_us)
    held = network.extra()
    network.edge(held, _SINK, weight * link.harm)
    network.edge(producer, held, math.inf)
    for consumer in link.consumers:
        network.edge(end(consumer), held, math.inf)
        network.edge(out, end(consumer), math.inf)
        network.edge(end(consumer), back, math.inf)


def _reachable(residual: object, size: int) -> frozenset[int]:
    indptr, indices, data = residual.indptr, residual.indices, residual.data  # type: ignore[attr-defined]
    seen = np.zeros(size, bool)
    seen[_SOURCE] = True
    queue = deque([_SOURCE])
    while queue:
        node = queue.popleft()
        for place in range(indptr[node], indptr[node + 1]):
            head = indices[place]
            if data[place] > 0 and not seen[head]:
                seen[head] = True
                queue.append(int(head))
    return frozenset(np.flatnonzero(seen).tolist())
