"""A read-only view of an ONNX graph: who makes and who reads a tensor, constants, shapes, multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["SIZE_KEY", "WEIGHTED", "GraphView", "attribute", "load_model", "node_label", "text_attribute"]

SIZE_KEY = "edgeseg.usual-size"
"""Metadata of a graph that takes images of several sizes: the one it was made for, as ``384x480``."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""The operators whose multiply-adds count."""


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ModelError: it is missing or not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ModelError(f"There is no file {path}.", hint="Check the path of the ONNX file.")
    try:
        model = onnx.load_model(str(path))
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path} cannot be read as ONNX: {str(error).rstrip('.')}.",
            hint="Check that the file is complete and of the right kind, and that files with its weights lie beside it.",
        ) from error
    if not model.HasField("graph"):
        raise ModelError(f"{path} holds no graph.", hint="Check that the file is complete; export it again.")
    return model


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def text_attribute(node: onnx.NodeProto, name: str, default: str) -> str:
    """A string attribute of a node."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


def _constant_node(node: onnx.NodeProto) -> npt.NDArray[np.generic] | None:
    """What a Constant node holds, or None for strings and sparse tensors."""
    import onnx

    for a in node.attribute:
        match a.name:
            case "value":
                return np.asarray(onnx.numpy_helper.to_array(a.t))
            case "value_float":
                return np.asarray(a.f, np.float32)
            case "value_floats":
                return np.asarray(a.floats, np.float32)
            case "value_int":
                return np.asarray(a.i, np.int64)
            case "value_ints":
                return np.asarray(a.ints, np.int64)
    return None


def node_label(node: onnx.NodeProto) -> str:
    """How messages call a node: its kind and its name, or its first output where it has no name."""
    return f"{node.op_type} '{node.name or (node.output[0] if node.output else '')}'"


@dataclass(frozen=True)
class GraphView:
    """``model`` must not be changed while the view is in use."""

    model: onnx.ModelProto
    _constants: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """In execution order."""
        return list(self.model.graph.node)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.model.graph.input if item.name not in self._initializers)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.model.graph.output)

    @property
    def opset(self) -> int:
        """Of the standard domain."""
        return next((int(o.version) for o in self.model.opset_import if o.domain in {"", "ai.onnx"}), 1)

    @cached_property
    def producers(self) -> Mapping[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> Mapping[str, list[onnx.NodeProto]]:
        """Tensor to the nodes that read it, once per node. A graph output counts as no consumer."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    @cached_property
    def _initializers(self) -> Mapping[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def _types(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            raise ModelError(
                f"The graph's types and shapes contradict each other: {str(error).strip().splitlines()[0]}",
                hint="Export the model again; onnx.checker.check_model(..., full_check=True) names what is wrong.",
            ) from error
        known: dict[str, tuple[str, tuple[int, ...]]] = {}
        for item in (*graph.input, *graph.value_info, *graph.output):
            kind = item.type.tensor_type
            if kind.elem_type and kind.HasField("shape"):
                shape = tuple(int(d.dim_value) if d.HasField("dim_value") else -1 for d in kind.shape.dim)
                known[item.name] = (str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)
        return known

    @cached_property
    def one_image(self) -> GraphView:
        """The graph itself; where its batch or size is dynamic, the same with a batch of one and the size it was made for."""
        import onnx

        taken = [item.type.tensor_type.shape.dim for item in self.model.graph.input if item.name in self.inputs]
        if all(dim.HasField("dim_value") for dims in taken for dim in dims):
            return self
        usual = next((entry.value for entry in self.model.metadata_props if entry.key == SIZE_KEY), "")
        lengths = {0: 1, **{place: int(length) for place, length in zip((2, 3), usual.split("x"), strict=False) if length}}
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        del copy.graph.value_info[:]
        for item in copy.graph.input:
            for place, dim in enumerate(item.type.tensor_type.shape.dim):
                if item.name in self.inputs and not dim.HasField("dim_value") and place in lengths:
                    dim.dim_value = lengths[place]
        for item in copy.graph.output:
            item.type.tensor_type.ClearField("shape")
        return GraphView(copy)

    def is_constant(self, name: str) -> bool:
        """True for an initializer and for the output of a Constant node."""
        return name in self._initializers or (name in self.producers and self.producers[name].op_type == "Constant")

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """A constant's values, or None where the tensor is not constant."""
        import onnx

        if name not in self._constants:
            tensor = self._initializers.get(name)
            if tensor is None and self.is_constant(name):
                value = _constant_node(self.producers[name])
                if value is None:
                    return None
                self._constants[name] = value
            elif tensor is None:
                return None
            else:
                self._constants[name] = onnx.numpy_helper.to_array(tensor)
        return self._constants[name]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """-1 stands for a length that is not static; None where nothing is known."""
        value = self.constant(name)
        if value is not None:
            return value.shape
        return self._types[name][1] if name in self._types else None

    def dtype(self, name: str) -> str:
        """Element type as numpy calls it, of a constant or not; empty where nothing is known."""
        value = self.constant(name)
        if value is not None:
            return str(value.dtype)
        return self._types[name][0] if name in self._types else ""

    def is_float(self, name: str) -> bool:
        """True for a float32 tensor, constant or not."""
        return self.dtype(name) == "float32"

    def activations(self) -> tuple[str, ...]:
        """Float tensors that depend on the input, the graph's inputs included, in execution order."""
        made = [name for node in self.nodes if node.op_type != "Constant" for name in node.output if name]
        return tuple(name for name in (*self.inputs, *made) if self.is_float(name))

    def multiply_adds(self, node: onnx.NodeProto) -> int:
        """Multiply-adds of one weighted operator, for one image where the batch is dynamic; 0 for all other kinds.

        Raises:
            ModelError: its shapes are not static.
        """
        if node.op_type not in WEIGHTED:
            return 0
        result, data, weights = (self.one_image.shape(name) for name in (node.output[0], node.input[0], node.input[1]))
        if result is None or data is None or weights is None or min((*result, *data, *weights), default=1) < 0:
            raise ModelError(
                f"The shapes around {node_label(node)} are not static.", hint="Export the model with a fixed input size."
            )
        match node.op_type:
            case "Conv":
                return math.prod(result) * math.prod(weights[1:])
            case "ConvTranspose":
                return math.prod(data) * math.prod(weights[1:])
            case "Gemm":
                return math.prod(result) * (data[0] if attribute(node, "transA", 0) else data[1])
            case _:
                return math.prod(result) * data[-1]
