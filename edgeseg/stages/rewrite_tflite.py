"""Stage: rewrite a float TFLite graph where that makes it faster on the machine at hand."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from edgeseg.cache import default_cache_root
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.quantize.plan import Domain
from edgeseg.spec import TuneFor
from edgeseg.tflite.cost_table import CostTable, mean_table
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.preparation import PassReport, prepare
from edgeseg.tflite.probe import measure_exposure, probe
from edgeseg.tflite.stored_costs import StoredCosts, stored_costs

__all__ = ["OperatorCosts", "rewrite_tflite"]


@dataclass(frozen=True)
class _Measured:
    """How operators are timed: with ``threads``, ``exposure`` from full caches (``edgeseg.tflite.probe``); a time counts
    ``weight`` of itself."""

    threads: int
    exposure: float
    weight: float


@dataclass(frozen=True)
class OperatorCosts:
    """Times of a network's operators: on this machine, kept in the cache folder between runs, or from a stored table.

    An application may use one thread or several, and where a graph's time goes differs: costs are the mean of both, each as a share
    of the float network's time, in microseconds of one thread.
    """

    measured: tuple[_Measured, ...]
    stored: StoredCosts | None = None

    @classmethod
    def of(cls, graph: TfGraph, tune_for: TuneFor = TuneFor.HERE) -> OperatorCosts:
        """Measure every operator of a float graph, and the graph as a whole; nothing is measured where a table is asked for."""
        if tune_for in {TuneFor.X86_VNNI, TuneFor.ARM_DOTPROD}:
            return cls((), stored_costs(tune_for))
        counts = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
        exposures = [measure_exposure(graph, threads=count, store=_store()) for count in counts]
        wholes = [
            sum(one.float_us for one in probe(graph, exposure=exposure, threads=count, store=_store()).ops.values())
            for count, exposure in zip(counts, exposures, strict=True)
        ]
        weights = [wholes[0] / whole / len(wholes) if 0.0 < whole < math.inf else 1.0 / len(wholes) for whole in wholes]
        return cls(tuple(map(_Measured, counts, exposures, weights)))

    def __call__(self, graph: TfGraph) -> CostTable:
        """The costs of ``graph``, a rewritten form of the network."""
        if self.stored is not None:
            return self.stored(graph)
        tables = [probe(graph, exposure=one.exposure, threads=one.threads, store=_store()) for one in self.measured]
        return mean_table(tables, [one.weight for one in self.measured])

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
