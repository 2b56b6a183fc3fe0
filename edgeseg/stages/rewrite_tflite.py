"""Stage: rewrite a float TFLite graph where that makes it faster on the machine at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeseg.cache import default_cache_root
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.quantize.plan import Domain
from edgeseg.spec import TuneFor
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.preparation import PassReport, prepare
from edgeseg.tflite.probe import CostTable, measure_exposure, probe
from edgeseg.tflite.stored_costs import StoredCosts, stored_costs

__all__ = ["OperatorCosts", "rewrite_tflite"]


@dataclass(frozen=True)
class OperatorCosts:
    """Times of a network's operators: on this machine, kept in the cache folder between runs, or from a stored table.

    ``exposure``: how far its operators run from full caches (``edgeseg.tflite.probe``). ``stored``: the table.
    """

    exposure: float
    stored: StoredCosts | None = None

    @classmethod
    def of(cls, graph: TfGraph, tune_for: TuneFor = TuneFor.HERE) -> OperatorCosts:
        """Measure every operator of a float graph, and the graph as a whole; nothing is measured where a table is asked for."""
        if tune_for in {TuneFor.X86_VNNI, TuneFor.ARM_DOTPROD}:
            return cls(0.0, stored_costs(tune_for))
        return cls(measure_exposure(graph, store=_store()))

    def __call__(self, graph: TfGraph) -> CostTable:
        """The costs of ``graph``, a rewritten form of the network."""
        if self.stored is not None:
            return self.stored(graph)
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
