"""What a TFLite file gives: logits as the model has them, logits before the last resize, or labels.

It is the finished file that is changed, integer or float: an argmax of int8 logits is that of the real ones, so what would turn
them into float goes, and a resize that the user does moves a few pixels in place of many.
"""

from __future__ import annotations

import numpy as np

from edgeseg.errors import StageError
from edgeseg.head import HeadRecord, ResizeRule
from edgeseg.preprocess import raw_threshold
from edgeseg.spec import Head, ModelSpec
from edgeseg.tflite.builder import OPTIONS_TYPES, GraphBuilder
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import prune

__all__ = ["with_head"]

_STAGE = "head"
_METHODS = {"RESIZE_BILINEAR": "bilinear", "RESIZE_NEAREST_NEIGHBOR": "nearest"}
_INT32, _UINT8, _BOOL = 2, 3, 6  # TensorType


def with_head(graph: TfGraph, head: Head, spec: ModelSpec) -> tuple[TfGraph, HeadRecord]:
    """The graph with another last step, and what that leaves to its user.

    Labels are uint8 (1, H, W, 1): the index of the largest channel, or for one channel 1 where it means foreground: a logit
    above ``log(t / (1 - t))``, a probability above ``t``, with ``t`` the spec's threshold.

    Args:
        graph: float or quantized, with one output (1, H, W, C).
        head: SMALL_LOGITS or LABELS.

    Raises:
        StageError: several outputs, another rank, more than 256 classes, or no resize to take away.
    """
    shape = graph.tensors[graph.outputs[0]].shape
    if len(graph.outputs) != 1 or len(shape) != 4:
        raise _refused(f"it has {len(graph.outputs)} outputs, the first of shape {list(shape)}")
    changed, resizes = (_labels(graph, spec), ()) if head is Head.LABELS else _small(graph)
    return changed, HeadRecord(form=head, channels=shape[3], threshold=raw_threshold(spec), resizes=resizes)


def _source(graph: TfGraph) -> str:
    """The int8 logits before they are turned into the type that the file shows; what it shows where there are none."""
    producers, name = graph.producers(), graph.outputs[0]
    while graph.tensors[name].dtype != "int8":
        producer = producers.get(name)
        if producer is None or producer.kind not in {"DEQUANTIZE", "QUANTIZE"}:
            return graph.outputs[0]
        name = str(producer.inputs[0])
    return name


def _small(graph: TfGraph) -> tuple[TfGraph, tuple[ResizeRule, ...]]:
    producers, name, rules = graph.producers(), _source(graph), list[ResizeRule]()
    while name in producers and producers[name].kind in _METHODS:
        op = producers[name]
        centers = "half-pixel" if op.options.get("halfPixelCenters") else "asymmetric"
        centers = "corners" if op.options.get("alignCorners") else centers
        height, width = graph.tensors[name].shape[1:3]
        rules.append(ResizeRule(size=(height, width), method=_METHODS[op.kind], centers=centers))
        name = str(op.inputs[0])
    if not rules:
        raise _refused("its last operator is no resize")
    small, shown = graph.copy(), graph.tensors[graph.outputs[0]]
    held = graph.tensors[name]
    if held.dtype != shown.dtype:  # shown as the whole logits were
        kind = "DEQUANTIZE" if shown.dtype == "float32" else "QUANTIZE"
        name = GraphBuilder(small).op(kind, (name,), held.shape, name=f"{name}_small", dtype=shown.dtype, quant=shown.quant)
    small.outputs = (name,)
    prune(small)
    return small, tuple(reversed(rules))


def _labels(graph: TfGraph, spec: ModelSpec) -> TfGraph:
    graph = graph.copy()
    build, source = GraphBuilder(graph), _source(graph)
    held = graph.tensors[source]
    shape = held.shape
    if shape[3] > 256:
        raise _refused(f"its {shape[3]} classes do not fit into uint8")
    labels = build.tensor("labels", (*shape[:3], 1), "uint8")
    if shape[3] == 1:
        level = np.asarray([raw_threshold(spec)], np.float32)
        if held.quant is not None:  # q > t / scale + zero point, for whole q
            limits = np.iinfo(held.dtype)
            step = np.floor(level.astype(np.float64) / held.quant.scale[0] + held.quant.zero_point[0])
            limit = build.constant("labels_threshold", np.clip(step, limits.min, limits.max).astype(held.dtype), held.quant)
        else:
            limit = build.constant("labels_threshold", level)
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
    prune(graph)
    return graph


def _refused(why: str) -> StageError:
    return StageError(f"the output cannot be changed: {why}.", hint="Compile with --output logits.", stage=_STAGE)
