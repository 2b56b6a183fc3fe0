"""The three CPU sessions: the same numbers as PyTorch, in every layout and element type, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from edgeseg.errors import ModelError, SpecError
from edgeseg.model import load_model
from edgeseg.session import ModelInput, Session, TensorInfo, infer
from edgeseg.spec import ClassesSpec, InputSpec, Layout, ModelSpec, OutputSpec
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.tflite import open_tflite
from edgeseg.targets.torch_ref import open_torch
from edgeseg.tensor_io import quantize
from edgeseg.tflite.flatbuffer import write
from edgeseg.tflite.graph import Quant, TfGraph, TfOp, TfTensor

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

H, W, C, CLASSES = 6, 10, 3, 5
RNG = np.random.default_rng(3)
WEIGHT = RNG.normal(size=(CLASSES, C, 1, 1)).astype(np.float32)
PIXELS = RNG.integers(0, 256, (1, H, W, C), dtype=np.uint8)
IMAGE = ModelInput(pixels=PIXELS, values=((PIXELS - 100.0) / 60.0).astype(np.float32).transpose(0, 3, 1, 2))
IN, OUT = Quant((0.03,), (-7,)), Quant((0.05,), (11,))


def conv(values: np.ndarray) -> np.ndarray:
    return F.conv2d(torch.from_numpy(np.ascontiguousarray(values, np.float32)), torch.from_numpy(WEIGHT)).numpy()


def affine(values: np.ndarray, quant: Quant, dtype: str = "int8") -> np.ndarray:
    """Quantized and dequantized, with the formula written out once more."""
    limits = np.iinfo(dtype)
    levels = np.clip(np.round(values / np.float32(quant.scale[0])) + quant.zero_point[0], limits.min, limits.max)
    return (levels - quant.zero_point[0]) * np.float32(quant.scale[0])


def make_onnx(
    path: Path,
    *,
    nhwc: bool = False,
    dtype: str = "float32",
    io: Quant | None = None,
    integer_out: bool = False,
    dynamic: bool = False,
) -> Path:
    """A 1x1 convolution behind whatever conversion ``dtype`` asks for."""
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    batch: int | str = "N" if dynamic else 1
    shape = [batch, H, W, C] if nhwc else [batch, C, H, W]
    nodes, name, constants = [], "image", {"w": WEIGHT}
    if io is not None:
        constants |= {"s": np.array(io.scale[0], np.float32), "z": np.array(io.zero_point[0], dtype)}
        nodes.append(helper.make_node("DequantizeLinear", [name, "s", "z"], ["real"]))
        name = "real"
    elif dtype != "float32":
        nodes.append(helper.make_node("Cast", [name], ["real"], to=TensorProto.FLOAT))
        name = "real"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [name], ["first"], perm=[0, 3, 1, 2]))
        name = "first"
    nodes.append(helper.make_node("Conv", [name, "w"], ["scores"]))
    out_shape, out_elem, last = [batch, CLASSES, H, W], TensorProto.FLOAT, "scores"
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["scores"], ["last"], perm=[0, 2, 3, 1]))
        last, out_shape = "last", [batch, H, W, CLASSES]
    if integer_out:
        constants |= {"so": np.array(OUT.scale[0], np.float32), "zo": np.array(OUT.zero_point[0], np.int8)}
        nodes.append(helper.make_node("QuantizeLinear", [last, "so", "zo"], ["levels"]))
        last, out_elem = "levels", TensorProto.INT8
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", elem, shape)],
        [helper.make_tensor_value_info(last, out_elem, out_shape)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def make_tflite(
    path: Path, *, nchw: bool = False, dtype: str = "float32", io: Quant | None = None, integer_out: bool = False
) -> Path:
    """A 1x1 convolution behind whatever conversion ``dtype`` asks for."""
    image, scores = (1, H, W, C), (1, H, W, CLASSES)
    tensors = [
        TfTensor("w", (CLASSES, 1, 1, C), "float32", np.ascontiguousarray(WEIGHT.transpose(0, 2, 3, 1))),
        TfTensor("b", (CLASSES,), "float32", np.zeros(CLASSES, np.float32)),
    ]
    ops, name = [], "image"
    options = {"padding": 1, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}

    def transpose(source: str, result: str, order: tuple[int, ...], shape: tuple[int, ...]) -> None:
        tensors.append(TfTensor(f"{result}_order", (4,), "int32", np.array(order, np.int32)))
        tensors.append(TfTensor(result, shape, "float32"))
        ops.append(TfOp("TRANSPOSE", (source, f"{result}_order"), (result,), {}, "TransposeOptions"))

    if nchw:
        tensors.append(TfTensor("image", (1, C, H, W), dtype))
        transpose("image", "moved", (0, 2, 3, 1), image)
        name = "moved"
    else:
        tensors.append(TfTensor("image", image, dtype, quant=io))
    if io is not None:
        tensors.append(TfTensor("real", image, "float32"))
        ops.append(TfOp("DEQUANTIZE", (name,), ("real",), {}, "DequantizeOptions"))
        name = "real"
    tensors.append(TfTensor("scores", scores, "float32"))
    ops.append(TfOp("CONV_2D", (name, "w", "b"), ("scores",), options, "Conv2DOptions"))
    last = "scores"
    if nchw:
        transpose("scores", "last", (0, 3, 1, 2), (1, CLASSES, H, W))
        last = "last"
    if integer_out:
        tensors.append(TfTensor("levels", scores, "int8", quant=OUT))
        ops.append(TfOp("QUANTIZE", (last,), ("levels",), {}, "QuantizeOptions"))
        last = "levels"
    write(TfGraph({tensor.name: tensor for tensor in tensors}, ops, ("image",), (last,)), path)
    return path


@pytest.fixture
def torch_session(tmp_path: Path) -> Session:
    module = torch.nn.Conv2d(C, CLASSES, 1, bias=False)
    module.weight.data.copy_(torch.from_numpy(WEIGHT))
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(1, C, H, W),)), str(tmp_path / "model.pt2"))
    spec = ModelSpec(input=InputSpec(shape=(1, C, H, W)), classes=ClassesSpec(names=tuple("abcde")))
    return open_torch(load_model(tmp_path / "model.pt2"), spec)


def test_all_runtimes_agree_on_floats(tmp_path: Path, torch_session: Session) -> None:
    want = conv(IMAGE.values)
    sessions: list[Session] = [
        torch_session,
        open_onnx(make_onnx(tmp_path / "a.onnx")),
        open_onnx(make_onnx(tmp_path / "b.onnx", nhwc=True), input_layout=Layout.NHWC, output_layout=Layout.NHWC),
        open_onnx(make_onnx(tmp_path / "c.onnx", dynamic=True), threads=2),
        open_tflite(make_tflite(tmp_path / "d.tflite")),
        open_tflite(make_tflite(tmp_path / "e.tflite"), delegate=False),
        open_tflite(make_tflite(tmp_path / "f.tflite", nchw=True), threads=2),
    ]
    for session in sessions:
        assert isinstance(session, Session)
        with session:
            for _ in range(2):  # the second image must not meet the first's remains
                have = infer(session, IMAGE)
                assert (have.dtype, have.shape, have.flags.c_contiguous) == (np.float32, (1, CLASSES, H, W), True)
                np.testing.assert_allclose(have, want, atol=1e-5)
            kept = have.copy()
            infer(session, ModelInput(pixels=PIXELS, values=-IMAGE.values))
            np.testing.assert_array_equal(have, kept)  # what was fetched is the caller's own
        assert session.info.inputs[0].dtype == "float32"
        assert session.info.version
    assert [session.info.runtime for session in sessions] == ["torch"] + ["onnxruntime"] * 3 + ["litert"] * 3
    assert [session.info.threads for session in sessions] == [1, 1, 1, 2, 1, 1, 2]


@pytest.mark.parametrize("side", ["in", "out"])
def test_integers_are_quantized_and_dequantized(tmp_path: Path, side: str) -> None:
    # One side at a time: ONNX Runtime also rounds the float weights of a convolution that has integers on both.
    want = conv(affine(IMAGE.values, IN)) if side == "in" else affine(conv(IMAGE.values), OUT)
    dtype, io = ("int8", IN) if side == "in" else ("float32", None)
    path = make_onnx(tmp_path / "a.onnx", dtype=dtype, io=io, integer_out=side == "out")
    tflite = make_tflite(tmp_path / "a.tflite", dtype=dtype, io=io, integer_out=side == "out")
    for session in (open_onnx(path), open_tflite(tflite)):
        (source,), (result,) = session.info.inputs, session.info.outputs
        integer, floating = (source, result) if side == "in" else (result, source)
        quant = IN if side == "in" else OUT
        assert (integer.dtype, integer.scale[0], integer.zero_point) == (
            "int8",
            pytest.approx(quant.scale[0]),
            quant.zero_point,
        )
        assert (floating.dtype, floating.scale) == ("float32", ())
        difference = np.abs(infer(session, IMAGE) - want)
        assert (difference > 1e-4).mean() < 0.01, session.info.runtime  # a logit on a rounding edge may go either way
        assert difference.max() < 0.051


def test_quantizing_rounds_as_litert_does(tmp_path: Path) -> None:
    """Every half of a level: LiteRT's own QUANTIZE on the same floats gives the same integers."""
    quant = Quant((0.5,), (3,))
    halves = np.arange(-300, 300, dtype=np.float32) / 4
    tensors = [TfTensor("x", (1, 1, 600, 1), "float32"), TfTensor("q", (1, 1, 600, 1), "int8", quant=quant)]
    graph = TfGraph({t.name: t for t in tensors}, [TfOp("QUANTIZE", ("x",), ("q",), {}, "QuantizeOptions")], ("x",), ("q",))
    write(graph, tmp_path / "q.tflite")
    interpreter = Interpreter(str(tmp_path / "q.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], halves.reshape(1, 1, 600, 1))
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).ravel()
    np.testing.assert_array_equal(quantize(halves, TensorInfo("x", "int8", (600,), (0.5,), (3,))), want)


@pytest.mark.parametrize(("dtype", "offset"), [("uint8", 0), ("int8", 128), ("float32", 0)])
@pytest.mark.parametrize("nhwc", [False, True])
def test_raw_pixels_into_onnx(tmp_path: Path, dtype: str, offset: int, nhwc: bool) -> None:
    path = make_onnx(tmp_path / "a.onnx", dtype=dtype, nhwc=nhwc)
    layout = Layout.NHWC if nhwc else Layout.NCHW
    with open_onnx(path, pixels=True, input_layout=layout, output_layout=layout) as session:
        have = infer(session, IMAGE)
    np.testing.assert_allclose(have, conv(PIXELS.transpose(0, 3, 1, 2).astype(np.float32) - offset), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 0), ("int8", -128)])
def test_raw_pixels_into_tflite(tmp_path: Path, dtype: str, zero_point: int) -> None:
    path = make_tflite(tmp_path / "a.tflite", dtype=dtype, io=Quant((1 / 255,), (zero_point,)))
    with open_tflite(path, pixels=True) as session:
        have = infer(session, IMAGE)
    np.testing.assert_allclose(have, conv(PIXELS.transpose(0, 3, 1, 2) / np.float32(255)), atol=1e-5)


def test_an_integer_onnx_input_without_a_scale_needs_pixels(tmp_path: Path) -> None:
    with open_onnx(make_onnx(tmp_path / "a.onnx", dtype="uint8")) as session, pytest.raises(ModelError, match="0 scales"):
        session.feed(IMAGE)


def test_an_image_of_another_size_is_refused(tmp_path: Path, torch_session: Session) -> None:
    other = ModelInput(pixels=np.zeros((1, 8, 8, C), np.uint8), values=np.zeros((1, C, 8, 8), np.float32))
    for session in (torch_session, open_onnx(make_onnx(tmp_path / "a.onnx")), open_tflite(make_tflite(tmp_path / "a.tflite"))):
        with pytest.raises(SpecError, match="was prepared as"):
            session.feed(other)


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x1c\x00\x00\x00TFL3" + bytes(64)])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.write_bytes(content)
    for opener in (open_onnx, open_tflite):
        with pytest.raises(ModelError, match=r"refuses|no file") as caught:
            opener(path)
        assert str(path) in caught.value.message


def test_litert_says_why_it_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """int8 CONCATENATION of unequal scales: the reason is in LiteRT's words, and not on the terminal."""
    tensors = [
        TfTensor("a", (1, 4, 4, 2), "int8", quant=Quant((0.1,), (0,))),
        TfTensor("b", (1, 4, 4, 2), "int8", np.zeros((1, 4, 4, 2), np.int8), Quant((0.7,), (0,))),
        TfTensor("y", (1, 4, 4, 4), "int8", quant=Quant((0.1,), (0,))),
    ]
    op = TfOp("CONCATENATION", ("a", "b"), ("y",), {"axis": 3}, "ConcatenationOptions")
    write(TfGraph({t.name: t for t in tensors}, [op], ("a",), ("y",)), tmp_path / "m.tflite")
    with pytest.raises(ModelError, match=r"CONCATENATION.*failed to prepare"):
        open_tflite(tmp_path / "m.tflite")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_several_outputs(tmp_path: Path) -> None:
    model = onnx.load(make_onnx(tmp_path / "a.onnx"))
    model.graph.node.append(helper.make_node("Neg", ["scores"], ["negative"]))
    model.graph.output.append(helper.make_tensor_value_info("negative", TensorProto.FLOAT, [1, CLASSES, H, W]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(ModelError, match=r"2 outputs.*scores \(1, 5, 6, 10\), negative"):
        open_onnx(tmp_path / "two.onnx")
    for chosen in ("negative", "1"):
        with open_onnx(tmp_path / "two.onnx", output_name=chosen) as session:
            np.testing.assert_allclose(infer(session, IMAGE), -conv(IMAGE.values), atol=1e-5)
    with pytest.raises(ModelError, match=r"no output named '2'.*scores"):
        open_onnx(tmp_path / "two.onnx", output_name="2")


def test_profile_names_the_operators(tmp_path: Path) -> None:
    with open_onnx(make_onnx(tmp_path / "a.onnx"), profile=True) as session:
        infer(session, IMAGE)
        trace = session.finish_profile()
        events = json.loads(trace.read_text())
    assert any(event.get("args", {}).get("op_name") == "Conv" for event in events)
    assert not trace.exists()
    with open_onnx(tmp_path / "a.onnx") as session, pytest.raises(ModelError, match="without profiling"):
        session.finish_profile()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_reference_checks_the_stride(tmp_path: Path, stride: int) -> None:
    module = torch.nn.Conv2d(C, CLASSES, 3, stride=2, padding=1).eval()
    torch.jit.trace(module, torch.zeros(1, C, H, W)).save(str(tmp_path / "m.pt"))
    spec = ModelSpec(
        input=InputSpec(shape=(1, C, H, W)), classes=ClassesSpec(names=tuple("abcde")), output=OutputSpec(stride=stride)
    )
    if stride == 2:
        assert open_torch(load_model(tmp_path / "m.pt"), spec).info.outputs[0].shape == (1, CLASSES, 3, 5)
    else:
        with pytest.raises(SpecError, match="output stride"):
            open_torch(load_model(tmp_path / "m.pt"), spec)
