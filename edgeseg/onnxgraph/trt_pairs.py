"""Rules about QuantizeLinear and DequantizeLinear themselves: their values, types and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.onnxgraph.trt_findings import OLDER_OPSET, Finding, Rule, finding_at
from edgeseg.onnxgraph.view import GraphView, attribute, node_label

if TYPE_CHECKING:
    import onnx

__all__ = ["PAIR", "check_pair"]

PAIR = ("QuantizeLinear", "DequantizeLinear")

_NEWER = {"float8_e4m3fn": "only GPUs from Ada and Hopper on have it", "int4": "TensorRT takes it for weights only"}
_NEWER_OPSET = 19
"""Of the ONNX that brought those types; read by TensorRT 10."""


def check_pair(view: GraphView, node: onnx.NodeProto, max_opset: int) -> Iterator[Finding]:
    """Everything about one half of a pair; nothing for other nodes."""
    if node.op_type not in PAIR:
        return
    yield from _scale(view, node)
    yield from _type(view, node, max_opset)
    yield from _newer_type(view, node, max_opset)
    yield from _axis(view, node)
    yield from _shape(view, node, max_opset)


def _scale(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    scale = view.constant(node.input[1])
    if scale is None or not np.all(scale.astype(np.float64) > 0) or not np.all(np.isfinite(scale.astype(np.float64))):
        yield finding_at(node, Rule.SCALE, "Its scale is not a constant above 0.", "Store a positive scale as an initializer.")
    if scale is None or node.op_type != PAIR[0] or view.opset <= OLDER_OPSET:
        return
    data = view.dtype(node.input[0])
    if data not in {"", str(scale.dtype)}:
        yield finding_at(
            node, Rule.SCALE, f"Its scale is {scale.dtype}, what it quantizes {data}.", "Give the scale the type of the data."
        )


def _type(view: GraphView, node: onnx.NodeProto, max_opset: int) -> Iterator[Finding]:
    scale = view.constant(node.input[1])
    given = len(node.input) > 2 and bool(node.input[2])
    zero = view.constant(node.input[2]) if given else None
    kind = _pair_type(view, node)
    blocks = attribute(node, "block_size", 0)
    if blocks and kind == np.int8:
        yield finding_at(
            node, Rule.BLOCKED, f"It has a scale for each {blocks} values; TensorRT takes blocks for 4-bit types only.",
            "Give int8 weights one scale per output channel.",
        )  # fmt: skip
    if node.op_type == "DequantizeLinear" and kind == np.int32:
        yield finding_at(
            node, Rule.QUANTIZED_BIAS, "It dequantizes int32: TensorRT takes biases in float.",
            "Give the bias as float32 (onnxruntime: QuantizeBias=False).",
        )  # fmt: skip
    elif zero is None and given:
        yield finding_at(node, Rule.ZERO_POINT, "Its zero point is not constant.", "Store a zero point of 0 as an initializer.")
    elif kind != np.int8 and str(kind) not in _NEWER and not _is_float_step(view, node):
        yield finding_at(
            node, Rule.ELEMENT_TYPE, f"It works on {kind}; TensorRT's 8-bit integers are int8.",
            "Quantize to int8 with an int8 zero point of 0.",
        )  # fmt: skip
    elif not given and max_opset <= OLDER_OPSET:
        yield finding_at(
            node, Rule.ZERO_POINT, "It has no zero point; the parser of TensorRT 8 asks for three inputs.",
            "Store an int8 zero point of 0 as an initializer.",
        )  # fmt: skip
    if zero is not None and np.any(zero):
        yield finding_at(
            node, Rule.ZERO_POINT, f"Its zero point is {int(np.asarray(zero).ravel()[0])}; TensorRT quantizes symmetrically.",
            "Quantize activations and weights symmetrically (zero point 0).",
        )  # fmt: skip
    if zero is not None and scale is not None and zero.size != scale.size:
        yield finding_at(
            node, Rule.ZERO_POINT, f"It has {scale.size} scales and {zero.size} zero points.", "Give each scale a zero point."
        )


def _pair_type(view: GraphView, node: onnx.NodeProto) -> np.dtype[np.generic]:
    """The integer (or 8-bit float) type of one half of a pair: its zero point's, what it asks for, or that of what it reads."""
    import onnx

    zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    stored = view.constant(node.input[0])
    asked = attribute(node, "output_dtype", 0)
    if zero is not None:
        return zero.dtype
    if node.op_type == "QuantizeLinear":
        return onnx.helper.tensor_dtype_to_np_dtype(asked) if asked else np.dtype(np.uint8)
    return stored.dtype if stored is not None else np.dtype(np.uint8)


def _newer_type(view: GraphView, node: onnx.NodeProto, max_opset: int) -> Iterator[Finding]:
    if str(kind := _pair_type(view, node)) not in _NEWER:
        return
    if max_opset < _NEWER_OPSET:
        yield finding_at(
            node, Rule.ELEMENT_TYPE, f"It works on {kind}, which TensorRT reads from version 10 on.",
            "Quantize to int8 with an int8 zero point of 0.",
        )  # fmt: skip
    else:
        yield finding_at(
            node, Rule.NEWER_TYPE, f"It works on {kind}: {_NEWER[str(kind)]}.", "Quantize to int8 for every GPU and version."
        )


def _is_float_step(view: GraphView, node: onnx.NodeProto) -> bool:
    """A DequantizeLinear without a zero point, whose type is that of the QuantizeLinear before it."""
    maker = view.producers.get(node.input[0])
    return node.op_type == "DequantizeLinear" and len(node.input) < 3 and maker is not None and maker.op_type == PAIR[0]


def _axis(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """Several scales must count what ONNX and the parser both count with them."""
    scale = view.constant(node.input[1])
    if scale is None or scale.size < 2 or attribute(node, "block_size", 0):
        return
    if not any(a.name == "axis" for a in node.attribute):
        yield finding_at(
            node, Rule.UNSAID_AXIS, "It does not say its axis: ONNX means 1, NVIDIA's parser takes 0.", "Write the axis out."
        )
    maker = view.producers.get(node.input[0])
    if maker is not None and maker.op_type == PAIR[0]:
        return  # counted there
    axis, shape = attribute(node, "axis", 1), view.shape(node.input[0])
    if shape is not None and -len(shape) <= axis < len(shape) and shape[axis] not in {-1, scale.size}:
        yield finding_at(
            node, Rule.SCALE, f"It has {scale.size} scales for {shape[axis]} indices of axis {axis}.", "Give each one scale."
        )


def _shape(view: GraphView, node: onnx.NodeProto, max_opset: int) -> Iterator[Finding]:
    if node.op_type == "QuantizeLinear":
        readers = view.consumers.get(node.output[0], [])
        if not readers or node.output[0] in view.outputs or any(reader.op_type != "DequantizeLinear" for reader in readers):
            yield finding_at(
                node, Rule.BROKEN_PAIR, "Its output is read by something else than DequantizeLinear.",
                "Let every QuantizeLinear be followed by DequantizeLinear only, also before a graph output.",
            )  # fmt: skip
        return
    maker = view.producers.get(node.input[0])
    if maker is None and view.is_constant(node.input[0]):
        if max_opset <= OLDER_OPSET and view.constant(node.input[0]) is not None and _pair_type(view, node) == np.int8:
            yield finding_at(
                node, Rule.HALF_PAIR, "It dequantizes stored integers; TensorRT 8 is only documented to read whole pairs.",
                "Store the weights in float with a QuantizeLinear in front (onnxruntime: AddQDQPairToWeight=True).",
            )  # fmt: skip
    elif maker is None or maker.op_type != "QuantizeLinear":
        yield finding_at(
            node, Rule.BROKEN_PAIR, "Nothing quantizes what it dequantizes.", "Put a QuantizeLinear in front of it."
        )
    elif node.input[1] != maker.input[1] and not _same(view.constant(node.input[1]), view.constant(maker.input[1])):
        yield finding_at(
            node, Rule.BROKEN_PAIR, f"Its scale differs from that of {node_label(maker)}.",
            "Use the same scale in both halves of a pair.",
        )  # fmt: skip


def _same(a: npt.NDArray[np.generic] | None, b: npt.NDArray[np.generic] | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)
