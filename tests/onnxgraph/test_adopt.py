"""An ONNX file as the start: static, NCHW, named ``input`` and ``logits``, and the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg.errors import ModelError, SpecError
from edgeseg.graph import Format
from edgeseg.model import load_model
from edgeseg.session import ModelInput, infer
from edgeseg.spec import ClassesSpec, InputSpec, Layout, ModelSpec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.targets.onnx import open_onnx

CLASSES = 4


def make_spec(shape: tuple[int, int, int, int], layout: Layout = Layout.NCHW) -> ModelSpec:
    names = tuple(f"class {index}" for index in range(CLASSES))
    return ModelSpec(input=InputSpec(shape=shape, layout=layout), classes=ClassesSpec(names=names))


def foreign(
    path: Path,
    *,
    batch: int | str = "N",
    size: tuple[int | str, int | str] = (8, 12),
    nhwc: bool = False,
    opset: int = 13,
    inputs: int = 1,
    external: bool = False,
) -> Path:
    """Somebody's ONNX file: a dynamic batch, its own names, a second output, perhaps channels last."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(CLASSES, 3, 3, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["image", "w"], ["input"], pads=[1, 1, 1, 1])]  # a taken name, on purpose
    shape: list[int | str] = [batch, 3, *size]
    last = [helper.make_node("Identity", ["input"], ["scores"])]
    if nhwc:
        nodes = [
            helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["first", "w"], ["input"], pads=[1, 1, 1, 1]),
        ]
        shape = [batch, *size, 3]
        last = [helper.make_node("Transpose", ["input"], ["scores"], perm=[0, 2, 3, 1])]
    nodes += [*last, helper.make_node("GlobalAveragePool", ["input"], ["summary"])]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ["image", "other"][:inputs]],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["a", "b", "c", "d"]),
            helper.make_tensor_value_info("summary", TensorProto.FLOAT, [batch, CLASSES, 1, 1]),
        ],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    onnx.save_model(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def direct(path: Path, x: np.ndarray) -> np.ndarray:
    model = onnx.load(path)
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": x})[0]


@pytest.mark.parametrize("opset", [9, 13, 20])
@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_an_onnx_file_is_brought_into_form(tmp_path: Path, opset: int, nhwc: bool, external: bool) -> None:
    path = foreign(tmp_path / "theirs.onnx", opset=opset, nhwc=nhwc, external=external, size=("H", "W"))
    shape = (1, 8, 12, 3) if nhwc else (1, 3, 8, 12)
    spec = make_spec(shape, Layout.NHWC if nhwc else Layout.NCHW)
    model = load_model(path, output_name="scores")
    exported = export_onnx(model, spec, tmp_path / "a.onnx")
    graph = simplify(exported.graph, tmp_path / "b.onnx").graph
    assert (exported.route, graph.format) == ("onnx", Format.ONNX)
    proto = onnx.load(graph.path).graph
    assert ([value.name for value in proto.input], [value.name for value in proto.output]) == (["input"], ["logits"])
    pixels = np.random.default_rng(5).integers(0, 256, (1, 8, 12, 3), dtype=np.uint8)
    x = ModelInput(pixels=pixels, values=(pixels / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2))
    want = direct(path, x.values.transpose(0, 2, 3, 1) if nhwc else x.values)
    with open_onnx(graph.path) as session:
        np.testing.assert_allclose(infer(session, x), want.transpose(0, 3, 1, 2) if nhwc else want, atol=1e-5)


def test_an_onnx_file_that_does_not_fit(tmp_path: Path) -> None:
    fixed = load_model(foreign(tmp_path / "fixed.onnx", batch=1))
    with pytest.raises(SpecError, match=r"takes an input of shape \(1, 3, 8, 12\)"):
        export_onnx(fixed, make_spec((1, 3, 32, 48)), tmp_path / "a.onnx")
    two = load_model(foreign(tmp_path / "two.onnx", inputs=2))
    with pytest.raises(ModelError, match="2 inputs"):
        export_onnx(two, make_spec((1, 3, 8, 12)), tmp_path / "a.onnx")
    lost = foreign(tmp_path / "lost.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="should be stored in"):
        export_onnx(load_model(lost), make_spec((1, 3, 8, 12)), tmp_path / "a.onnx")


@pytest.mark.parametrize(("opset", "kind"), [(9, "Upsample"), (10, "Resize")])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_resizes_of_old_opsets_keep_their_meaning(tmp_path: Path, opset: int, kind: str, mode: str) -> None:
    """Oracle: onnxruntime on the file as it was given."""
    weight = np.random.default_rng(0).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[3, 3]),
            helper.make_node(kind, ["c", "scales"], ["y"], mode=mode),
        ],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 36])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES, 24, 36])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([1, 1, 3, 3]), "scales")],
    )
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6), path)
    values = np.random.default_rng(1).normal(size=(1, 3, 24, 36)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": values})[0]
    exported = export_onnx(load_model(path), make_spec((1, 3, 24, 36)), tmp_path / "export.onnx", opset=18)
    with open_onnx(exported.graph.path) as session:
        found = infer(session, ModelInput(np.zeros((1, 24, 36, 3), np.uint8), values))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
