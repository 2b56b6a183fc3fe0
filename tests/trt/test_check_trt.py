"""``edgeseg check-trt``: the command as it is run."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx_nets import images, two_convs

from edgeseg.cli.check_trt import command
from edgeseg.errors import ModelError
from edgeseg.graph import Format, Graph
from edgeseg.stages.quantize_onnx import quantize_onnx
from edgeseg.stages.quantize_trt import quantize_trt


@pytest.fixture(scope="module")
def float_graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    path = tmp_path_factory.mktemp("check") / "float.onnx"
    onnx.save_model(two_convs(), str(path))
    return Graph.of(path, Format.ONNX)


def test_a_good_file(float_graph: Graph, tmp_path: Path) -> None:
    path = quantize_trt(float_graph, images(4), tmp_path).result.graph.path
    done = CliRunner().invoke(command, [str(path)])
    assert done.exit_code == 0
    assert "0 reasons to refuse the file, 0 that cost" in done.output


def test_onnxruntimes_form_is_refused_by_node_and_remedy(float_graph: Graph, tmp_path: Path) -> None:
    path = quantize_onnx(float_graph, images(4), tmp_path / "ort.onnx").graph.path
    done = CliRunner().invoke(command, [str(path), "--json"])
    assert done.exit_code == 3
    found = json.loads(done.output)
    rules = {entry["rule"] for entry in found["findings"] if entry["refused"]}
    assert {"quantized-bias", "element-type"} <= rules
    assert found["refused"] == sum(entry["refused"] for entry in found["findings"])
    assert all(entry["node"] and entry["remedy"] for entry in found["findings"] if entry["rule"] in rules)


def test_the_opset_of_the_version_meant(float_graph: Graph, tmp_path: Path) -> None:
    done = quantize_trt(float_graph, images(4), tmp_path)
    assert CliRunner().invoke(command, [str(done.typed)]).exit_code == 3
    assert CliRunner().invoke(command, [str(done.typed), "--opset", "19"]).exit_code == 0


def test_a_float_file_is_advice_only(float_graph: Graph) -> None:
    assert CliRunner().invoke(command, [str(float_graph.path)]).exit_code == 0
    assert CliRunner().invoke(command, [str(float_graph.path), "--strict"]).exit_code == 3


def test_weights_in_a_file_beside_it(float_graph: Graph, tmp_path: Path) -> None:
    model = onnx.load_model(str(quantize_trt(float_graph, images(4), tmp_path).result.graph.path))
    path = tmp_path / "apart.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="apart.data", size_threshold=0)
    assert CliRunner().invoke(command, [str(path)]).exit_code == 0
    (tmp_path / "apart.data").unlink()
    done = CliRunner().invoke(command, [str(path)])
    assert isinstance(done.exception, ModelError)
    assert "apart.data" in done.exception.message


@pytest.mark.parametrize("content", [b"", b"hello, world" * 9, bytes(range(256)) * 8])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    done = CliRunner().invoke(command, [str(path)])
    assert isinstance(done.exception, ModelError)
    assert str(path) in done.exception.message
