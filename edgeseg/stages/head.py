"""Stage: let the finished file give labels, or logits before the last resize."""

from __future__ import annotations

from pathlib import Path

from edgeseg.graph import Format, Graph
from edgeseg.head import HeadRecord
from edgeseg.pipeline import Outcome
from edgeseg.spec import Head, ModelSpec

__all__ = ["change_head"]


def change_head(graph: Graph, work: Path, head: Head, spec: ModelSpec) -> Outcome:
    """Write ``head.tflite`` or ``head.onnx``.

    Raises:
        StageError: the file has no such form.
    """
    out = work / f"head.{graph.format.value}"
    record = _tflite(graph, out, head, spec) if graph.format is Format.TFLITE else _onnx(graph, out, head, spec)
    changed = Graph.of(out, graph.format, pixels=graph.pixels, head=record)
    notes = tuple(f"left to the application: resize {rule.text}" for rule in record.resizes)
    return Outcome(changed, (f"gives {head.value}", *notes))


def _tflite(graph: Graph, out: Path, head: Head, spec: ModelSpec) -> HeadRecord:
    from edgeseg.tflite.flatbuffer import read, write
    from edgeseg.tflite.heads import with_head

    changed, record = with_head(read(graph.path), head, spec)
    write(changed, out)
    return record


def _onnx(graph: Graph, out: Path, head: Head, spec: ModelSpec) -> HeadRecord:
    from edgeseg.onnxgraph.heads import with_onnx_head
    from edgeseg.onnxgraph.view import load_model

    changed, record = with_onnx_head(load_model(graph.path), head, spec)
    out.write_bytes(changed.SerializeToString())
    return record
