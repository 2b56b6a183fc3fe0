"""What an ONNX file gives: logits before the last resize, or labels; as ``edgeseg.tflite.heads`` for TFLite files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import StageError
from edgeseg.head import HeadRecord, ResizeRule
from edgeseg.onnxgraph.rewrite import drop_unread
from edgeseg.onnxgraph.view import GraphView, text_attribute
from edgeseg.preprocess import raw_threshold
from edgeseg.spec import Head, ModelSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["with_onnx_head"]

_STAGE = "head"
_METHODS = {"linear": "bilinear", "nearest": "nearest"}
_CENTERS = {
    "half_pixel": "half-pixel",
    "pytorch_half_pixel": "half-pixel",
    "align_corners": "corners",
    "asymmetric": "asymmetric",
}
_SHOWN = frozenset({"DequantizeLinear", "QuantizeLinear"})


def with_onnx_head(model: onnx.ModelProto, head: Head, spec: ModelSpec) -> tuple[onnx.ModelProto, HeadRecord]:
    """A copy with another last step, and what that leaves to its user. Labels are uint8 (1, 1, H, W).

    Args:
        model: with one output (1, C, H, W), float or in Q/DQ form.
        head: SMALL_LOGITS or LABELS.

    Raises:
        StageError: several outputs, another rank, more than 256 classes, or no resize to take away.
    """
    from onnx import ModelProto

    changed = ModelProto()
    changed.CopyFrom(model)
    shape = GraphView(changed).shape(changed.graph.output[0].name)
    if len(changed.graph.output) != 1 or shape is None or len(shape) != 4:
        raise _refused(f"it has {len(changed.graph.output)} outputs, the first of shape {shape}")
    resizes: tuple[ResizeRule, ...] = ()
    if head is Head.LABELS:
        _labels(changed, shape[1], spec)
    else:
        resizes = _small(changed)
    drop_unread(changed.graph)
    return changed, HeadRecord(form=head, channels=shape[1], threshold=raw_threshold(spec), resizes=resizes)


def _labels(model: onnx.ModelProto, channels: int, spec: ModelSpec) -> None:
    from onnx import TensorProto, helper, numpy_helper

    if channels > 256:
        raise _refused(f"its {channels} classes do not fit into uint8")
    graph, source = model.graph, model.graph.output[0].name
    if channels == 1:
        level = numpy_helper.from_array(np.asarray([raw_threshold(spec)], np.float32), "labels_threshold")
        graph.initializer.append(level)
        graph.node.append(helper.make_node("Greater", [source, "labels_threshold"], ["labels_found"]))
    else:
        graph.node.append(helper.make_node("ArgMax", [source], ["labels_found"], axis=1, keepdims=1))
    graph.node.append(helper.make_node("Cast", ["labels_found"], ["labels"], to=TensorProto.UINT8))
    _show(model, "labels", TensorProto.UINT8, 1)


def _small(model: onnx.ModelProto) -> tuple[ResizeRule, ...]:
    from onnx import TensorProto

    view, name, rules, last = GraphView(model), model.graph.output[0].name, list[ResizeRule](), ""
    while (node := view.producers.get(name)) is not None and (node.op_type == "Resize" or node.op_type in _SHOWN):
        name = node.input[0]
        if node.op_type != "Resize":
            continue
        method = _METHODS.get(text_attribute(node, "mode", "nearest"))
        centers = _CENTERS.get(text_attribute(node, "coordinate_transformation_mode", "half_pixel"))
        shape = view.shape(node.output[0])
        if method is None or centers is None or shape is None or (method == "nearest" and centers != "asymmetric"):
            break
        rules.append(ResizeRule(size=(shape[2], shape[3]), method=method, centers=centers))
        last = name
    if not rules:
        raise _refused("its last operator is no resize")
    shape = view.shape(last)
    _show(model, last, TensorProto.FLOAT, None if shape is None else shape[1], None if shape is None else shape[2:])
    return tuple(reversed(rules))


def _show(model: onnx.ModelProto, name: str, kind: int, channels: int | None, plane: tuple[int, ...] | None = None) -> None:
    """Make a tensor the file's only output."""
    from onnx import helper

    before = GraphView(model).shape(model.graph.output[0].name)
    assert before is not None
    size = plane or before[2:]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, kind, [1, channels, *size]))


def _refused(why: str) -> StageError:
    return StageError(f"the output cannot be changed: {why}.", hint="Compile with --output logits.", stage=_STAGE)
