"""Stage: store the weights of a float TFLite file in half precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeseg.errors import StageError
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph

__all__ = ["half_tflite", "halve"]

_SMALLEST = 16  # elements; below that the DEQUANTIZE costs more bytes than it saves
_LARGEST = float(np.finfo(np.float16).max)


def half_tflite(graph: Graph, out: Path) -> Outcome:
    """Write ``graph`` with float16 weights.

    Raises:
        StageError: a weight is beyond what float16 holds.
    """
    halved, count = halve(read(graph.path))
    write(halved, out)
    return Outcome(Graph.of(out, Format.TFLITE, pixels=graph.pixels), (f"{count} constants in float16",))


def halve(graph: TfGraph) -> tuple[TfGraph, int]:
    """Float constants of 16 elements and more as float16, each behind one DEQUANTIZE; delegates that compute in half precision
    take the stored values as they are, the others widen them once when the file is loaded.

    Returns:
        The new graph, and how many constants were changed.
    """
    changed = graph.copy()
    changed.ops = []
    build = GraphBuilder(changed)
    widened: dict[str, str] = {}
    for name, tensor in graph.tensors.items():
        if tensor.data is None or tensor.dtype != "float32" or tensor.data.size < _SMALLEST:
            continue
        if float(np.abs(tensor.data).max()) > _LARGEST:
            raise StageError(
                f"constant '{name}' holds {float(np.abs(tensor.data).max()):.3g}, beyond float16's {_LARGEST:.0f}.",
                hint="Use tflite-fp32 or tflite-int8 for this model.",
                stage="half",
            )
        stored = build.constant(f"{name}/half", tensor.data.astype(np.float16))
        widened[name] = build.op("DEQUANTIZE", (stored,), tensor.shape, name=f"{name}/wide")
    for op in graph.ops:
        changed.ops.append(replace(op, inputs=tuple(widened.get(name, name) if name else None for name in op.inputs)))
    for name in widened:
        del changed.tensors[name]
    return changed, len(widened)
