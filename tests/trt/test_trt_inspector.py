"""What the engine inspector's JSON tells, in the forms that TensorRT's versions write, joined with the ONNX graph."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx_nets import images, two_convs

from edgeseg.errors import ModelError
from edgeseg.graph import Format, Graph
from edgeseg.onnxgraph.view import GraphView, load_model
from edgeseg.stages.quantize_trt import quantize_trt
from edgeseg.trt.inspector import read_layers, report_engine

INT8 = "Thirty-two wide channel vectorized row major Int8 format"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    folder = tmp_path_factory.mktemp("q")
    onnx.save_model(two_convs(), str(folder / "float.onnx"))
    done = quantize_trt(Graph.of(folder / "float.onnx", Format.ONNX), images(4), folder)
    return load_model(done.result.graph.path)


def layer(
    name: str, kind: str = "CaskConvolution", inside: str = INT8, weights: str = "Int8", **more: object
) -> dict[str, object]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "a", "Dimensions": [1, 3, 16, 16], "Format/Datatype": inside}],
        "Outputs": [{"Name": "b", "Dimensions": [1, 8, 16, 16], "Format/Datatype": INT8}],
        "Weights": {"Type": weights, "Count": 216},
        **more,
    }


def written(folder: Path, *layers: object) -> Path:
    path = folder / "layers.json"
    path.write_text(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))
    return path


def convs(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def test_shares_reformats_and_reasons(quantized: onnx.ModelProto, tmp_path: Path) -> None:
    first, second = convs(quantized)
    view = GraphView(quantized)
    work = [view.multiply_adds(node) for node in quantized.graph.node if node.op_type == "Conv"]
    path = written(
        tmp_path,
        {"Name": "Reformatting CopyNode for Input Tensor 0 to n0", "LayerType": "Reformat", "Inputs": [], "Outputs": []},
        layer(f"w_DequantizeLinear + {first} + n1"),
        layer("fused", inside="Row major linear FP32", weights="Float", Metadata=f"[ONNX Layer: {second}]"),
    )
    report = report_engine(path, quantized)
    assert report.reformats == 1
    assert report.multiply_adds == sum(work)
    assert report.multiply_adds_by_precision == {"int8": work[0], "fp32": work[1]}
    assert report.int8_share == pytest.approx(work[0] / sum(work))
    assert report.unplaced == 0
    assert report.layers[1].nodes[-2:] == (first, "n1")
    assert "found a float one faster" in report.layers[2].why
    assert report.layers[1].why == ""


def test_why_names_a_node_without_pairs(tmp_path: Path) -> None:
    model = two_convs()
    name = convs(model)[0]
    report = report_engine(written(tmp_path, layer(name, inside="Row major linear FP16 format", weights="Half")), model)
    assert report.layers[0].precision == "fp16"
    assert "the plan keeps it in float" in report.layers[0].why
    assert report.unplaced > 0


def test_newer_forms_of_the_element_type(tmp_path: Path) -> None:
    tensors = [{"Name": "a", "Datatype": "Int8", "Format": "N/A due to dynamic shapes"}]
    path = written(
        tmp_path,
        {"Name": "n0", "LayerType": "gemm", "Inputs": tensors, "Outputs": [{"Name": "b", "Format/Datatype": "Half"}]},
        {
            "Name": "n1",
            "LayerType": "kgen",
            "Inputs": [{"Name": "b", "DataType": "BFloat16"}, {"Name": "c", "DataType": "Float"}],
        },
    )
    one, two = read_layers(path)
    assert (one.precision, one.inputs, one.outputs) == ("int8", ("int8",), ("fp16",))
    assert two.inputs == ("bf16", "fp32")


def test_int8_weights_on_a_float_input_are_float_arithmetic(tmp_path: Path) -> None:
    (found,) = read_layers(written(tmp_path, layer("n0", inside="Row major linear FP32", weights="Int8")))
    assert found.precision == "fp32"


def test_names_only_and_fused_regions_are_unknown(quantized: onnx.ModelProto, tmp_path: Path) -> None:
    first, second = convs(quantized)
    report = report_engine(written(tmp_path, first, f"{{ForeignNode[{second}...n9]}}"), quantized)
    assert [entry.precision for entry in report.layers] == ["unknown", "unknown"]
    assert report.int8_share == 0
    assert 0 < report.unplaced < report.multiply_adds


def test_not_the_inspectors_json(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text("Layers: 3")
    with pytest.raises(ModelError, match="is not the engine inspector's JSON"):
        read_layers(tmp_path / "layers.json")
