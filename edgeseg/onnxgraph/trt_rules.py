"""Lint an ONNX file against what NVIDIA's parser refuses and what its guide advises for explicit Q/DQ networks.

Rules and their reasons: NVIDIA TensorRT documentation, "Explicit Quantization" and "Q/DQ Layer-Placement Recommendations";
the refusals were tried on NVIDIA's own ONNX parser. No TensorRT is needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.onnxgraph.qdq import weight_axis
from edgeseg.onnxgraph.view import WEIGHTED, GraphView, attribute, node_label

if TYPE_CHECKING:
    import onnx

__all__ = ["REFUSED", "Finding", "Rule", "check_trt"]

_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "BatchNormalization"}
)
_INTEGER_KINDS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_NEWER = {"float8_e4m3fn": "only GPUs from Ada and Hopper on have it", "int4": "TensorRT takes it for weights only"}
_NEWER_OPSET = 19
"""Of the ONNX that brought those types; read by TensorRT 10."""


class Rule(StrEnum):
    """What can be wrong. Those of ``REFUSED`` end the parse or the build, the others cost speed or accuracy."""

    MALFORMED = "malformed"
    OPSET = "opset"
    FOREIGN_DOMAIN = "foreign-domain"
    INTEGER_OPERATOR = "integer-operator"
    SCALE = "scale"
    ZERO_POINT = "zero-point"
    ELEMENT_TYPE = "element-type"
    BLOCKED = "blocked"
    QUANTIZED_BIAS = "quantized-bias"
    BROKEN_PAIR = "broken-pair"
    PER_CHANNEL_ACTIVATION = "per-channel-activation"
    WEIGHT_AXIS = "weight-axis"
    NEWER_TYPE = "newer-type"
    HALF_QUANTIZED = "half-quantized"
    PER_TENSOR_WEIGHTS = "per-tensor-weights"
    QUANTIZED_OUTPUT = "quantized-output"
    FLOAT_READER = "float-reader"
    RESIDUAL = "residual"
    TRANSPOSED = "transposed-convolution"
    NOTHING_QUANTIZED = "nothing-quantized"


REFUSED = frozenset(
    {
        Rule.MALFORMED,
        Rule.OPSET,
        Rule.FOREIGN_DOMAIN,
        Rule.INTEGER_OPERATOR,
        Rule.SCALE,
        Rule.ZERO_POINT,
        Rule.ELEMENT_TYPE,
        Rule.BLOCKED,
        Rule.QUANTIZED_BIAS,
        Rule.BROKEN_PAIR,
        Rule.PER_CHANNEL_ACTIVATION,
        Rule.WEIGHT_AXIS,
    }
)


@dataclass(frozen=True)
class Finding:
    """One broken rule. ``node``: kind and name, empty where the whole graph is meant."""

    node: str
    rule: Rule
    message: str
    remedy: str

    @property
    def refused(self) -> bool:
        """True where TensorRT will not build the file; False where it will, slower or less exact than it could be."""
        return self.rule in REFUSED


def check_trt(model: onnx.ModelProto, *, max_opset: int = 17) -> tuple[Finding, ...]:
    """What TensorRT would refuse or run badly, in the graph's order; empty for a good file.

    Args:
        max_opset: the newest opset of the TensorRT version meant. 8.5 and 8.6 read up to 17.
    """
    malformed = [finding for graph in _graphs(model) for node in graph.nodes for finding in _malformed(node)]
    if malformed:
        return tuple(malformed)  # the other rules read what is missing
    found = list(_graph_rules(GraphView(model), max_opset))
    for view in _graphs(model):
        for node in view.nodes:
            found += _newer_type(view, node, max_opset)
            for rule in _NODE_RULES:
                found += rule(view, node)
    return tuple(found)


def _graphs(model: onnx.ModelProto) -> Iterator[GraphView]:
    """The graph, then those inside its nodes (If, Loop), which read the constants of the graphs around them."""
    import onnx

    yield GraphView(model)
    for node in model.graph.node:
        for inner in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=inner)
            own = {tensor.name for tensor in inner.initializer}
            copy.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in own)
            yield from _graphs(copy)


def _malformed(node: onnx.NodeProto) -> Iterator[Finding]:
    least = 2 if node.op_type in {*_PAIR, *WEIGHTED, "Add"} else 0
    if len(node.input) < least or not node.output:
        yield _finding(
            node, Rule.MALFORMED, f"It has {len(node.input)} inputs and {len(node.output)} outputs; this is not valid ONNX.",
            "Export the model again; onnx.checker names what is wrong.",
        )  # fmt: skip


def _finding(node: onnx.NodeProto, rule: Rule, message: str, remedy: str) -> Finding:
    return Finding(node_label(node), rule, message, remedy)


def _graph_rules(view: GraphView, max_opset: int) -> Iterator[Finding]:
    if view.opset > max_opset:
        yield Finding(
            "", Rule.OPSET, f"The graph has opset {view.opset}, this TensorRT reads up to {max_opset}.",
            f"Export with opset {max_opset} or lower.",
        )  # fmt: skip
    if view.opset < 13:
        yield Finding(
            "", Rule.OPSET, f"The graph has opset {view.opset}; pairs with a scale per channel came with 13.",
            "Export with opset 13 or later.",
        )  # fmt: skip
    if not any(_is_quantized(view, node) for node in view.nodes if node.op_type in WEIGHTED):
        yield Finding(
            "", Rule.NOTHING_QUANTIZED, "No convolution or matrix product reads quantized input and weights.",
            "Insert pairs on the inputs of weighted operators (compile with an int8 target).",
        )  # fmt: skip


def _kinds(_view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.domain not in {"", "ai.onnx"}:
        yield _finding(
            node, Rule.FOREIGN_DOMAIN, f"Its domain '{node.domain}' is not ONNX's own; the parser does not know it.",
            "Write standard operators: no runtime's optimized graph, Q/DQ in opset 13 or later.",
        )  # fmt: skip
    elif node.op_type in _INTEGER_KINDS:
        yield _finding(
            node, Rule.INTEGER_OPERATOR, "The parser has no integer operators.",
            "Write the float operator with QuantizeLinear and DequantizeLinear on its inputs.",
        )  # fmt: skip


def _pair_values(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type not in _PAIR:
        return
    scale = view.constant(node.input[1])
    if scale is None or not np.all(scale.astype(np.float64) > 0) or not np.all(np.isfinite(scale.astype(np.float64))):
        yield _finding(node, Rule.SCALE, "Its scale is not a constant above 0.", "Store a positive scale as an initializer.")
    zero = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    kind = _pair_type(view, node)
    blocks = attribute(node, "block_size", 0)
    if blocks and kind == np.int8:
        yield _finding(
            node, Rule.BLOCKED, f"It has a scale for each {blocks} values; TensorRT takes blocks for 4-bit types only.",
            "Give int8 weights one scale per output channel.",
        )  # fmt: skip
    if node.op_type == "DequantizeLinear" and kind == np.int32:
        yield _finding(
            node, Rule.QUANTIZED_BIAS, "It dequantizes int32: TensorRT takes biases in float.",
            "Give the bias as float32 (onnxruntime: QuantizeBias=False).",
        )  # fmt: skip
    elif zero is None and len(node.input) > 2 and node.input[2]:
        yield _finding(node, Rule.ZERO_POINT, "Its zero point is not constant.", "Store a zero point of 0 as an initializer.")
    elif kind != np.int8 and str(kind) not in _NEWER and not _is_float_step(view, node):
        yield _finding(
            node, Rule.ELEMENT_TYPE, f"It works on {kind}; TensorRT's 8-bit integers are int8.",
            "Quantize to int8 with an int8 zero point of 0.",
        )  # fmt: skip
    if zero is not None and np.any(zero):
        yield _finding(
            node, Rule.ZERO_POINT, f"Its zero point is {int(np.asarray(zero).ravel()[0])}; TensorRT quantizes symmetrically.",
            "Quantize activations and weights symmetrically (zero point 0).",
        )  # fmt: skip


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
    if node.op_type not in _PAIR or str(kind := _pair_type(view, node)) not in _NEWER:
        return
    if max_opset < _NEWER_OPSET:
        yield _finding(
            node, Rule.ELEMENT_TYPE, f"It works on {kind}, which TensorRT reads from version 10 on.",
            "Quantize to int8 with an int8 zero point of 0.",
        )  # fmt: skip
    else:
        yield _finding(
            node, Rule.NEWER_TYPE, f"It works on {kind}: {_NEWER[str(kind)]}.", "Quantize to int8 for every GPU and version."
        )


def _is_float_step(view: GraphView, node: onnx.NodeProto) -> bool:
    """A DequantizeLinear without a zero point, whose type is that of the QuantizeLinear before it."""
    maker = view.producers.get(node.input[0])
    return node.op_type == "DequantizeLinear" and len(node.input) < 3 and maker is not None and maker.op_type == _PAIR[0]


def _pair_shape(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type == "QuantizeLinear":
        readers = view.consumers.get(node.output[0], [])
        if not readers or node.output[0] in view.outputs or any(reader.op_type != "DequantizeLinear" for reader in readers):
            yield _finding(
                node, Rule.BROKEN_PAIR, "Its output is read by something else than DequantizeLinear.",
                "Let every QuantizeLinear be followed by DequantizeLinear only, also before a graph output.",
            )  # fmt: skip
    elif node.op_type == "DequantizeLinear":
        maker = view.producers.get(node.input[0])
        if maker is None and view.is_constant(node.input[0]):
            return
        if maker is None or maker.op_type != "QuantizeLinear":
            yield _finding(
                node, Rule.BROKEN_PAIR, "Nothing quantizes what it dequantizes.", "Put a QuantizeLinear in front of it."
            )
        elif node.input[1] != maker.input[1] and not _same(view.constant(node.input[1]), view.constant(maker.input[1])):
            yield _finding(
                node, Rule.BROKEN_PAIR, f"Its scale differs from that of {node_label(maker)}.",
                "Use the same scale in both halves of a pair.",
            )  # fmt: skip


def _same(a: npt.NDArray[np.generic] | None, b: npt.NDArray[np.generic] | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _channels(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type == "QuantizeLinear" and not view.is_constant(node.input[0]):
        scale = view.constant(node.input[1])
        if scale is not None and scale.size > 1:
            yield _finding(
                node, Rule.PER_CHANNEL_ACTIVATION, f"It has {scale.size} scales for an activation.",
                "Give every activation one scale.",
            )  # fmt: skip
    if node.op_type not in WEIGHTED:
        return
    pair = _maker_of(view, node.input[1], "DequantizeLinear")
    if pair is None:
        return
    scale, shape = view.constant(pair.input[1]), view.shape(_origin(view, node.input[1]))
    if scale is None or shape is None:
        return
    expected = weight_axis(node, len(shape))
    axis = attribute(pair, "axis", 1) % len(shape)
    if scale.size == 1 and shape[expected] > 1:
        yield _finding(
            node, Rule.PER_TENSOR_WEIGHTS, "All its output channels share one scale, which costs accuracy.",
            f"Quantize the weights per channel along axis {expected}.",
        )  # fmt: skip
    elif scale.size > 1 and axis != expected:
        yield _finding(
            node, Rule.WEIGHT_AXIS, f"Its weights have their scales along axis {axis}.",
            f"TensorRT wants them along the output channels of {node.op_type}: axis {expected}.",
        )  # fmt: skip


def _operands(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type not in WEIGHTED:
        return
    sides = [_maker_of(view, name, "DequantizeLinear") is not None for name in node.input[:2]]
    if any(sides) and not all(sides):
        which = "input" if not sides[0] else "weights" if _is_weight(view, node.input[1]) else "second factor"
        yield _finding(
            node, Rule.HALF_QUANTIZED, f"Its {which} is not quantized, so it runs in float.",
            "Put pairs on both operands or on neither.",
        )  # fmt: skip
    if node.op_type == "ConvTranspose" and any(sides):
        yield _finding(
            node, Rule.TRANSPOSED, "TensorRT has few int8 kernels for transposed convolutions and can fail to build one.",
            "Leave it in float, or try it and compare.",
        )  # fmt: skip


def _outputs(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type != "DequantizeLinear" or view.is_constant(_origin(view, node.output[0])):
        return
    quantize = _maker_of(view, node.input[0], "QuantizeLinear")
    source = view.producers.get(quantize.input[0]) if quantize is not None else None
    readers = view.consumers.get(node.output[0], [])
    after_weighted = source is not None and source.op_type in WEIGHTED
    for reader in readers:
        if reader.op_type in WEIGHTED or reader.op_type == "Add":
            continue
        if after_weighted and source is not None and reader.op_type in _ACTIVATIONS:
            yield _finding(
                node, Rule.QUANTIZED_OUTPUT,
                f"It stands between {node_label(source)} and {node_label(reader)}, which TensorRT would run as one.",
                "Quantize behind the activation, where the next weighted operator reads.",
            )  # fmt: skip
        else:
            yield _finding(
                node, Rule.FLOAT_READER, f"It feeds {node_label(reader)}, which gains nothing from int8.",
                "Put pairs on the inputs of weighted operators only.",
            )  # fmt: skip
    if not readers and node.output[0] in view.outputs:
        yield _finding(
            node, Rule.QUANTIZED_OUTPUT, "It quantizes the graph's output for no reader.", "Leave the output in float."
        )


def _additions(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type != "Add" or any(view.is_constant(name) for name in node.input):
        return
    quantized = [_maker_of(view, name, "DequantizeLinear") is not None for name in node.input]
    if all(quantized):
        yield _finding(
            node, Rule.RESIDUAL, "Both its inputs are quantized, so it cannot join the convolution before it.",
            "Leave the branch that a convolution has just made in float.",
        )  # fmt: skip
    elif not any(quantized) and any(_fusible(view, name) for name in node.input):
        yield _finding(
            node, Rule.RESIDUAL, "Neither input is quantized: TensorRT reads the other branch in float and runs no int8 fusion.",
            "Put a pair on the branch that is not the latest convolution's.",
        )  # fmt: skip


def _fusible(view: GraphView, name: str) -> bool:
    """An int8 convolution's output that nothing else reads."""
    maker = view.producers.get(name)
    alone = len(view.consumers.get(name, [])) == 1 and name not in view.outputs
    return maker is not None and maker.op_type == "Conv" and alone and _is_quantized(view, maker)


def _is_quantized(view: GraphView, node: onnx.NodeProto) -> bool:
    return all(_maker_of(view, name, "DequantizeLinear") is not None for name in node.input[:2])


def _is_weight(view: GraphView, name: str) -> bool:
    return view.is_constant(_origin(view, name))


def _maker_of(view: GraphView, name: str, kind: str) -> onnx.NodeProto | None:
    maker = view.producers.get(name)
    return maker if maker is not None and maker.op_type == kind else None


def _origin(view: GraphView, name: str) -> str:
    """The tensor in front of the pair, or of the half of one, that made this one."""
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        maker = _maker_of(view, name, kind)
        name = maker.input[0] if maker is not None else name
    return name


_NODE_RULES: tuple[Callable[[GraphView, onnx.NodeProto], Iterator[Finding]], ...] = (
    _kinds,
    _pair_values,
    _pair_shape,
    _channels,
    _operands,
    _outputs,
    _additions,
)
