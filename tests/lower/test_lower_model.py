"""Whole graphs: names, layouts, refusals, files, and the models of EDGESEG_DATA."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from lowering_oracle import assert_agreement, kinds, model_of, one_node, run_onnx, run_tflite
from onnx import TensorProto, helper

from edgeseg.errors import ModelError, StageError
from edgeseg.graph import Format, Graph
from edgeseg.lower import Unsupported, lower_direct, lower_model

ROOT = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[2].parent / "shared"))
MODELS = ["espnet_camvid", "wnet_drive", "deeplabv3plus_mobilenetv2_camvid", "unetplusplus_mobilenetv2_camvid"]


def test_tensors_keep_their_onnx_names_and_the_file_is_channels_last() -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["features"], ["logits"]),
    ]
    weights = np.ones((5, 3, 3, 3), np.float32)
    graph = lower_model(model_of(nodes, {"image": (1, 3, 4, 6)}, {"w": weights}))
    assert [op.id for op in graph.ops] == ["features", "logits"]
    assert graph.inputs == ("image",)
    assert graph.outputs == ("logits",)
    assert graph.tensors["image"].shape == (1, 4, 6, 3)
    assert graph.tensors["logits"].shape == (1, 4, 6, 5)
    assert graph.tensors["w"].shape == (5, 3, 3, 3)


def test_second_layout_of_a_tensor_gets_a_suffix(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("Exp", ["s"], ["e"]),
    ]
    model = model_of(nodes, {"x": (1, 3, 4, 5)}, {"flat": np.asarray([1, 60])}, outputs=["f", "e"])
    graph = assert_agreement(model, tmp_path)
    assert {"s", "s:nchw", "f", "e"} <= graph.tensors.keys()


def test_output_that_is_an_input_an_alias_or_a_constant_has_a_tensor_of_its_own(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Identity", ["r"], ["again"]),
        helper.make_node("Transpose", ["r"], ["turned"], perm=[0, 1, 3, 2]),
    ]
    outputs = ["same", "r", "again", "turned"]
    graph = assert_agreement(model_of(nodes, {"x": (1, 3, 4, 5)}, {}, outputs=outputs), tmp_path)
    assert graph.outputs == tuple(outputs)


def test_model_that_is_channels_last_itself_is_not_turned() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["n"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["n", "w"], ["c"]),
        helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
    ]
    graph = lower_model(model_of(nodes, {"x": (1, 4, 6, 3)}, {"w": np.ones((5, 3, 1, 1), np.float32)}))
    assert kinds(graph) == ["CONV_2D"]
    assert graph.tensors["x"].shape == (1, 4, 6, 3)
    assert graph.tensors["y"].shape == (1, 4, 6, 5)


def test_all_unknown_nodes_are_listed_before_anything_is_written(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Hardmax", ["x"], ["a"], name="first"),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], dilations=[2, 2], name="second"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    source, target = tmp_path / "in.onnx", tmp_path / "out.tflite"
    onnx.save(model_of(nodes, {"x": (1, 3, 8, 8)}, {}), source)
    with pytest.raises(Unsupported) as caught:
        lower_direct(Graph.of(source, Format.ONNX), target)
    assert [(node.name, node.op) for node in caught.value.nodes] == [("first", "Hardmax"), ("second", "MaxPool")]
    assert caught.value.stage == "lower"
    assert not target.exists()


def test_shapes_that_are_not_static_are_refused() -> None:
    model = one_node("Relu", [(1, 3, 4, 5)])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(StageError, match="no static shape"):
        lower_model(model)


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, (1,))]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = one_node("Relu", [(1,)])
    model.graph.node.append(node)
    with pytest.raises(StageError, match="subgraph"):
        lower_model(model)


def test_constants_are_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["channels"], axis=0),
        helper.make_node("Concat", ["batch", "channels", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"one": np.asarray([1]), "batch": np.asarray([1]), "rest": np.asarray([-1])}
    graph = assert_agreement(model_of(nodes, {"x": (1, 3, 4, 5)}, constants), tmp_path)
    assert sorted(kinds(graph)) == ["RESHAPE", "TRANSPOSE"]


def test_file_is_written_and_counted(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.tflite"
    onnx.save(one_node("Softmax", [(1, 3, 4, 5)], axis=2), source)
    result = lower_direct(Graph.of(source, Format.ONNX, pixels=True), target)
    assert result.graph == Graph.of(target, Format.TFLITE, pixels=True)
    assert (result.ops, result.transposes) == (3, 2)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all \xff\xff"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(content)
    with pytest.raises(ModelError):
        lower_direct(Graph.of(source, Format.ONNX), tmp_path / "out.tflite")


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", [*MODELS, "segformer_mitb0_camvid"])
def test_trained_model(tmp_path: Path, name: str, dynamo: bool) -> None:
    import onnxslim
    import torch

    file = ROOT / "models" / f"{name}.pt2"
    if not file.exists():
        pytest.skip(f"{file} is absent: set EDGESEG_DATA")
    program = torch.export.load(file)
    example = program.example_inputs[0]
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(program, example, path, dynamo=True, verbose=False)
        else:
            torch.onnx.export(torch.jit.trace(program.module(), example), example, path, dynamo=False)
    model = onnxslim.slim(onnx.load(path))
    onnx.save(model, path)
    out = tmp_path / "model.tflite"
    result = lower_direct(Graph.of(path, Format.ONNX), out)
    feeds = {model.graph.input[0].name: np.random.default_rng(0).uniform(-1, 1, example[0].shape).astype(np.float32)}
    (expected,), (found,) = run_onnx(model, feeds), run_tflite(out, feeds)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    # Six attention blocks with several heads: queries, keys, values and the result change places.
    assert result.transposes <= (24 if name.startswith("segformer") else 0)
