"""Rewrites leave the function of a graph as it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.onnxgraph.rewrite import rewrite

X = np.random.default_rng(0).normal(scale=3, size=(1, 4, 6, 5)).astype(np.float32)

# Steps "output = operator input input", separated by semicolons; x is the input, y the output, the named numbers constants.
_ERF = "a = Div x root; b = Erf a; c = Add b one; "
SPELLINGS = {
    "x(1+erf)/2": _ERF + "d = Mul x c; y = Mul d half",
    "x((1+erf)/2)": _ERF + "d = Mul half c; y = Mul x d",
    "(x/2)(1+erf)": "a = Mul x inverse; h = Mul half x; b = Erf a; c = Add one b; y = Mul h c",
    "((1+erf)/2)x": "a = Mul inverse x; b = Erf a; c = Add b one; d = Div c two; y = Mul d x",
}
OTHERS = {
    "another scale": "a = Mul x half; b = Erf a; c = Add b one; d = Mul x c; y = Mul d half",
    "another shift": "a = Div x root; b = Erf a; c = Add b two; d = Mul x c; y = Mul d half",
    "another factor": _ERF + "d = Mul x c; y = Mul d two",
    "another tensor": _ERF + "d = Mul a c; y = Mul d half",
    "read elsewhere": _ERF + "d = Mul x c; e = Mul d half; y = Add e c",
}
CONSTANTS = {"root": 2**0.5, "inverse": 0.5**0.5, "half": 0.5, "two": 2.0, "one": 1.0}


def build(spelling: str, opset: int, *, as_nodes: bool = False) -> onnx.ModelProto:
    """The steps, then a ReduceMean in the opset's own form."""
    nodes = []
    for step in spelling.split("; "):
        output, right = step.split(" = ")
        kind, *inputs = right.split()
        nodes.append(helper.make_node(kind, inputs, [output]))
    used = sorted({name for node in nodes for name in node.input} & set(CONSTANTS))
    initializers = [numpy_helper.from_array(np.array(CONSTANTS[name], np.float32), name) for name in used]
    if as_nodes:
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in initializers] + nodes
        initializers = []
    if opset < 18:
        nodes.append(helper.make_node("ReduceMean", ["y"], ["mean"], axes=[1]))
    else:
        nodes.append(helper.make_node("ReduceMean", ["y", "axes"], ["mean"]))
        initializers.append(numpy_helper.from_array(np.array([1]), "axes"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, None),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y", "mean"], {"x": X})


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("as_nodes", [False, True], ids=["initializers", "constants"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_gelu_in_every_order(spelling: str, opset: int, as_nodes: bool) -> None:
    model = build(SPELLINGS[spelling], opset, as_nodes=as_nodes)
    before = model.SerializeToString()
    changed, done = rewrite(model)
    assert model.SerializeToString() == before
    assert done == (("1 x GELU",) if opset <= 17 else ("1 x GELU", "1 x form of opset 17"))
    kinds = [node.op_type for node in changed.graph.node if node.op_type != "Constant"]
    assert kinds == ["Mul", "Mul", "Erf", "Add", "Mul", "ReduceMean"]
    for want, have in zip(run(model), run(changed), strict=True):
        np.testing.assert_allclose(have, want, atol=2e-6)


def test_gelu_as_one_operator() -> None:
    changed, _ = rewrite(build("y = Gelu x", 20))
    assert [node.op_type for node in changed.graph.node] == ["Mul", "Mul", "Erf", "Add", "Mul", "ReduceMean"]
    assert changed.opset_import[0].version == 17
    np.testing.assert_allclose(run(changed)[0], run(build("y = Gelu x", 20))[0], atol=2e-6)


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_a_gelu_stays(case: str) -> None:
    model = build(OTHERS[case], 17)
    changed, done = rewrite(model)
    assert done == ()
    assert changed.SerializeToString() == model.SerializeToString()


def test_an_operator_without_an_older_form_keeps_its_opset() -> None:
    model = build("y = Mish x", 18)
    changed, done = rewrite(model)
    assert done == ()
    assert changed.SerializeToString() == model.SerializeToString()


def test_every_operator_that_changed_at_opset_18() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("ReduceMax", ["left", "axes"], ["peak"], keepdims=1),
        helper.make_node("Sub", ["right", "peak"], ["flat"]),
        helper.make_node("Pad", ["flat", "pads"], ["padded"]),
        helper.make_node(
            "Resize",
            ["padded", "", "scales"],
            ["y"],
            mode="linear",
            coordinate_transformation_mode="align_corners",
            antialias=0,
            keep_aspect_ratio_policy="stretch",
        ),
        helper.make_node("ReduceMean", ["y", "axes"], ["mean"], keepdims=0),
    ]
    constants = {
        "axes": np.array([1]),
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "mean")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    changed, _ = rewrite(model)
    assert changed.opset_import[0].version == 17
    for want, have in zip(run(model), run(changed), strict=True):
        np.testing.assert_array_equal(have, want)
