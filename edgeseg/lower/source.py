"""The ONNX side of the lowering: a plain, typed view of a static ONNX graph that patterns rewrite.

Every tensor has a static shape. Nodes whose inputs are all constant (and ``Shape``) are evaluated while reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeseg.errors import StageError
from edgeseg.tflite.graph import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["STAGE", "AttrValue", "Node", "Shape", "Source", "read_model"]

STAGE = "lower"

AttrValue: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array
Shape: TypeAlias = tuple[int, ...]

_SMALL = 1024
"""Elements of a constant whose values shape inference may look at: shapes, axes, sizes."""

_FOLD_LIMIT = 1 << 24  # elements; a larger constant result is left to the runtime


@dataclass(frozen=True)
class Node:
    """One ONNX node. An absent optional input is the empty string."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)

    def integer(self, key: str, default: int) -> int:
        value = self.attrs.get(key, default)
        return int(value) if isinstance(value, int | float) else default

    def real(self, key: str, default: float) -> float:
        value = self.attrs.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    def text(self, key: str, default: str) -> str:
        value = self.attrs.get(key, default)
        return value if isinstance(value, str) else default

    def integers(self, key: str) -> tuple[int, ...] | None:
        """The attribute as integers, None where it is not given."""
        value = self.attrs.get(key)
        return tuple(int(item) for item in value) if isinstance(value, tuple) else None

    def reals(self, key: str) -> tuple[float, ...] | None:
        value = self.attrs.get(key)
        return tuple(float(item) for item in value) if isinstance(value, tuple) else None

    def input(self, index: int) -> str:
        """The name of an input, empty where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass
class Source:
    """A static ONNX graph. ``shapes`` and ``dtypes`` (numpy names) know every tensor; ``opset`` is that of the ONNX domain."""

    nodes: list[Node]
    constants: dict[str, Array]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    def producers(self) -> dict[str, Node]:
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self) -> dict[str, list[Node]]:
        """Tensor name to the nodes that read it; a node that reads it twice is listed twice."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in filter(None, node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def scalar(self, name: str) -> float | None:
        """The value of a constant that holds one element, else None."""
        value = self.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def add_constant(self, name: str, value: Array) -> str:
        """Files a constant under ``name``, made unique where that is taken; returns the name."""
        unique, count = name, 1
        while unique in self.shapes:
            unique, count = f"{name}:{count}", count + 1
        self.constants[unique] = value
        self.shapes[unique] = value.shape
        self.dtypes[unique] = value.dtype.name
        return unique

    def prune(self) -> None:
        """Drops nodes that no graph output depends on."""
        wanted = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        self.nodes = kept[::-1]


def read_model(model: onnx.ModelProto) -> Source:
    """Read a model whose shapes are static.

    Raises:
        StageError: a shape is not static or not known, or the graph holds what this view cannot (control flow, sparse
            or string tensors).
    """
    from onnx import inliner, numpy_helper

    if model.functions:
        model = inliner.inline_local_functions(model)
    if model.graph.sparse_initializer:
        raise _cannot("the graph holds sparse initializers")
    constants: dict[str, Array] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    nodes = list(model.graph.node)
    while True:
        source, left = _read_once(model, nodes, constants)
        unknown = _without_shape(source)
        if not unknown:
            break
        if len(left) == len(nodes):
            raise _cannot(f"{len(unknown)} tensors have no static shape, the first is '{unknown[0]}'")
        # What was folded may be what the inference of further shapes waited for.
        nodes, constants = left, source.constants
    for name in (name for node in source.nodes for name in (*node.inputs, *node.outputs) if name):
        source.dtypes.setdefault(name, "float32")
    return source


def _read_once(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, Array]
) -> tuple[Source, list[onnx.NodeProto]]:
    """The graph with shapes inferred and constants folded as far as one pass leads, and the nodes that are left."""
    from onnx import helper, shape_inference

    graph = shape_inference.infer_shapes(_skeleton(model, nodes, constants), data_prop=True).graph
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, str] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[info.name] = tuple(dim.dim_value for dim in kind.shape.dim)
        if kind.elem_type:
            dtypes[info.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    source = Source(
        nodes=[],
        constants={},
        shapes=shapes,
        dtypes=dtypes,
        inputs=tuple(item.name for item in model.graph.input if item.name not in constants),
        outputs=tuple(item.name for item in graph.output),
        opset=max((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), default=1),
    )
    for name, value in constants.items():
        shapes.pop(name, None)
        source.add_constant(name, value)
    left: list[onnx.NodeProto] = []
    for proto in nodes:
        node = _node(proto)
        if not _fold(proto, node, source):
            source.nodes.append(node)
            left.append(proto)
    source.prune()
    return source, left


def _skeleton(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """The model without its weights: what shape inference needs, in little memory. Only small constants keep their values."""
    from onnx import ModelProto, helper, numpy_helper

    result = ModelProto(ir_version=model.ir_version)
    result.opset_import.extend(model.opset_import)
    graph = result.graph
    graph.name = model.graph.name
    graph.node.extend(nodes)
    graph.input.extend(item for item in model.graph.input if item.name not in constants)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(item for item in model.graph.value_info if item.name not in constants)
    for name, value in constants.items():
        if value.size <= _SMALL:
            graph.initializer.append(numpy_helper.from_array(value, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    return result


def _node(proto: onnx.NodeProto) -> Node:
    from onnx import AttributeProto, helper, numpy_helper

    attrs: dict[str, AttrValue] = {}
    for item in proto.attribute:
        if item.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.SPARSE_TENSOR}:
            raise _cannot(f"node {proto.name or proto.output[0]} ({proto.op_type}) holds a subgraph or a sparse tensor")
        value = numpy_helper.to_array(item.t) if item.HasField("t") else helper.get_attribute_value(item)
        if isinstance(value, bytes):
            attrs[item.name] = value.decode()
        elif isinstance(value, np.ndarray | int | float):
            attrs[item.name] = value
        else:
            attrs[item.name] = tuple(entry.decode() if isinstance(entry, bytes) else entry for entry in value)
    domain = proto.domain if proto.domain not in {"", "ai.onnx"} else ""
    return Node(
        op=f"{domain}.{proto.op_type}" if domain else proto.op_type,
        name=proto.name or proto.output[0],
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attrs=attrs,
    )


def _fold(proto: onnx.NodeProto, node: Node, source: Source) -> bool:
    """Evaluates a node that depends on constants alone; says whether it did."""
    if node.op == "Shape" and node.inputs[0] in source.shapes:
        start, end = node.integer("start", 0), node.attrs.get("end")
        whole = source.shapes[node.inputs[0]]
        source.shapes.pop(node.outputs[0], None)
        source.add_constant(node.outputs[0], np.asarray(whole[start : end if isinstance(end, int) else None], np.int64))
        return True
    if any(name and name not in source.constants for name in node.inputs) or "." in node.op:
        return False
    if node.op.startswith("Random") or node.op in {"Bernoulli", "Multinomial"}:
        return False
    if any(np.prod(source.shapes.get(name, (1,))) > _FOLD_LIMIT for name in node.outputs):
        return False
    for name, value in zip(node.outputs, _evaluate(proto, source), strict=False):
        source.shapes.pop(name, None)
        source.add_constant(name, value)
    return True


def _evaluate(proto: onnx.NodeProto, source: Source) -> Iterable[Array]:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [name for name in dict.fromkeys(proto.input) if name]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(source.constants[name].dtype), None)
        for name in names
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in proto.output]
    model = helper.make_model(
        helper.make_graph([proto], "constant", infos, outputs), opset_imports=[helper.make_opsetid("", source.opset)]
    )
    evaluated: list[Array] = ReferenceEvaluator(model).run(None, {name: source.constants[name] for name in names})
    return [np.asarray(value) for value in evaluated]


def _without_shape(source: Source) -> list[str]:
    """The tensors whose shape is not known, in graph order."""
    for node in source.nodes:
        # onnx infers no shape for functions of the standard that depend on their context.
        if node.op == "GroupNormalization" and node.inputs[0] in source.shapes:
            source.shapes.setdefault(node.outputs[0], source.shapes[node.inputs[0]])
    names = [name for node in source.nodes for name in (*node.inputs, *node.outputs) if name]
    return [name for name in dict.fromkeys((*source.inputs, *names)) if name not in source.shapes]


def _cannot(why: str) -> StageError:
    return StageError(
        f"the ONNX graph cannot be read: {why}.",
        hint="Export at a fixed input size with batch 1 and simplify the graph first.",
        stage=STAGE,
    )
