"""Stage: rewrite a float TFLite graph where that makes it faster on the machine at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseg.cache import default_cache_root
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.quantize.plan import Domain
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.preparation import PassReport, prepare
from edgeseg.tflite.probe import CostTable, measure_exposure, probe

__all__ = ["OperatorCosts", "rewrite_tflite"]


@dataclass(frozen=True)
class OperatorCosts:
    """Times of a network's operators on this machine, kept in the cache folder between runs.

    ``exposure``: how far its operators run from full caches (``edgeseg.tflite.probe``).
    """

    exposure: float

    @classmethod
    def of(cls, graph: TfGraph) -> OperatorCosts:
        """Measure every operator of a float graph, and the graph as a whole."""
        return cls(measure_exposure(graph, store=_store()))

    def __call__(self, graph: TfGraph) -> CostTable:
        """The costs of ``graph``, a rewritten form of the network."""
        return probe(graph, exposure=self.exposure, store=_store())

    def best_float(self, graph: TfGraph) -> tuple[TfGraph, PassReport]:
        """The fastest float form of a graph: what INT8 has to beat."""
        return prepare(graph, self, boundary=Domain.FLOAT, int8=False)


def _store() -> Path:
    return default_cache_root() / "probe"


def rewrite_tflite(graph: Graph, out: Path) -> Outcome:
    """Write the fastest float form of ``graph``."""
    original = read(graph.path)
    rewritten, report = OperatorCosts.of(original).best_float(original)
    write(rewritten, out)
    return Outcome(Graph.of(out, Format.TFLITE, pixels=graph.pixels), (report.text,))
