"""Runs one ONNX graph in onnxruntime and, lowered, in LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgeseg.lower import lower_model
from edgeseg.tflite.flatbuffer import write
from edgeseg.tflite.graph import Array, TfGraph

Attr: TypeAlias = int | float | str | Sequence[int] | Sequence[float]


_TOLERANCE = 1e-4


def one_node(
    op: str,
    shapes: Sequence[Sequence[int]],
    *constants: Array | None,
    outputs: int = 1,
    opset: int = 17,
    **attrs: Attr,
) -> onnx.ModelProto:
    """A model of one node: activations ``x0, x1, ...`` first, then constants (None: absent)."""
    names = [f"x{i}" for i in range(len(shapes))]
    held = {f"c{i}": value for i, value in enumerate(constants) if value is not None}
    inputs = [*names, *(f"c{i}" if value is not None else "" for i, value in enumerate(constants))]
    node = helper.make_node(op, inputs, [f"y{i}" for i in range(outputs)], **attrs)
    return model_of([node], dict(zip(names, shapes, strict=True)), held, opset=opset)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int]],
    constants: dict[str, Array],
    outputs: Sequence[str] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with float inputs, whose outputs are those of the last node unless they are named."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs or nodes[-1].output],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)


def run_onnx(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def run_tflite(path: Path, feeds: dict[str, Array]) -> list[Array]:
    """Outputs in ONNX order; a 4-dimensional tensor of the file is channels last."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        value = feeds[detail["name"]]
        interpreter.set_tensor(detail["index"], value.transpose(0, 2, 3, 1) if value.ndim == 4 else value)
    interpreter.invoke()
    found = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    return [value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for value in found]


def assert_agreement(
    model: onnx.ModelProto, folder: Path, *, low: float = -3.0, high: float = 3.0, tolerance: float = _TOLERANCE
) -> TfGraph:
    """Lower a model and assert that LiteRT computes what onnxruntime computes; gives the lowered graph."""
    generator = np.random.default_rng(0)
    initial = {item.name for item in model.graph.initializer}
    feeds: dict[str, Array] = {
        item.name: generator.uniform(low, high, [dim.dim_value for dim in item.type.tensor_type.shape.dim]).astype(np.float32)
        for item in model.graph.input
        if item.name not in initial
    }
    graph = lower_model(model)
    path = folder / "model.tflite"
    write(graph, path)
    expected, found = run_onnx(model, feeds), run_tflite(path, feeds)
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert other.shape == one.shape
        assert other.dtype == one.dtype
        if one.dtype == np.float32:
            scale = max(1.0, float(np.abs(one).max()))
            np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(other, one)
    return graph


def kinds(graph: TfGraph) -> list[str]:
    return [op.kind for op in graph.ops]
