"""The second route to TFLite: onnx2tf in a child process, its file loaded and compared."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.errors import StageError, StageTimeout
from edgeseg.graph import Format, Graph
from edgeseg.session import ModelInput, infer
from edgeseg.stages.lower_onnx2tf import lower_onnx2tf
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.tflite import open_tflite

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx2tf", "tensorflow", "tf_keras")),
    reason="the extra 'onnx2tf' is not installed",
)

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 24, 20, 3), dtype=np.uint8)
IMAGE = ModelInput(pixels=PIXELS, values=(PIXELS / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2))


def make_graph(path: Path, last: tuple[str, list[str], dict[str, object]]) -> Graph:
    """Opset 18: convolution, GELU written out, reduction with axes as input, align_corners resize, then ``last``."""
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "head": rng.normal(size=(4, 8, 1, 1)).astype(np.float32),
        "root": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "axes": np.array([1]),
        "size": np.array([1, 8, 24, 20]),
    }
    kind, inputs, attributes = last
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Div", ["a", "root"], ["b"]),
        helper.make_node("Erf", ["b"], ["c"]),
        helper.make_node("Add", ["c", "one"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["e"]),
        helper.make_node("Mul", ["a", "e"], ["gelu"]),
        helper.make_node("ReduceMean", ["gelu", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["gelu", "mean"], ["f"]),
        helper.make_node("Resize", ["f", "", "", "size"], ["g"], mode="linear", coordinate_transformation_mode="align_corners"),
        helper.make_node("Conv", ["g", "head"], ["h"]),
        helper.make_node(kind, inputs, ["logits"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 24, 20])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 24, 20])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True), str(path))
    return Graph.of(path, Format.ONNX)


@pytest.mark.slow
def test_agrees_with_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In particular align_corners, which onnx2tf loses in an opset 18 graph, and GELU, for which TFLite has no erf."""
    monkeypatch.chdir(tmp_path)
    graph = make_graph(tmp_path / "in.onnx", ("Relu", ["h"], {}))
    lowered = lower_onnx2tf(graph, tmp_path / "out.tflite", workdir=tmp_path / "work")
    with open_onnx(graph.path) as reference, open_tflite(lowered.graph.path) as session:
        assert session.info.inputs[0].shape == (1, 24, 20, 3)
        np.testing.assert_allclose(infer(session, IMAGE), infer(reference, IMAGE), atol=1e-4)
    assert lowered.rewrites == ("1 x GELU", "1 x form of opset 17")
    assert lowered.peak_mb > 100
    assert Graph.of(graph.path, Format.ONNX) == graph  # onnx2tf rewrites its input: it must have had a copy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "out.tflite", "work"]
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lower_onnx2tf.log"]


@pytest.mark.slow
def test_a_file_that_does_not_load_is_a_failure(tmp_path: Path) -> None:
    """Erf outside a GELU: onnx2tf calls it done and writes an operator that no LiteRT has."""
    graph = make_graph(tmp_path / "in.onnx", ("Erf", ["h"], {}))
    with pytest.raises(StageError, match=r"reported success, but LiteRT refuses.*Erf"):
        lower_onnx2tf(graph, tmp_path / "out.tflite", workdir=tmp_path / "work")
    assert not (tmp_path / "out.tflite").exists()
    assert (tmp_path / "work" / "lower_onnx2tf.log").stat().st_size > 0


def test_the_time_limit_ends_it(tmp_path: Path) -> None:
    graph = make_graph(tmp_path / "in.onnx", ("Relu", ["h"], {}))
    with pytest.raises(StageTimeout, match="Stage 'lower_onnx2tf': it was ended after 1 s"):
        lower_onnx2tf(graph, tmp_path / "out.tflite", workdir=tmp_path / "work", time_limit_s=1)
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.slow
def test_a_conversion_that_fails_names_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(make_graph(tmp_path / "good.onnx", ("Relu", ["h"], {})).path.read_bytes())
    model = onnx.load(path)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises(StageError, match="NoSuchOperator") as caught:
        lower_onnx2tf(Graph.of(path, Format.ONNX), tmp_path / "out.tflite", workdir=tmp_path / "work")
    assert "lower_onnx2tf.log" in caught.value.hint
