"""What the file gives: logits as the model has them, logits before the last resize, or labels."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from edgeseg.errors import StageError
from edgeseg.spec import OutputKind, OutputSpec
from edgeseg.tflite.builder import OPTIONS_TYPES, GraphBuilder
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import prune

__all__ = ["Head", "with_head"]

_STAGE = "head"
_RESIZES = {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
_INT32, _UINT8, _BOOL = 2, 3, 6  # TensorType


class Head(StrEnum):
    """LOGITS: as they are. SMALL_LOGITS: without the final resizes. LABELS: uint8 class indices (1, H, W, 1)."""

    LOGITS = "logits"
    SMALL_LOGITS = "small-logits"
    LABELS = "labels"


def with_head(graph: TfGraph, head: Head, output: OutputSpec) -> tuple[TfGraph, int]:
    """The graph with another last step, and by how much the height of its output is smaller than before.

    Labels are the index of the largest channel, or for one channel 1 where it means foreground: a logit above
    ``log(t / (1 - t))``, a probability above ``t``, with ``t`` the spec's threshold.

    Args:
        graph: float, with one output (1, H, W, C).
        output: what the output means.

    Raises:
        StageError: several outputs, another rank, more than 256 classes, or no resize to take away.
    """
    shape = graph.tensors[graph.outputs[0]].shape
    if len(graph.outputs) != 1 or len(shape) != 4:
        raise _refused(f"it has {len(graph.outputs)} outputs, the first of shape {list(shape)}")
    match head:
        case Head.LOGITS:
            return graph, 1
        case Head.SMALL_LOGITS:
            return _small(graph)
        case Head.LABELS:
            return _labels(graph, output), 1


def _small(graph: TfGraph) -> tuple[TfGraph, int]:
    producers, name = graph.producers(), graph.outputs[0]
    while name in producers and producers[name].kind in _RESIZES:
        name = str(producers[name].inputs[0])
    before, after = graph.tensors[graph.outputs[0]].shape, graph.tensors[name].shape
    stride = before[1] // after[1]
    if name == graph.outputs[0]:
        raise _refused("its last operator is no resize")
    if (after[1] * stride, after[2] * stride) != before[1:3]:
        raise _refused(f"its last resize, from {list(after[1:3])} to {list(before[1:3])}, is not by a whole factor")
    small = graph.copy()
    small.outputs = (name,)
    prune(small)
    return small, stride


def _labels(graph: TfGraph, output: OutputSpec) -> TfGraph:
    graph = graph.copy()
    build, source = GraphBuilder(graph), graph.outputs[0]
    shape = graph.tensors[source].shape
    if shape[3] > 256:
        raise _refused(f"its {shape[3]} classes do not fit into uint8")
    labels = build.tensor("labels", (*shape[:3], 1), "uint8")
    if shape[3] == 1:
        threshold = output.threshold
        if output.kind is not OutputKind.PROBABILITY:
            threshold = float(np.log(threshold / (1 - threshold)))
        limit = build.constant("labels_threshold", np.asarray([threshold], np.float32))
        found, kind = build.op("GREATER", (source, limit), shape, name="labels_found", dtype="bool"), _BOOL
    else:
        axis = build.ints("labels_axis", np.asarray(3))
        options = {"outputType": _INT32}
        flat = build.op("ARG_MAX", (source, axis), shape[:3], name="labels_index", dtype="int32", options=options)
        target = build.ints("labels_shape", (*shape[:3], 1))
        whole = {"newShape": (*shape[:3], 1)}
        found, kind = build.op("RESHAPE", (flat, target), (*shape[:3], 1), dtype="int32", options=whole), _INT32
    graph.ops.append(TfOp("CAST", (found,), (labels,), {"inDataType": kind, "outDataType": _UINT8}, OPTIONS_TYPES["CAST"]))
    graph.outputs = (labels,)
    return graph


def _refused(why: str) -> StageError:
    return StageError(f"the output cannot be changed: {why}.", hint="Compile with --output logits.", stage=_STAGE)
