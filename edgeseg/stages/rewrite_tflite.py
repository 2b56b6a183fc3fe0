"""Stage: rewrite a float TFLite graph where that makes it faster on the machine at hand."""

from __future__ import annotations

from pathlib import Path

from edgeseg.cache import default_cache_root
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.quantize.plan import Domain
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.preparation import PassReport, prepare
from edgeseg.tflite.probe import CostTable, probe

__all__ = ["best_float", "operator_costs", "rewrite_tflite"]


def operator_costs(graph: TfGraph) -> CostTable:
    """Times of every operator, kept in the cache folder between runs."""
    return probe(graph, store=default_cache_root() / "probe")


def best_float(graph: TfGraph) -> tuple[TfGraph, PassReport]:
    """The fastest float form of a graph: what INT8 has to beat."""
    return prepare(graph, operator_costs, boundary=Domain.FLOAT, int8=False)


def rewrite_tflite(graph: Graph, out: Path) -> Outcome:
    """Write the fastest float form of ``graph``."""
    rewritten, report = best_float(read(graph.path))
    write(rewritten, out)
    return Outcome(Graph.of(out, Format.TFLITE, pixels=graph.pixels), (report.text,))
