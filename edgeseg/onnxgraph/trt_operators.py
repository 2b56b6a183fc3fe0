"""Which operators, and which forms of them, NVIDIA's ONNX parser reads.

Source: onnx-tensorrt, ``docs/operators.md`` and the importers and checkers of its releases 8.6 and 10.1, and its change log up to
10.6. An operator that ONNX brought after opset 20 is in neither, and is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeseg.onnxgraph.trt_findings import OLDER_OPSET, Finding, Rule, finding_at
from edgeseg.onnxgraph.view import GraphView, attribute, text_attribute

if TYPE_CHECKING:
    import onnx

__all__ = ["check_operator", "check_tensors"]

_INTEGER_KINDS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})

_ABSENT = frozenset(
    {
        *(
            "AffineGrid",
            "Bernoulli",
            "BitShift",
            "BitwiseAnd",
            "BitwiseNot",
            "BitwiseOr",
            "BitwiseXor",
            "CenterCropPad",
            "Col2Im",
        ),
        *("Compress", "ConcatFromSequence", "DFT", "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix"),
        *("Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "RegexFullMatch"),
        *(
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
        ),
        *("SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        "Unique",
    }
)
_NOT_IN_OLDER = frozenset(
    {"BlackmanWindow", "CastLike", "DeformConv", "Gelu", "HammingWindow", "HannWindow", "Hardmax", "Mish", "STFT"}
)
_COORDINATES = frozenset({"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"})
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_AXES_INPUT = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "Pad": 3, "ReduceMean": 1, "ReduceSum": 1, "ReduceMax": 1, "CumSum": 1}
"""Operators whose axes must be constant, and the place of these among the inputs."""

_READ = frozenset({"FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL"})
_READ_NEWER = frozenset({"BFLOAT16", "FLOAT8E4M3FN", "INT4"})


def check_operator(view: GraphView, node: onnx.NodeProto, max_opset: int) -> Iterator[Finding]:
    """Whether the parser has the operator, and takes it as it is written."""
    older = max_opset <= OLDER_OPSET
    if node.domain not in {"", "ai.onnx"}:
        yield finding_at(
            node, Rule.FOREIGN_DOMAIN, f"Its domain '{node.domain}' is not ONNX's own; the parser does not know it.",
            "Write standard operators: no runtime's optimized graph, Q/DQ in opset 13 or later.",
        )  # fmt: skip
    elif node.op_type in _INTEGER_KINDS:
        yield finding_at(
            node, Rule.INTEGER_OPERATOR, "The parser has no integer operators.",
            "Write the float operator with QuantizeLinear and DequantizeLinear on its inputs.",
        )  # fmt: skip
    elif node.op_type in _ABSENT or (older and node.op_type in _NOT_IN_OLDER):
        since = "The parser" if node.op_type in _ABSENT else "The parser of TensorRT 8"
        yield finding_at(
            node, Rule.UNKNOWN_OPERATOR, f"{since} does not know {node.op_type}.",
            "Export the model with operators that do the same, or bring a TensorRT plugin of that name.",
        )  # fmt: skip
    else:
        for message, remedy in _forms(view, node, older):
            yield finding_at(node, Rule.OPERATOR_FORM, message, remedy)


def check_tensors(view: GraphView, max_opset: int) -> Iterator[Finding]:
    """Whether the graph's inputs and outputs have types that TensorRT has."""
    import onnx

    known = _READ if max_opset <= OLDER_OPSET else _READ | _READ_NEWER
    graph = view.model.graph
    for value in (*graph.input, *graph.output):
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if kind not in known:
            yield Finding(
                "", Rule.TENSOR_TYPE, f"Its input or output '{value.name}' is {kind}, which TensorRT does not have.",
                "Cast it outside the graph.",
            )  # fmt: skip


def _forms(view: GraphView, node: onnx.NodeProto, older: bool) -> Iterator[tuple[str, str]]:
    """What the parser refuses, or reads otherwise than ONNX means it, with the remedy."""
    kind = node.op_type
    if kind in _POOLS and any(step != 1 for step in _integers(node, "dilations")):
        yield "It is a dilated pooling.", "Pool without dilation, or pool strided slices."
    if kind == "MaxPool" and len([name for name in node.output if name]) > 1:
        yield "Its indices are asked for.", "Take the indices out, and MaxUnpool with them."
    if kind == "LayerNormalization" and len([name for name in node.output if name]) > 1:
        yield "More than its first output is asked for.", "Take the other outputs out."
    if kind == "Resize":
        yield from _resize(node)
    if kind == "ScatterND" and text_attribute(node, "reduction", "none") != "none":
        yield f"It scatters by {text_attribute(node, 'reduction', '')}.", "Scatter without a reduction."
    if kind == "TopK" and not attribute(node, "sorted", 1):
        yield "Its result is not sorted.", "Set sorted=1."
    if kind == "Einsum" and older and "." in text_attribute(node, "equation", ""):
        yield "Its equation has an ellipsis, which TensorRT 8 does not read.", "Write the axes out."
    place = _AXES_INPUT.get(kind, len(node.input))
    if len(node.input) > place and node.input[place] and not view.is_constant(node.input[place]):
        yield "Its axes are computed.", "Store the axes as an initializer (fold constants)."
    if kind == "Constant" and older and {"value_int", "value_ints"} & {a.name for a in node.attribute}:
        # importers of 8.5 and 8.6 ask the attribute for floats and get none
        yield "It holds its integers as an attribute, which TensorRT 8 reads as 0 or as nothing.", "Store them as a tensor."


def _resize(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    coordinates = text_attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        yield f"It maps coordinates by {coordinates}.", f"Use one of {', '.join(sorted(_COORDINATES))}."
    rounding = text_attribute(node, "nearest_mode", "round_prefer_floor")
    if coordinates == "tf_half_pixel_for_nn" and rounding != "round_prefer_floor":
        yield f"It rounds tf_half_pixel_for_nn by {rounding}.", "Use round_prefer_floor."
    if attribute(node, "antialias", 0):
        yield "It filters against aliasing.", "Resize without antialias."
    policy = text_attribute(node, "keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        yield f"It keeps the aspect ratio ({policy}).", "Give the sizes that come out and stretch."


def _integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    return tuple(int(step) for a in node.attribute if a.name == name for step in a.ints)
