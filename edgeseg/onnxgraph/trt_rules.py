"""Lint an ONNX file against what NVIDIA's parser refuses and what its guide advises for explicit Q/DQ networks.

Rules and their reasons: NVIDIA TensorRT documentation, "Explicit Quantization" and "Q/DQ Layer-Placement Recommendations";
the refusals were tried on NVIDIA's own ONNX parser or read from its source. No TensorRT is needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgeseg.onnxgraph.qdq import weight_axis
from edgeseg.onnxgraph.trt_findings import OLDER_OPSET, REFUSED, Finding, Rule, finding_at
from edgeseg.onnxgraph.trt_operators import check_operator, check_tensors
from edgeseg.onnxgraph.trt_pairs import PAIR, check_pair
from edgeseg.onnxgraph.view import WEIGHTED, GraphView, attribute, node_label

if TYPE_CHECKING:
    import onnx

__all__ = ["REFUSED", "Finding", "Rule", "check_trt"]

_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "BatchNormalization"}
)
_MOVES = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice"})
"""Operators that change where or how values are stored, not the values."""


def check_trt(model: onnx.ModelProto, *, max_opset: int = OLDER_OPSET) -> tuple[Finding, ...]:
    """What TensorRT would refuse or run badly, in the graph's order; empty for a good file.

    Args:
        max_opset: the newest opset of the TensorRT version meant. 8.5 and 8.6 read up to 17.
    """
    malformed = [finding for graph in _graphs(model) for node in graph.nodes for finding in _malformed(node)]
    if malformed:
        return tuple(malformed)  # the other rules read what is missing
    found = [*_graph_rules(GraphView(model), max_opset), *check_tensors(GraphView(model), max_opset)]
    for view in _graphs(model):
        for node in view.nodes:
            found += check_operator(view, node, max_opset)
            found += check_pair(view, node, max_opset)
            for rule in _PLACEMENT:
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
    least = 2 if node.op_type in {*PAIR, *WEIGHTED, "Add"} else 0
    if len(node.input) < least or not node.output:
        yield finding_at(
            node, Rule.MALFORMED, f"It has {len(node.input)} inputs and {len(node.output)} outputs; this is not valid ONNX.",
            "Export the model again; onnx.checker names what is wrong.",
        )  # fmt: skip


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


def _channels(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type == "QuantizeLinear" and not view.is_constant(node.input[0]):
        scale = view.constant(node.input[1])
        if scale is not None and scale.size > 1:
            yield finding_at(
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
        yield finding_at(
            node, Rule.PER_TENSOR_WEIGHTS, "All its output channels share one scale, which costs accuracy.",
            f"Quantize the weights per channel along axis {expected}.",
        )  # fmt: skip
    elif scale.size > 1 and axis != expected:
        yield finding_at(
            node, Rule.WEIGHT_AXIS, f"Its weights have their scales along axis {axis}.",
            f"TensorRT wants them along the output channels of {node.op_type}: axis {expected}.",
        )  # fmt: skip


def _detours(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    """Quantized weights must reach a convolution straight from their pair."""
    if node.op_type not in {"Conv", "ConvTranspose"}:
        return
    moves, name = [], node.input[1]
    while (maker := view.producers.get(name)) is not None and maker.op_type in _MOVES:
        moves.append(maker)
        name = maker.input[0]
    if moves and maker is not None and maker.op_type == "DequantizeLinear":
        yield finding_at(
            node, Rule.WEIGHT_DETOUR, f"{node_label(moves[0])} stands between it and the pair of its weights.",
            "Store the weights as they are used, and quantize that.",
        )  # fmt: skip


def _operands(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type not in WEIGHTED:
        return
    sides = [_maker_of(view, name, "DequantizeLinear") is not None for name in node.input[:2]]
    if any(sides) and not all(sides):
        which = "input" if not sides[0] else "weights" if _is_weight(view, node.input[1]) else "second factor"
        yield finding_at(
            node, Rule.HALF_QUANTIZED, f"Its {which} is not quantized, so it runs in float.",
            "Put pairs on both operands or on neither.",
        )  # fmt: skip
    if node.op_type == "ConvTranspose" and any(sides):
        yield finding_at(
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
            yield finding_at(
                node, Rule.QUANTIZED_OUTPUT,
                f"It stands between {node_label(source)} and {node_label(reader)}, which TensorRT would run as one.",
                "Quantize behind the activation, where the next weighted operator reads.",
            )  # fmt: skip
        else:
            yield finding_at(
                node, Rule.FLOAT_READER, f"It feeds {node_label(reader)}, which gains nothing from int8.",
                "Put pairs on the inputs of weighted operators only.",
            )  # fmt: skip
    if not readers and node.output[0] in view.outputs:
        yield finding_at(
            node, Rule.QUANTIZED_OUTPUT, "It quantizes the graph's output for no reader.", "Leave the output in float."
        )


def _additions(view: GraphView, node: onnx.NodeProto) -> Iterator[Finding]:
    if node.op_type != "Add" or any(view.is_constant(name) for name in node.input):
        return
    quantized = [_maker_of(view, name, "DequantizeLinear") is not None for name in node.input]
    if all(quantized):
        yield finding_at(
            node, Rule.RESIDUAL, "Both its inputs are quantized, so it cannot join the convolution before it.",
            "Leave the branch that a convolution has just made in float.",
        )  # fmt: skip
    elif not any(quantized) and any(_fusible(view, name) for name in node.input):
        yield finding_at(
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


_PLACEMENT: tuple[Callable[[GraphView, onnx.NodeProto], Iterator[Finding]], ...] = (
    _channels,
    _detours,
    _operands,
    _outputs,
    _additions,
)
