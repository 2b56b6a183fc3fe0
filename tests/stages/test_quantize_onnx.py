"""The stage on small nets: a file that onnxruntime runs on integers, or one clear error."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edgeseg.errors import StageError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.metrics.expected import ExpectedDrop
from edgeseg.onnxgraph.kernels import runtime_operators
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.onnxgraph.statistics import run_images
from edgeseg.onnxgraph.view import GraphView, load_model
from edgeseg.quantize.estimate import decision_snr
from edgeseg.quantize.plan import Domain, QuantPlan, read_plan
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec
from edgeseg.stages.qdq_options import QdqOptions
from edgeseg.stages.quantize_onnx import SearchSettings, quantize_onnx, quantize_onnx_stage

sys.path.insert(0, str(Path(__file__).parents[1] / "onnxgraph"))
from onnx_nets import filters, images, net, residual, two_convs, vector


def graph_of(model: onnx.ModelProto, folder: Path) -> Graph:
    path = folder / "float.onnx"
    onnx.save_model(model, str(path))
    return Graph.of(path, Format.ONNX)


WHOLE = SearchSettings(ends_share=0)
SPEC = ModelSpec(input=InputSpec(shape=(1, 3, 16, 16)), classes=ClassesSpec(names=("a", "b", "c", "d")))


def test_the_default_plan(tmp_path: Path) -> None:
    result = quantize_onnx(graph_of(residual(), tmp_path), images(20), tmp_path / "int8.onnx", settings=WHOLE)
    quantized = load_model(result.graph.path)
    assert runtime_operators(quantized)["QLinearConv"] == 4
    assert result.share.share == 1
    held_out = images(4, seed=5)
    assert decision_snr(run_images(residual(), held_out), run_images(quantized, held_out)) > 25
    assert abs(result.score_db - decision_snr(run_images(residual(), images(4)), run_images(quantized, images(4)))) < 1e-6
    view = GraphView(quantized)
    for name, quant in result.plan.tensors.items():
        assert float(view.constant(f"{name}_scale")) == quant.scale[0]
    assert {entry.op for entry in result.int8_ops} | {entry.op for entry in result.float_ops} == set("arcspuvky")
    assert all(entry.why for entry in result.plan.ops)


def test_a_plan_is_carried_out_as_it_was_written(tmp_path: Path) -> None:
    graph = graph_of(two_convs(), tmp_path)
    first = quantize_onnx_stage(graph, images(8), SPEC, tmp_path)
    written = read_plan(tmp_path / "quantization.json")
    assert any("multiply-adds in int8" in note for note in first.notes)
    edited = msgspec.structs.replace(
        written, tensors={**written.tensors, "x": msgspec.structs.replace(written.tensors["x"], scale=(0.5,))}
    )
    (tmp_path / "edited.json").write_bytes(msgspec.json.encode(edited))
    (tmp_path / "again").mkdir()
    second = quantize_onnx_stage(graph, images(8), SPEC, tmp_path / "again", QdqOptions(plan=tmp_path / "edited.json"))
    assert float(GraphView(load_model(second.graph.path)).constant("x_scale")) == 0.5
    assert read_plan(tmp_path / "again" / "quantization.json") == edited
    assert first.graph.digest != second.graph.digest


def test_the_same_images_give_the_same_file(tmp_path: Path) -> None:
    graph = graph_of(two_convs(), tmp_path)
    one = quantize_onnx(graph, images(6), tmp_path / "a.onnx")
    two = quantize_onnx(graph, images(6), tmp_path / "b.onnx")
    assert one.graph.digest == two.graph.digest


def test_an_operator_that_int8_ruins_returns_to_float(tmp_path: Path) -> None:
    """A tensor whose useful values are a ten-thousandth of its range: no scale serves both."""
    gain = np.float32([1e4, 1, 1, 1]).reshape(1, 4, 1, 1)
    model = net(
        "c = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(c) g = Mul(r, gain) d = Conv<pads=[1,1,1,1]>(g, w2)"
        " e = Relu(d) y = Conv(e, w3, b3)",
        {
            "w1": filters(4, 3),
            "gain": gain,
            "w2": (filters(8, 4, seed=1) / gain).astype(np.float32),
            "w3": filters(4, 8, seed=2),
            "b3": vector(4),
        },
    )
    settings = SearchSettings(floor_db=25)
    result = quantize_onnx(graph_of(model, tmp_path), images(20), tmp_path / "int8.onnx", settings=settings)
    assert [entry.op for entry in result.float_ops if entry.kind == "Conv"] == ["d"]
    assert "dB" in next(entry.why for entry in result.plan.ops if entry.op == "d")
    assert result.score_db > 25
    assert "d" not in result.plan.tensors


def _spoilt() -> onnx.ModelProto:
    """The middle convolution reads a tensor whose useful values are a thousandth of its range."""
    gain = np.float32([1e3, 1, 1, 1]).reshape(1, 4, 1, 1)
    return net(
        "c = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(c) g = Mul(r, gain) d = Conv<pads=[1,1,1,1]>(g, w2)"
        " e = Relu(d) y = Conv(e, w3, b3)",
        {
            "w1": filters(4, 3),
            "gain": gain,
            "w2": (filters(8, 4, seed=1) / gain).astype(np.float32),
            "w3": filters(4, 8, seed=2),
            "b3": vector(4),
        },
    )


def test_the_stage_holds_the_budget_and_says_so(tmp_path: Path) -> None:
    graph = graph_of(_spoilt(), tmp_path)

    def run(name: str, options: QdqOptions) -> tuple[QuantPlan, float, tuple[str, ...]]:
        (tmp_path / name).mkdir()
        outcome = quantize_onnx_stage(graph, images(20), SPEC, tmp_path / name, options)
        held_out = images(4, seed=5)
        estimate = ExpectedDrop()
        for exact, found in zip(
            run_images(_spoilt(), held_out), run_images(load_model(outcome.graph.path), held_out), strict=True
        ):
            estimate.update(exact, found)
        return read_plan(tmp_path / name / "quantization.json"), estimate.drop, outcome.notes

    whole, lost, notes = run("full", QdqOptions(policy="full", budget=1.0))
    held, kept, held_notes = run("auto", QdqOptions(budget=1.0))
    assert whole.domain_of("d") is Domain.INT8
    assert lost > 2.0
    assert any("VETO" in note and "onnx-fp32" in note for note in notes)
    assert held.domain_of("d") is Domain.FLOAT
    assert kept < 1.0
    assert any(note.startswith("expected loss 0.") for note in held_notes)
    assert not any("VETO" in note for note in held_notes)
    tight, _, tight_notes = run("tight", QdqOptions(budget=0.5))
    floats = [entry.op for entry in tight.ops if entry.kind == "Conv" and entry.domain is Domain.FLOAT]
    assert len(floats) == 2
    assert "in float the budget holds" in next(entry.why for entry in tight.ops if entry.op == (set(floats) - {"d"}).pop())
    assert any("more weighted operators in float" in note for note in tight_notes)
    with pytest.raises(UsageError, match="no weighted operator MatMul"):
        run("named", QdqOptions(policy="float-ops=MatMul"))


def test_an_end_of_the_network_stays_float_where_that_pays(tmp_path: Path) -> None:
    graph = graph_of(residual(), tmp_path)
    whole = quantize_onnx(graph, images(20), tmp_path / "whole.onnx", settings=WHOLE)
    result = quantize_onnx(graph, images(20), tmp_path / "int8.onnx", settings=SearchSettings(ends_share=0.15))
    assert [entry.op for entry in result.float_ops if entry.kind == "Conv"] == ["y"]
    assert "last of the network" in next(entry.why for entry in result.plan.ops if entry.op == "y")
    assert result.score_db > whole.score_db + 1
    kept = quantize_onnx(graph, images(20), tmp_path / "kept.onnx", settings=SearchSettings(ends_share=0.15, ends_gain_db=50))
    assert kept.graph.digest == whole.graph.digest


def test_tensorrt_style_is_simulated_with_symmetric_scales(tmp_path: Path) -> None:
    graph = graph_of(residual(), tmp_path)
    result = quantize_onnx(graph, images(8), tmp_path / "q.onnx", style=QdqStyle.TENSORRT, settings=WHOLE)
    assert result.plan.target == "tensorrt-int8"
    assert {quant.zero_point for quant in result.plan.tensors.values()} == {(0,)}
    assert result.score_db > 22
    assert result.share.share == 1


def test_nothing_to_quantize_is_an_error(tmp_path: Path) -> None:
    model = net("y = ConvTranspose<strides=[2,2]>(x, w)", {"w": filters(3, 2, 2)})
    with pytest.raises(StageError, match="no integer ConvTranspose"):
        quantize_onnx(graph_of(model, tmp_path), images(2), tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_int8_that_onnxruntime_runs_in_float_is_an_error(tmp_path: Path) -> None:
    model = net("c = Conv(x, w1) y = ConvTranspose<strides=[2,2]>(c, w2)", {"w1": filters(4, 3), "w2": filters(4, 2, 2)})
    graph = graph_of(model, tmp_path)
    plan = quantize_onnx(graph, images(2), tmp_path / "q.onnx").plan
    wanted = QuantPlan(
        target=plan.target,
        tensors={**plan.tensors, "y": plan.tensors["c"]},
        ops=tuple(msgspec.structs.replace(entry, domain=Domain.INT8) for entry in plan.ops),
    )
    with pytest.raises(StageError, match="runs 1 weighted operators on integers, the plan has 2"):
        quantize_onnx(graph, images(2), tmp_path / "q2.onnx", plan=wanted)


def test_a_plan_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"tensors": 3}')
    with pytest.raises(UsageError, match=r"plan\.json' is not a quantization plan"):
        read_plan(tmp_path / "plan.json")
