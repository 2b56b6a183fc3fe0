"""What really runs in int8: onnxruntime's own optimized graph, and the share of the work in a Q/DQ file."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import ModelError
from edgeseg.onnxgraph.planning import FUSED, JOINING, SAME_SCALE
from edgeseg.onnxgraph.view import WEIGHTED, GraphView

if TYPE_CHECKING:
    import onnx

__all__ = ["INTEGER_WEIGHTED", "QuantizedShare", "quantized_share", "runtime_operators"]

INTEGER_WEIGHTED = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
)
"""Kinds of onnxruntime's weighted operators on integers."""

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class QuantizedShare:
    """Counted on a file. A weighted operator is int8 where activations and weights come dequantized; any other where a
    runtime has an integer kernel of its kind, what it reads comes dequantized and what it writes is quantized.

    Attributes:
        int8: kind to number of int8 operators; constants and conversions are no operators.
        others: the same of those in float.
        conversions: QuantizeLinear and DequantizeLinear on activations.
        multiply_adds: all of them.
        multiply_adds_int8: those on 8-bit operands.
    """

    int8: Counter[str]
    others: Counter[str]
    conversions: int
    multiply_adds: int
    multiply_adds_int8: int

    @property
    def share(self) -> float:
        """Share of the multiply-adds that run on 8-bit operands, 0..1; 0 for a graph without any."""
        return self.multiply_adds_int8 / self.multiply_adds if self.multiply_adds else 0.0


def quantized_share(model: onnx.ModelProto) -> QuantizedShare:
    """What of an ONNX graph is written to run in int8 (``runtime_operators`` says what a runtime makes of it)."""
    view = GraphView(model)
    int8: Counter[str] = Counter()
    others: Counter[str] = Counter()
    conversions = total = integer = 0
    for node in view.nodes:
        if node.op_type == "Constant":
            continue
        if node.op_type in _CONVERSIONS:
            maker = view.producers.get(node.input[0])
            source = maker.input[0] if maker is not None and maker.op_type in _CONVERSIONS else node.input[0]
            conversions += not view.is_constant(source)
            continue
        work = view.multiply_adds(node)
        total += work
        if _is_int8(view, node):
            int8[node.op_type] += 1
            integer += work
        else:
            others[node.op_type] += 1
    return QuantizedShare(int8, others, conversions, total, integer)


def runtime_operators(model: onnx.ModelProto) -> Counter[str]:
    """Kinds of operators in the graph that onnxruntime executes after its optimizations.

    Raises:
        ModelError: onnxruntime refuses the graph.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="edgeseg-kernels-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime refuses the graph: {str(error).strip()}", hint="Check it with onnx.checker."
            ) from error
        return Counter(node.op_type for node in onnx.load_model(options.optimized_model_filepath).graph.node)


def _is_int8(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type in INTEGER_WEIGHTED or node.op_type.startswith("QLinear"):
        return True
    if node.op_type in WEIGHTED:
        return _all_from(view, node.input[:2], "DequantizeLinear")
    if node.op_type not in FUSED | SAME_SCALE | JOINING:
        return False
    readers = view.consumers.get(node.output[0], [])
    if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
        return False
    if node.op_type in FUSED:
        maker = view.producers.get(node.input[0])
        return maker is not None and maker.op_type in WEIGHTED and _is_int8(view, maker)
    return _all_from(view, [name for name in node.input if name and not view.is_constant(name)], "DequantizeLinear")


def _all_from(view: GraphView, names: Sequence[str], kind: str) -> bool:
    makers = [view.producers.get(name) for name in names]
    return bool(makers) and all(maker is not None and maker.op_type == kind for maker in makers)
