"""Write a plan into an ONNX graph as QuantizeLinear / DequantizeLinear pairs.

Two readers understand such pairs differently, so there are two styles. onnxruntime fuses an operator whose inputs and
outputs all pass through pairs into one integer kernel, and wants the bias as int32. TensorRT fuses what follows a weighted
operator by itself, wants pairs on the inputs only, zero points 0, int8 only, and refuses an int32 bias.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ModelError, UsageError
from edgeseg.onnxgraph.view import WEIGHTED, GraphView, attribute, node_label
from edgeseg.quantize.plan import Domain, QuantPlan, TensorQuant

if TYPE_CHECKING:
    import onnx

__all__ = ["QdqStyle", "insert_qdq", "quantize_weights", "residual_branch", "weight_axis"]

_LARGEST_BIAS = 2.0**30  # half of int32's range; the accumulator adds the products to it
_TINY = float(np.finfo(np.float32).tiny)


class QdqStyle(StrEnum):
    """Who reads the pairs.

    For onnxruntime, activations are uint8 and weights int8: what x86's VNNI multiplies. On x86 without VNNI, onnxruntime's kernels
    add such products in 16 bits, which can saturate; there the session option ``session.x64quantprecision`` = ``1`` makes it
    widen them. It costs time where VNNI is there, so set it only where it is not.
    """

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


def insert_qdq(model: onnx.ModelProto, plan: QuantPlan, *, style: QdqStyle) -> onnx.ModelProto:
    """A copy of ``model`` in which the plan's int8 operators read, and for onnxruntime write, quantized tensors.

    An int8 operator reads those of its inputs that the plan quantizes through a pair of their own scale; constant weights
    become int8 per output channel. For onnxruntime, what an int8 operator writes is quantized once and every reader takes it
    dequantized, and a constant bias becomes int32 with the scale of input times weight. Tensor names stay.

    Raises:
        UsageError: the plan does not fit the graph or the style.
        ModelError: the graph's opset is older than 13, which brought per-channel scales.
    """
    view = GraphView(model)
    if view.opset < 13:
        raise ModelError(
            f"The graph has opset {view.opset}; per-channel quantization needs 13.", hint="Export it with opset 13 or later."
        )
    _check(view, plan, style)
    return _Writer(view, plan, style).write()


def weight_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a weight tensor that counts output channels."""
    match node.op_type:
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        case "MatMul":
            return rank - 1
        case _:
            return 0


def quantize_weights(
    weights: npt.NDArray[np.floating], axis: int, *, least_scale: npt.NDArray[np.floating] | float = 0.0
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 weights and their float32 scales (n,), symmetric per index of ``axis``: the largest magnitude becomes 127.

    ``least_scale`` bounds the scales from below. A channel of zeros gets scale 1.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    peak = np.abs(weights).max(axis=others).astype(np.float64)
    scale = np.maximum(np.where(peak > 0, peak / 127, 1.0), np.maximum(least_scale, _TINY)).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
    levels = np.clip(np.rint(weights / scale.reshape(shape)), -127, 127)
    return levels.astype(np.int8), scale


@dataclass
class _Writer:
    view: GraphView
    plan: QuantPlan
    style: QdqStyle
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    int8: set[str] = field(default_factory=set)
    quantized: dict[str, str] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)

    def write(self) -> onnx.ModelProto:
        import onnx

        self.int8 = {entry.op for entry in self.plan.ops if entry.domain is Domain.INT8}
        for source in self.view.nodes:
            node = onnx.NodeProto()
            node.CopyFrom(source)
            is_int8 = source.output[0] in self.int8
            for place, name in enumerate(source.input):
                if name and self._reads_quantized(source, place, name, is_int8):
                    node.input[place] = self._dequantized(name)
            if is_int8 and source.op_type in WEIGHTED:
                self._quantize_constants(source, node)
            self.nodes.append(node)
            self._restore_outputs(source, node)
        return self._assemble()

    def _reads_quantized(self, node: onnx.NodeProto, place: int, name: str, is_int8: bool) -> bool:
        if name not in self.plan.tensors:
            return False
        if self.style is QdqStyle.ONNXRUNTIME:
            return is_int8 or self._written_int8(name)
        if node.op_type == "Add":
            return is_int8 and place == residual_branch(self.view, node, self.int8)
        return is_int8

    def _written_int8(self, name: str) -> bool:
        producer = self.view.producers.get(name)
        return producer is not None and producer.output[0] in self.int8

    def _dequantized(self, name: str) -> str:
        """A DequantizeLinear of its own for this reader, so that each operator and its pairs form a closed group."""
        quant = self.plan.tensors[name]
        if name not in self.quantized:
            self.quantized[name] = f"{name}_quantized"
            self._pair_node("QuantizeLinear", name, self.quantized[name], self._parameters(name, quant))
        count = self.readers[name] = self.readers.get(name, 0) + 1
        output = f"{name}_dequantized_{count}"
        self._pair_node("DequantizeLinear", self.quantized[name], output, self._parameters(name, quant))
        return output

    def _parameters(self, name: str, quant: TensorQuant) -> tuple[str, str]:
        scale, zero = f"{name}_scale", f"{name}_zero_point"
        self.constants[scale] = np.asarray(quant.scale[0], np.float32)
        self.constants[zero] = np.asarray(quant.zero_point[0], quant.dtype)
        return scale, zero

    def _pair_node(self, kind: str, source: str, output: str, parameters: tuple[str, str], axis: int | None = None) -> None:
        from onnx import helper

        options = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node(kind, [source, *parameters], [output], name=f"{output}_{kind}", **options))

    def _quantize_constants(self, source: onnx.NodeProto, node: onnx.NodeProto) -> None:
        weights = self.view.constant(source.input[1])
        if weights is None:
            return
        axis = weight_axis(source, weights.ndim)
        label = source.output[0]
        bias = self.view.constant(source.input[2]) if len(source.input) > 2 and source.input[2] else None
        with_bias = bias is not None and self.style is QdqStyle.ONNXRUNTIME
        step = float(self.plan.tensors[source.input[0]].scale[0])
        least = np.abs(bias).astype(np.float64).ravel() / (step * _LARGEST_BIAS) if with_bias and bias is not None else 0.0
        levels, scale = quantize_weights(weights.astype(np.float32), axis, least_scale=least)
        zero = np.zeros(scale.shape, np.int8)
        if self.style is QdqStyle.TENSORRT:
            # Its parsers before version 10 refuse to dequantize a constant: the weights stay float, with a whole pair.
            names = (f"{label}_weight_scale", f"{label}_weight_zero_point")
            self.constants |= {names[0]: scale, names[1]: zero}
            self._pair_node("QuantizeLinear", source.input[1], f"{label}_weight_quantized", names, axis)
            self._pair_node("DequantizeLinear", f"{label}_weight_quantized", f"{label}_weight_dequantized", names, axis)
            node.input[1] = f"{label}_weight_dequantized"
            return
        node.input[1] = self._constant_pair(f"{label}_weight", levels, scale, zero, axis)
        if with_bias and bias is not None:
            product = (np.float32(step) * scale).astype(np.float32)
            integers = np.rint(bias.astype(np.float64).ravel() / product).astype(np.int32)
            node.input[2] = self._constant_pair(f"{label}_bias", integers, product, np.zeros(product.shape, np.int32), 0)

    def _constant_pair(
        self,
        name: str,
        values: npt.NDArray[np.integer],
        scale: npt.NDArray[np.float32],
        zero: npt.NDArray[np.integer],
        axis: int,
    ) -> str:
        stored, scale_name, zero_name = f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"
        self.constants |= {stored: values, scale_name: scale, zero_name: zero}
        self._pair_node("DequantizeLinear", stored, f"{name}_dequantized", (scale_name, zero_name), axis)
        return f"{name}_dequantized"

    def _restore_outputs(self, source: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """A graph output that is written in int8 leaves dequantized under its own name."""
        if self.style is not QdqStyle.ONNXRUNTIME:
            return
        for place, name in enumerate(source.output):
            if name in self.view.outputs and name in self.plan.tensors and source.output[0] in self.int8:
                inner = f"{name}_float"
                node.output[place] = inner
                self.quantized[name] = f"{name}_quantized"
                parameters = self._parameters(name, self.plan.tensors[name])
                self._pair_node("QuantizeLinear", inner, self.quantized[name], parameters)
                self._pair_node("DequantizeLinear", self.quantized[name], name, parameters)

    def _assemble(self) -> onnx.ModelProto:
        import onnx

        result = onnx.ModelProto()
        result.CopyFrom(self.view.model)
        graph = result.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | set(self.view.outputs)
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items())
        onnx.checker.check_model(result)
        return result


def residual_branch(view: GraphView, node: onnx.NodeProto, int8: Collection[str]) -> int | None:
    """Which input of an addition TensorRT wants through a pair: the one that is not made by an int8 convolution into which the
    addition can be fused; of two such convolutions the later one takes the addition. None where there is none.

    Args:
        int8: first outputs of the operators in int8.
    """
    if node.op_type != "Add" or any(not view.is_float(name) or view.is_constant(name) for name in node.input):
        return None
    order = {made.output[0]: place for place, made in enumerate(view.nodes)}
    fusible = [
        place
        for place, name in enumerate(node.input)
        if (maker := view.producers.get(name)) is not None
        and maker.op_type == "Conv"
        and maker.output[0] in int8
        and len(view.consumers[name]) == 1
        and name not in view.outputs
    ]
    if not fusible:
        return None
    return 1 - max(fusible, key=lambda place: order[node.input[place]])


def _check(view: GraphView, plan: QuantPlan, style: QdqStyle) -> None:
    known = {node.output[0]: node for node in view.nodes}
    tensors = set(view.inputs) | {name for node in view.nodes for name in node.output}
    for name in plan.tensors:
        if name not in tensors:
            raise UsageError(
                f"The plan quantizes tensor '{name}', which this graph does not have.",
                hint="Use a plan made for this very graph.",
            )
    for entry in plan.ops:
        if entry.op not in known:
            raise UsageError(
                f"The plan names operator '{entry.op}', which this graph does not have.",
                hint="Use a plan made for this very graph.",
            )
        if entry.domain is Domain.INT16:
            raise UsageError(
                f"The plan wants '{entry.op}' in int16, which has no kernel in {style}.", hint="Choose int8 or float32."
            )
        node = known[entry.op]
        if entry.domain is Domain.INT8 and node.op_type in WEIGHTED and node.input[0] not in plan.tensors:
            raise UsageError(
                f"The plan runs {node_label(node)} in int8, but has no scale for its input '{node.input[0]}'.",
                hint="Add the tensor to the plan.",
            )
    for name, problem in _misfits(plan, style):
        raise UsageError(f"The plan's quantization of tensor '{name}' {problem}.", hint=f"Make the plan for {style}.")


def _misfits(plan: QuantPlan, style: QdqStyle) -> Iterator[tuple[str, str]]:
    for name, quant in plan.tensors.items():
        if len(quant.scale) != 1 or len(quant.zero_point) != 1:
            yield name, "has several scales, and activations take one"
        elif style is QdqStyle.TENSORRT and (quant.dtype != "int8" or quant.zero_point != (0,)):
            yield name, f"is {quant.dtype} with zero point {quant.zero_point[0]}; TensorRT takes int8 with zero point 0"
        elif quant.dtype not in {"int8", "uint8"}:
            yield name, f"is {quant.dtype}; onnxruntime takes int8 or uint8"
