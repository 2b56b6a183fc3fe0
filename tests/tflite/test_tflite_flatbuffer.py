"""Reading and writing TFLite files, judged by LiteRT and by the schema's own reader."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tf_cases import BY_KIND, C, H, W, builder, conv, finish, inputs, normal

from edgeseg.errors import ModelError, OutputError, StageError
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import Array, TfOp, TfTensor

ARTIFACTS = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared")) / "artifacts"


def outputs_of(path: Path, feed: Array) -> list[Array]:
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed)
    interpreter.invoke()
    return [interpreter.get_tensor(raw["index"]) for raw in interpreter.get_output_details()]


@pytest.mark.parametrize("kind", BY_KIND)
def test_what_is_read_back_is_what_was_written(kind: str, tmp_path: Path) -> None:
    graph = BY_KIND[kind]()
    write(graph, tmp_path / "a.tflite")
    again = read(tmp_path / "a.tflite")
    assert again.inputs == graph.inputs
    assert again.outputs == graph.outputs
    assert again.tensors == graph.tensors
    for name, tensor in graph.tensors.items():
        if tensor.data is not None:
            np.testing.assert_array_equal(again.tensors[name].data, tensor.data)
    for before, after in zip(graph.ops, again.ops, strict=True):
        assert (after.kind, after.inputs, after.outputs, after.options_type) == (
            before.kind,
            before.inputs,
            before.outputs,
            before.options_type,
        )
        assert before.options.items() <= after.options.items()
    write(again, tmp_path / "b.tflite")
    for image in inputs(graph, 1):
        for left, right in zip(outputs_of(tmp_path / "a.tflite", image), outputs_of(tmp_path / "b.tflite", image), strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["mnv3_seg_float", "mnv3_post_quant", "mnv3_post_quant_aware"])
def test_files_of_other_tools_keep_their_outputs(name: str, tmp_path: Path) -> None:
    source = ARTIFACTS / f"{name}.tflite"
    if not source.exists():
        pytest.skip(f"{source} is absent; set EDGESEG_DATA")
    write(read(source), tmp_path / "again.tflite")
    detail = Interpreter(str(source)).get_input_details()[0]
    feed = np.random.default_rng(0).uniform(0, 255, detail["shape"]).astype(detail["dtype"])
    left, right = outputs_of(source, feed), outputs_of(tmp_path / "again.tflite", feed)
    assert left[0].std() > 0
    np.testing.assert_array_equal(left[0], right[0])


def test_equal_constants_share_a_buffer_and_buffers_are_aligned(tmp_path: Path) -> None:
    made = builder()
    weights = normal(C, 3, 3, C)
    first = conv(made, "x", weights)
    graph = finish(made, conv(made, first, weights.copy()))
    write(graph, tmp_path / "a.tflite")
    content = (tmp_path / "a.tflite").read_bytes()
    assert len(content) < 1.5 * weights.nbytes
    model = schema.Model.GetRootAs(content)
    stored = [model.Buffers(i) for i in range(model.BuffersLength())]
    assert stored[0].DataLength() == 0
    for buffer in stored[1:]:
        data = buffer.DataAsNumpy()
        assert (data.ctypes.data - np.frombuffer(content, np.uint8).ctypes.data) % 16 == 0
        assert (buffer.Offset(), buffer.Size()) == (0, 0)


def test_signature_and_versions(tmp_path: Path) -> None:
    write(BY_KIND["GELU"](), tmp_path / "a.tflite")
    signatures = Interpreter(str(tmp_path / "a.tflite")).get_signature_list()
    assert list(signatures) == ["serving_default"]
    assert signatures["serving_default"]["inputs"] == ["x"]
    code = schema.ModelT.InitFromPackedBuf((tmp_path / "a.tflite").read_bytes(), 0).operatorCodes[0]
    assert code.builtinCode == schema.BuiltinOperator.GELU == 150
    assert code.deprecatedBuiltinCode == 127
    write(BY_KIND["RESIZE_BILINEAR"](), tmp_path / "a.tflite", signature=False)
    code = schema.ModelT.InitFromPackedBuf((tmp_path / "a.tflite").read_bytes(), 0).operatorCodes[0]
    assert code.version == 3  # half-pixel centres
    assert not Interpreter(str(tmp_path / "a.tflite")).get_signature_list()


def test_repeated_and_missing_names_become_unique(tmp_path: Path) -> None:
    graph = BY_KIND["TANH"]()
    write(graph, tmp_path / "a.tflite")
    model = schema.ModelT.InitFromPackedBuf((tmp_path / "a.tflite").read_bytes(), 0)
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"same"
    import flatbuffers

    fresh = flatbuffers.Builder(1024)
    fresh.Finish(model.Pack(fresh), file_identifier=b"TFL3")
    (tmp_path / "b.tflite").write_bytes(fresh.Output())
    again = read(tmp_path / "b.tflite")
    assert len(again.tensors) == 2
    assert again.inputs != again.outputs


@pytest.mark.parametrize("content", [b"", b"TFL3", b"plain text that is no model at all", b"\x10\0\0\0TFL3" + b"\xff" * 40])
def test_no_tflite_file_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(ModelError):
        read(tmp_path / "a.tflite")
    with pytest.raises(ModelError, match="cannot be read"):
        read(tmp_path / "missing.tflite")


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    write(BY_KIND["CONV_2D"](), tmp_path / "a.tflite")
    content = (tmp_path / "a.tflite").read_bytes()
    (tmp_path / "a.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError):
        read(tmp_path / "a.tflite")


def test_malformed_graphs_are_refused_before_the_runtime_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    backwards = BY_KIND["CONCATENATION"]()
    backwards.ops.reverse()
    with pytest.raises(StageError, match="before anything computes it"):
        write(backwards, path)
    lying = BY_KIND["CONV_2D"]()
    lying.tensors["b"] = replace(lying.tensors["b"], shape=(7,))
    with pytest.raises(StageError, match="declared"):
        write(lying, path)
    odd = BY_KIND["TANH"]()
    odd.ops[0] = TfOp("SOFTMAX", odd.ops[0].inputs, odd.ops[0].outputs, {"gamma": 1.0}, "SoftmaxOptions")
    with pytest.raises(StageError, match="no field 'gamma'"):
        write(odd, path)
    void = BY_KIND["TANH"]()
    void.outputs = ("nowhere",)
    with pytest.raises(StageError, match="nothing computes"):
        write(void, path)
    assert not path.exists()


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write(BY_KIND["TANH"](), tmp_path / "missing" / "a.tflite")


def test_large_constants_cost_little_beyond_their_bytes(tmp_path: Path) -> None:
    made = builder(1, 1, 1, 1024)
    weights = made.constant("w", np.arange(8192 * 1024, dtype=np.float32).reshape(8192, 1024))
    graph = finish(made, made.op("FULLY_CONNECTED", ("x", weights, None), (1, 8192)))
    write(graph, tmp_path / "a.tflite")
    assert (tmp_path / "a.tflite").stat().st_size < 8192 * 1024 * 4 + 4096
    found = read(tmp_path / "a.tflite").tensors["w"].data
    assert found is not None
    np.testing.assert_array_equal(found, graph.tensors["w"].data)


def test_all_element_types_survive(tmp_path: Path) -> None:
    graph = finish(builder(H, W), "x")
    names = ["float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool"]
    for name in names:
        graph.tensors[name] = TfTensor(name, (3,), name, np.asarray([1, 0, 1], name))
    graph.outputs = tuple(names)
    write(graph, tmp_path / "a.tflite")
    again = read(tmp_path / "a.tflite")
    for name in names:
        assert again.tensors[name].data is not None
        np.testing.assert_array_equal(again.tensors[name].data, graph.tensors[name].data)
