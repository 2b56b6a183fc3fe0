"""The files that TensorRT is given: opsets, half precision, batches, the kit. onnxruntime on the CPU is the oracle."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_nets import filters, images, net, residual, two_convs, vector

from edgeseg.errors import StageError
from edgeseg.graph import Format, Graph
from edgeseg.onnxgraph.kernels import quantized_share
from edgeseg.onnxgraph.statistics import run_images
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import GraphView, load_model
from edgeseg.quantize.estimate import decision_snr
from edgeseg.quantize.plan import QuantPlan, TensorQuant
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec
from edgeseg.stages.build_engine import Precision, any_batch_stage, build_engine_stage, engine_status
from edgeseg.stages.quantize_trt import half_trt_stage, prepare_trt_stage, quantize_trt, quantize_trt_stage
from edgeseg.trt.build import BuildSettings
from edgeseg.trt.driver import Environment
from edgeseg.trt.half import to_half
from edgeseg.trt.opset import at_opset, with_batch
from edgeseg.trt.portable import calibration_table, trtexec_lines

SPEC = ModelSpec(input=InputSpec(shape=(1, 3, 16, 16)), classes=ClassesSpec(names=("a", "b", "c", "d")))


def graph_of(model: onnx.ModelProto, folder: Path) -> Graph:
    path = folder / "float.onnx"
    onnx.save_model(model, str(path))
    return Graph.of(path, Format.ONNX)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {item.name: item.type.tensor_type.elem_type for item in (*inferred.value_info, *inferred.output, *inferred.input)}


# ---- opsets ----------------------------------------------------------------------------------------------------------------------


def opset18() -> onnx.ModelProto:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,16,16] x) => (float[1,3,1,1] y)
        { y = ReduceMean<keepdims=1, noop_with_empty_axes=0>(x, axes) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([2, 3]), "axes"))
    return model


def test_a_reduction_of_opset_18_is_written_in_17() -> None:
    model = opset18()
    lowered = at_opset(model, 17, stage="prepare")
    assert GraphView(lowered).opset == 17
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, x), run(model, x), rtol=1e-6)
    assert GraphView(model).opset == 18  # the given one stays


@pytest.mark.parametrize("version", [17, 19])
def test_a_padding_of_opset_18_is_written_in_others(version: int) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,16,16] x) => (float[1,3,18,20] y)
        { p = Pad(x, pads) y = Relu(p) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([0, 0, 1, 2, 0, 0, 1, 2]), "pads"))
    changed = at_opset(model, version, stage="prepare")
    assert GraphView(changed).opset == version
    assert {imported.domain for imported in changed.opset_import} == {""}
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(changed, x), run(model, x))


@pytest.mark.parametrize("version", [17, 19])
@pytest.mark.parametrize("uneven", [False, True])
def test_a_split_of_opset_18_is_written_in_others(version: int, uneven: bool) -> None:
    count = 3 if uneven else 2  # 16 rows: 8 and 8, or 6, 6 and 4
    names = [f"s{place}" for place in range(count)]
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,16,16] x) => (float[1,3,16,16] y)
        {{ {", ".join(names)} = Split<axis=-2, num_outputs={count}>(x) y = Concat<axis=2>({", ".join(reversed(names))}) }}"""
    model = onnx.parser.parse_model(text)
    changed = at_opset(model, version, stage="prepare")
    assert GraphView(changed).opset == version
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(changed, x), run(model, x))


@pytest.mark.parametrize(
    "body",
    ["y = Mish(x)", "y = GroupNormalization<num_groups=2, epsilon=0.01>(x, s, b)", "m = Mish(x) n = Relu(m) y = Mish(n)"],
)
def test_functions_of_newer_opsets_are_written_out(body: str) -> None:
    weights = {"s": vector(2), "b": vector(2, 1)} if "Group" in body else {}
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> net (float[1,4,6,6] x) => (float[1,4,6,6] y) {{ {body} }}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    lowered = at_opset(model, 17, stage="prepare")
    assert lowered.opset_import[0].version == 17
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, x), run(model, x), atol=1e-5)


@pytest.mark.parametrize(
    ("opset", "node"),
    [
        (18, "Mish(x)"),
        (20, "Gelu(x)"),
        (20, 'Gelu<approximate="tanh">(x)'),
        (21, "GroupNormalization<num_groups=2>(x, gain, shift)"),
    ],
)
def test_an_operator_younger_than_the_opset_is_spelled_out(opset: int, node: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]> g (float[1,4,16,16] x) => (float[1,4,16,16] y)
        {{ a = {node} y = Relu(a) }}"""
    model = onnx.parser.parse_model(text)
    for place, name in enumerate(("gain", "shift")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1.5, -0.5, 2, 0.25]) + place, name))
    changed = at_opset(model, 17, stage="prepare")
    assert GraphView(changed).opset == 17
    assert "CastLike" not in {one.op_type for one in changed.graph.node}
    x = np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(run(changed, x), run(model, x), atol=2e-6)


def test_an_operator_without_an_equal_is_an_error() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,3,36] x) => (float[1,3,6,6] y)'
        " { s = Constant<value_ints=[6, 6]>() b = Constant<value_ints=[1, 1]>() y = Col2Im(x, s, b) }"
    )
    with pytest.raises(StageError, match=r"cannot be written in 17: .*Col2Im"):
        at_opset(model, 17, stage="prepare")


# ---- half precision --------------------------------------------------------------------------------------------------------------


def test_half_of_a_float_graph() -> None:
    model = residual()
    half = to_half(model, stage="half")
    x = images(1)[0].values
    assert decision_snr([run(model, x)], [run(half, x)]) > 50
    types = element_types(half)
    assert types["x"] == types["y"] == onnx.TensorProto.FLOAT
    assert {types[node.output[0]] for node in half.graph.node if node.op_type == "Conv"} == {onnx.TensorProto.FLOAT16}
    assert not any(t.data_type == onnx.TensorProto.FLOAT and t.dims for t in half.graph.initializer if t.name != "scales")


def test_long_sums_stay_in_float32() -> None:
    """The sum of 256 values of 1000 is beyond float16; so is their mean's accumulator."""
    model = net(
        "s = ReduceSum<keepdims=1>(x, axes) t = Mul(s, small) y = Add(t, x)",
        {"axes": np.int64([2, 3]), "small": np.float32([1e-3])},
    )
    half = to_half(model, stage="half")
    x = np.full((1, 3, 16, 16), 1000, np.float32)
    np.testing.assert_allclose(run(half, x), run(model, x), rtol=2e-3)
    assert element_types(half)["s"] == onnx.TensorProto.FLOAT


def test_small_weight_scales_are_not_lost_in_half() -> None:
    """Around 1e-7 the float16 numbers are 6e-8 apart: the scale's rounding must not become a gain of the weights."""
    scale = np.float32([1.3e-7, 2.1e-6, 3.3e-3, 0.25])
    levels = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    model = net(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear<axis=0>(levels, scale, zeros)"
        " y = Conv(d, e)",
        {
            "s": np.float32(0.02),
            "z": np.int8(0),
            "levels": levels,
            "scale": scale,
            "zeros": np.zeros(4, np.int8),
        },
    )
    half = to_half(at_opset(model, 19, stage="half"), stage="half")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    node = next(node for node in half.graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "levels")
    rounded = stored[node.input[1]]
    assert rounded.dtype == np.float16
    shape = (4, 1, 1, 1)
    weights = stored["levels"] * rounded.astype(np.float64).reshape(shape)
    wanted = levels * scale.astype(np.float64).reshape(shape)
    assert (np.abs(weights - wanted) <= 0.5001 * rounded.astype(np.float64).reshape(shape)).all()


@pytest.mark.parametrize("what", ["weight", "activation"])
def test_what_float16_cannot_hold_is_an_error(what: str, tmp_path: Path) -> None:
    weights = filters(4, 3) * np.float32(1e6 if what == "weight" else 100)
    second = filters(4, 4, seed=1) * np.float32(1 if what == "weight" else 1000)
    model = net("c = Conv(x, w) d = Mul(c, k) y = Conv(d, v)", {"w": weights, "k": np.float32([1000]), "v": second})
    graph = prepare_trt_stage(graph_of(model, tmp_path), tmp_path).graph
    with pytest.raises(StageError, match="beyond 65504"):
        half_trt_stage(graph, images(2), tmp_path)


# ---- batches ---------------------------------------------------------------------------------------------------------------------


def test_any_batch_gives_what_single_images_give() -> None:
    model = net(
        "c = Conv<pads=[1,1,1,1]>(x, w) f = Reshape(c, flat) t = Transpose<perm=[0,2,1]>(f) m = Reshape(t, merged)"
        " p = MatMul(m, k) b = Reshape(p, back) u = Transpose<perm=[0,2,1]>(b) s = Reshape(u, square)"
        ' y = Resize<mode="linear">(s, , , sizes)',
        {
            "w": filters(8, 3),
            "flat": np.int64([1, 8, 256]),
            "merged": np.int64([256, 8]),
            "k": vector(64).reshape(8, 8),
            "back": np.int64([1, 256, 8]),
            "square": np.int64([1, 8, 16, 16]),
            "sizes": np.int64([1, 8, 32, 32]),
        },
    )
    x = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
    wanted = np.concatenate([run(model, one[None]) for one in x])
    np.testing.assert_allclose(run(with_batch(model, None, stage="build"), x), wanted, atol=1e-5)
    np.testing.assert_allclose(run(with_batch(model, 5, stage="build"), x), wanted, atol=1e-5)


def test_a_graph_that_mixes_its_images_is_an_error() -> None:
    model = net("m = ReduceMean<axes=[0], keepdims=1>(x) y = Sub(x, m)", {})
    with pytest.raises(StageError, match="cannot run more than one image at once"):
        with_batch(model, 4, stage="build")


# ---- the stages ------------------------------------------------------------------------------------------------------------------


def test_int8_files_keep_nvidias_rules_and_agree(tmp_path: Path) -> None:
    done = quantize_trt(graph_of(residual(), tmp_path), images(12), tmp_path)
    weak, typed = load_model(done.result.graph.path), load_model(done.typed)
    assert done.result.graph.path.name == "model.qdq.onnx"
    assert done.typed.name == "model.qdq.fp16.onnx"
    assert not [finding for finding in check_trt(weak) if finding.refused]
    assert not [finding for finding in check_trt(typed, max_opset=19) if finding.refused]
    held_out = images(4, seed=9)
    float_outputs = run_images(residual(), held_out)
    assert decision_snr(float_outputs, run_images(weak, held_out)) > 20
    assert decision_snr(float_outputs, run_images(typed, held_out)) > 20
    assert done.typed_db > done.result.score_db - 3
    types = {t.name: t.data_type for t in typed.graph.initializer}
    scales = [types[node.input[1]] for node in typed.graph.node if node.op_type.endswith("quantizeLinear")]
    assert set(scales) == {onnx.TensorProto.FLOAT16}


def test_a_file_that_breaks_a_rule_does_not_leave_the_stage(tmp_path: Path) -> None:
    """A plan whose scale is 0: NVIDIA's parser refuses it, and so does the stage, by node and remedy."""
    graph = graph_of(two_convs(), tmp_path)
    done = quantize_trt(graph, images(4), tmp_path)
    plan = done.result.plan
    broken = QuantPlan(
        target=plan.target, tensors={**plan.tensors, "x": TensorQuant(scale=(0.0,), zero_point=(0,))}, ops=plan.ops
    )
    with pytest.raises(StageError, match=r"breaks \d+ of NVIDIA's rules.*QuantizeLinear.*\(scale\)"):
        quantize_trt(graph, images(4), tmp_path, plan=broken)


def test_without_a_driver_everything_but_the_engine_is_there(tmp_path: Path) -> None:
    outcome = quantize_trt_stage(graph_of(residual(), tmp_path), images(6), SPEC, tmp_path)
    assert any("simulated" in note for note in outcome.notes)
    assert "expected loss" in outcome.notes[0]
    assert "simulation" in outcome.notes[0]
    built = build_engine_stage(outcome.graph, Precision.INT8, tmp_path, environment=Environment(missing="no CUDA driver"))
    assert built.graph == outcome.graph
    assert built.notes == ("engine not built: no CUDA driver",)
    ship = {path.name for path in (tmp_path / "ship").iterdir()}
    assert ship == {
        "model.qdq.onnx",
        "model.qdq.fp16.onnx",
        "build_engine.py",
        "trtexec.txt",
        "calibration-trt8.cache",
        "calibration-trt10.cache",
    }
    script = (tmp_path / "ship" / "build_engine.py").read_text()
    assert len(script.splitlines()) < 100
    assert "edgeseg" not in script
    done = subprocess.run(
        [sys.executable, str(tmp_path / "ship" / "build_engine.py"), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--batch" in done.stdout


def test_status_is_found_among_the_stages() -> None:
    from edgeseg.artifact import StageRecord

    records = [
        StageRecord(name="quantize", seconds=1, peak_mb=1, notes=("99 % in int8",)),
        StageRecord(name="build", seconds=1, peak_mb=1, notes=("engine not built: no GPU",)),
    ]
    assert engine_status(records) == "engine not built: no GPU"
    assert engine_status(records[:1]) == ""


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.FP32])
def test_float_targets(precision: Precision, tmp_path: Path) -> None:
    graph = prepare_trt_stage(graph_of(residual(), tmp_path), tmp_path).graph
    if precision is Precision.FP16:
        graph = half_trt_stage(graph, images(2), tmp_path).graph
    assert graph.path.name == precision.typed_file
    outcome = build_engine_stage(graph, precision, tmp_path, BuildSettings(), Environment(missing="no CUDA driver"))
    assert engine_status_of(outcome.notes) == "engine not built: no CUDA driver"
    assert not list((tmp_path / "ship").glob("*.cache"))
    assert GraphView(load_model(tmp_path / "ship" / "model.onnx")).opset == 17


def engine_status_of(notes: tuple[str, ...]) -> str:
    return next(note for note in notes if note.startswith("engine not built"))


def test_a_built_engine_brings_its_report(tmp_path: Path) -> None:
    """Through the real worker process, with the stand-in for tensorrt."""
    from trt_doubles import fake_python

    from edgeseg.stages.build_engine import EngineDocument
    from edgeseg.trt.driver import CudaDriver, Gpu, TrtPython

    outcome = quantize_trt_stage(graph_of(two_convs(), tmp_path), images(4), SPEC, tmp_path)
    around = Environment(
        CudaDriver((12, 8), (Gpu("Stand-in", (9, 0), 1),)), TrtPython(fake_python("11.4.0", tmp_path), "3", "11.4.0")
    )
    built = build_engine_stage(outcome.graph, Precision.INT8, tmp_path, BuildSettings(batch=(1, 2, 4)), around)
    assert built.graph.format is Format.ENGINE
    assert built.graph.path.name == "model.engine"
    import msgspec

    document = msgspec.json.decode((tmp_path / "ship" / "engine.json").read_bytes(), type=EngineDocument)
    assert document.record.source == "model.qdq.fp16.onnx"
    assert document.report.multiply_adds > 0
    assert (tmp_path / "ship" / "tensorrt.log").is_file()


# ---- the kit ---------------------------------------------------------------------------------------------------------------------


def test_the_calibration_table_is_read_back() -> None:
    scales = {"input": 0.0123, "conv/Relu:0": 1.5e-3}
    plan = QuantPlan(target="", tensors={k: TensorQuant(scale=(v,), zero_point=(0,)) for k, v in scales.items()}, ops=())
    head, *lines = calibration_table(plan, "10").splitlines()
    assert head == "TRT-100300-EntropyCalibration2"
    read = {name: struct.unpack("!f", bytes.fromhex(digits))[0] for name, digits in (line.rsplit(": ", 1) for line in lines)}
    assert read == pytest.approx(scales, rel=1e-7)


def test_precision_flags_on_trtexecs_lines() -> None:
    lines = trtexec_lines("model.qdq.onnx", "int8")
    assert "--onnx=model.qdq.onnx --int8 --fp16" in lines["8"]
    assert "--onnx=model.qdq.fp16.onnx --stronglyTyped" in lines["10"]
    assert not any(flag in lines["11"] for flag in ("--int8", "--fp16", "--stronglyTyped"))
    assert "--onnx=model.onnx" in trtexec_lines("model.onnx", "fp32")["11"]


def test_the_kit_carries_the_settings(tmp_path: Path) -> None:
    settings = BuildSettings(
        batch=(1, 4, 16), workspace_mib=512, level=3, version_compatible=True, hardware_compatible=True, tf32=True
    )
    graph = prepare_trt_stage(graph_of(residual(), tmp_path), tmp_path).graph
    batched = any_batch_stage(graph, Precision.FP32).graph
    build_engine_stage(batched, Precision.FP32, tmp_path, settings, Environment(missing="no CUDA driver"))
    ship = tmp_path / "ship"
    for line in (ship / "trtexec.txt").read_text().splitlines()[1::2]:
        words = set(line.split())
        assert {"--minShapes=x:1x3x16x16", "--optShapes=x:4x3x16x16", "--maxShapes=x:16x3x16x16"} <= words
        assert {"--memPoolSize=workspace:512", "--builderOptimizationLevel=3", "--versionCompatible"} <= words
        assert "--hardwareCompatibilityLevel=ampere+" in words
        assert "--noTF32" not in words
    script = (ship / "build_engine.py").read_text()
    for line in ("BATCH = (1, 4, 16)", "WORKSPACE_MIB = 512", "LEVEL = 3", "VERSION_COMPATIBLE = True", "TF32 = True"):
        assert line in script.splitlines()
    assert not any(flag in trtexec_lines("model.onnx", "fp32")["8"] for flag in ("Shapes", "Compat", "Level"))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_shipped_file_takes_any_batch(count: int, tmp_path: Path) -> None:
    graph = quantize_trt_stage(graph_of(residual(), tmp_path), images(4), SPEC, tmp_path).graph
    single = load_model(graph.path)
    batched = any_batch_stage(graph, Precision.INT8).graph
    assert batched.digest != graph.digest
    model = load_model(batched.path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not [finding for finding in check_trt(model) if finding.refused]
    x = np.random.default_rng(2).normal(size=(count, 3, 16, 16)).astype(np.float32)
    wanted = np.concatenate([run(single, one[None]) for one in x])
    np.testing.assert_allclose(run(model, x), wanted, atol=1e-4)
    assert quantized_share(model) == quantized_share(single), "work is counted for one image"
    again = any_batch_stage(batched, Precision.INT8).graph
    np.testing.assert_allclose(run(load_model(again.path), x), wanted, atol=1e-4)
