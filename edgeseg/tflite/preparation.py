"""Which rewrites are worth it for a graph on the machine at hand: each is kept only if it makes the file faster.

A pass that is exact in float can still be a loss: it may split what one kernel does well, or only pay in int8. Each is
judged by the measured costs of the operators it leaves behind, in the domains that are cheapest for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeseg.quantize.assignment import Choice, Link, assign, cost
from edgeseg.quantize.plan import Domain
from edgeseg.tflite.cost_table import CostTable
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.passes import PASSES

__all__ = ["PassReport", "choices_of", "fastest_us", "links_of", "prepare"]

_WORTH = 0.995
"""A pass must bring the predicted time below this share, or leave fewer operators at the same time."""


@dataclass(frozen=True)
class PassReport:
    """``places``: rewrites by pass, of the passes that were kept; ``dropped``: those that would have made the file slower."""

    places: dict[str, int]
    dropped: tuple[str, ...]

    @property
    def text(self) -> str:
        """For the manifest's notes."""
        kept = ", ".join(f"{name} ({count})" for name, count in self.places.items()) or "none"
        return f"rewrites: {kept}" + (f"; not worth it here: {', '.join(self.dropped)}" if self.dropped else "")


def prepare(
    graph: TfGraph,
    measure: Callable[[TfGraph], CostTable],
    *,
    boundary: Domain,
    int8: bool,
    names: frozenset[str] | None = None,
) -> tuple[TfGraph, PassReport]:
    """Run the passes that pay, in the order of ``PASSES``.

    Args:
        graph: float.
        measure: the costs of a graph's operators.
        boundary: the domain of the file's input and output.
        int8: whether operators may run in int8; otherwise only float times count.
        names: the passes to consider; all where None.
    """
    best = fastest_us(measure(graph), graph, boundary, int8=int8)
    places: dict[str, int] = {}
    dropped: list[str] = []
    for name, run in PASSES.items():
        if names is not None and name not in names:
            continue
        changed, count = run(graph)
        if not count:
            continue
        now = fastest_us(measure(changed), changed, boundary, int8=int8)
        if now < _WORTH * best or (now <= best and len(changed.ops) < len(graph.ops)):
            graph, best = changed, now
            places[name] = count
        else:
            dropped.append(name)
    return graph, PassReport(places, tuple(dropped))


def fastest_us(costs: CostTable, graph: TfGraph, boundary: Domain, *, int8: bool) -> float:
    """Predicted time of the fastest mixture, microseconds; of the float graph where ``int8`` is False."""
    choices, links = choices_of(costs), links_of(graph, costs, boundary)
    chosen: frozenset[str] = assign(choices, links) if int8 else frozenset()
    return cost(choices, links, chosen, 0.0)


def choices_of(costs: CostTable, harm: Mapping[str, float] | None = None) -> list[Choice]:
    """The operators, as the assignment takes them. ``harm`` is that of their weights."""
    known = harm or {}
    return [
        # An operator that the runtime refuses in float too is an odd one: int8 must then be possible, and is taken.
        Choice(name, one.float_us if math.isfinite(one.float_us) else 1e9, one.int8_us, known.get(name, 0.0))
        for name, one in costs.ops.items()
    ]


def links_of(graph: TfGraph, costs: CostTable, boundary: Domain, harm: Mapping[str, float] | None = None) -> list[Link]:
    """The float tensors between operators, as the assignment takes them. ``harm`` is that of holding them in int8."""
    known = harm or {}
    producers, consumers = graph.producers(), graph.consumers()
    links = []
    for name in costs.quantize_us:
        ends: tuple[str | Domain, ...] = tuple(op.id for op in consumers.get(name, ()))
        if name in graph.outputs:
            ends = (*ends, boundary)
        source = producers[name].id if name in producers else boundary
        links.append(Link(source, ends, costs.quantize_us[name], costs.dequantize_us[name], known.get(name, 0.0)))
    return links
