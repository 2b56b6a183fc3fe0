"""Write a float32 ONNX graph, with or without Q/DQ pairs, in float16: what a strongly typed TensorRT network is built from.

TensorRT 10 and 11 run every operator in the type that the file says. Which operators can is read from ONNX's own schemas; those
whose sums lose too much in half precision stay float32, as do the graph's input and output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.errors import StageError
from edgeseg.onnxgraph.view import GraphView, node_label

if TYPE_CHECKING:
    import onnx

__all__ = ["LARGEST_HALF", "half_tensors", "to_half"]

LARGEST_HALF = 65504.0

Half = npt.NDArray[np.float16]

_SUMS = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "Softmax", "LogSoftmax", "Exp", "Pow"}
    | {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare"}
)
"""Long sums and powers: 11 bits of significand and a largest value of 65504 are too few."""

_MADE_BY_ATTRIBUTE = frozenset({"Cast", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"})
"""Their output's type does not follow from their inputs'."""

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def to_half(model: onnx.ModelProto, *, stage: str) -> onnx.ModelProto:
    """A copy in which everything that can be is float16.

    Scales of pairs are rounded up to float16, and int8 weights are rounded again to theirs, so that a scale's
    rounding does not become an error of the weights' gain (below 6e-5 a float16 has few bits left).

    Raises:
        StageError: a weight or scale is beyond float16, or the graph has branches or loops.
    """
    import onnx

    view = GraphView(model)
    writer = _HalfWriter(view, stage)
    for node in view.nodes:
        writer.add(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(writer.finish())
    used = {name for node in graph.node for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used and tensor.name not in writer.constants:
            graph.initializer.append(tensor)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in writer.constants.items() if name in used
    )
    onnx.checker.check_model(result, full_check=True)
    return result


def half_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the float16 tensors that operators make."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    return frozenset(value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16)


@dataclass
class _HalfWriter:
    view: GraphView
    stage: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)
    halves: set[str] = field(default_factory=set)
    casts: dict[tuple[str, bool], str] = field(default_factory=dict)

    def add(self, source: onnx.NodeProto) -> None:
        import onnx

        if any(a.HasField("g") or a.graphs for a in source.attribute):
            raise StageError(
                f"{node_label(source)} has a graph of its own, which is not written in half precision.",
                hint="Export the model without control flow, or build for fp32.",
                stage=self.stage,
            )
        if source.op_type == "Constant":
            value = self.view.constant(source.output[0])
            if value is not None and value.dtype == np.float32:
                self.constants[source.output[0]] = value
                return
        node = onnx.NodeProto()
        node.CopyFrom(source)
        if source.op_type in _PAIR:
            self._pair(source, node)
        else:
            schema = onnx.defs.get_schema(source.op_type, self.view.opset, source.domain)
            wide = source.op_type in _SUMS | _MADE_BY_ATTRIBUTE
            for place, name in enumerate(source.input):
                if name and self.view.is_float(name):
                    formal = schema.inputs[min(place, len(schema.inputs) - 1)]
                    node.input[place] = self._as(name, half=not wide and "tensor(float16)" in formal.types)
            for place, name in enumerate(source.output):
                if name and self.view.is_float(name) and not wide:
                    formal = schema.outputs[min(place, len(schema.outputs) - 1)]
                    if "tensor(float16)" in formal.types:
                        self.halves.add(name)
        self.nodes.append(node)

    def finish(self) -> Iterator[onnx.NodeProto]:
        """All nodes; a graph output that became float16 leaves as float32 under its own name."""
        from onnx import TensorProto, helper

        renamed = {name: f"{name}_half" for name in self.view.outputs if name in self.halves}
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = renamed.get(name, name)
            yield node
        for name, inner in renamed.items():
            yield helper.make_node("Cast", [inner], [name], name=f"{name}_to_float", to=TensorProto.FLOAT)

    def _pair(self, source: onnx.NodeProto, node: onnx.NodeProto) -> None:
        scale = self._constant(source.input[1], source)
        rounded = self._scale(scale, source)
        node.input[1] = f"{source.input[1]}_half"
        self.constants[node.input[1]] = rounded
        if source.op_type == "QuantizeLinear":
            node.input[0] = self._as(source.input[0], half=True)
            return
        self.halves.add(source.output[0])
        levels = self.view.constant(source.input[0])
        if levels is not None and levels.dtype == np.int8:
            axis = next((a.i for a in source.attribute if a.name == "axis"), 1)
            ratio = scale.astype(np.float64) / rounded.astype(np.float64)
            if ratio.ndim:
                ratio = ratio.reshape([-1 if i == axis % levels.ndim else 1 for i in range(levels.ndim)])
            self.constants[source.input[0]] = np.rint(levels.astype(np.float64) * ratio).astype(np.int8)

    def _constant(self, name: str, node: onnx.NodeProto) -> npt.NDArray[np.generic]:
        value = self.view.constant(name)
        if value is None:
            raise StageError(
                f"the scale of {node_label(node)} is not a constant.", hint="Quantize the model again.", stage=self.stage
            )
        return value

    def _scale(self, scale: npt.NDArray[np.generic], node: onnx.NodeProto) -> Half:
        """The smallest float16 not below each scale."""
        wanted = scale.astype(np.float64)
        with np.errstate(over="ignore"):
            near = wanted.astype(np.float16)
        up: Half = np.where(near.astype(np.float64) < wanted, np.nextafter(near, np.float16(np.inf)), near).astype(np.float16)
        self._require_finite(up, f"a scale of {node_label(node)}")
        return up

    def _as(self, name: str, *, half: bool) -> str:
        """The name under which a float tensor is had in float16 or float32."""
        from onnx import TensorProto, helper

        if (name in self.halves) is half:
            return name
        if (name, half) not in self.casts:
            made = f"{name}_{'half' if half else 'float'}"
            value = self.view.constant(name)
            if value is not None:
                with np.errstate(over="ignore"):
                    self.constants[made] = value.astype(np.float16)
                self._require_finite(self.constants[made], f"constant '{name}'")
            else:
                to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self.nodes.append(helper.make_node("Cast", [name], [made], name=f"{made}_cast", to=to))
            self.casts[name, half] = made
        return self.casts[name, half]

    def _require_finite(self, values: npt.NDArray[np.generic], what: str) -> None:
        if not np.isfinite(values.astype(np.float64)).all():
            raise StageError(f"{what} is beyond 65504, the largest float16.", hint="Build for fp32 instead.", stage=self.stage)
