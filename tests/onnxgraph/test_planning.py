"""Which operators get which domain, and the scales that follow."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_nets import filters, images, net, residual, two_convs, vector

from edgeseg.onnxgraph.planning import end_operators, initial_plan, quantized_tensors, tensor_options
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.onnxgraph.statistics import collect
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain
from edgeseg.quantize.ranges import ESTIMATORS, estimate

ORT, TRT = QdqStyle.ONNXRUNTIME, QdqStyle.TENSORRT


def observed(model: onnx.ModelProto, folder: Path, style: QdqStyle = ORT) -> dict[str, Observer]:
    path = folder / "float.onnx"
    onnx.save_model(model, str(path))
    return collect(path, images(4), tensors=quantized_tensors(model, style=style))


def test_only_tensors_that_are_stored_in_int8_have_a_scale(tmp_path: Path) -> None:
    model = residual()
    plan = initial_plan(model, observed(model, tmp_path))
    assert list(plan.tensors) == ["x", "r", "c", "s", "p", "u", "v", "k", "y"], "not 'a', which ends inside its convolution"
    assert plan.tensors["p"] == plan.tensors["r"], "MaxPool passes its scale on"
    assert plan.tensors["v"] == plan.tensors["u"], "so does Resize"
    assert {quant.dtype for quant in plan.tensors.values()} == {"uint8"}
    assert initial_plan(model, observed(model, tmp_path, TRT), style=TRT).tensors.keys() == {"x", "r", "p", "k"}


def test_ranges_are_the_estimators(tmp_path: Path) -> None:
    model = two_convs()
    observers = observed(model, tmp_path)
    plan = initial_plan(model, observers, estimator="entropy")
    assert plan.tensors["r"].high == estimate(observers["r"], "entropy").high
    options = tensor_options(model, plan, observers)
    assert list(options["r"]) == list(ESTIMATORS)
    assert options["r"]["entropy"] == plan.tensors["r"]


def test_what_stands_between_float_operators_stays_float(tmp_path: Path) -> None:
    model = net(
        "a = Conv<pads=[1,1,1,1]>(x, w) e = Tanh(a) s = Add(a, e) m = MaxPool<kernel_shape=[2,2]>(s) y = Conv(m, w)",
        {"w": filters(3, 3)},
    )
    plan = initial_plan(model, observed(model, tmp_path))
    assert [entry.op for entry in plan.ops if entry.domain is Domain.INT8] == ["a", "y"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = ConvTranspose<strides=[2,2]>(x, w)", "no integer ConvTranspose"),
        ("f = Flatten(x) g = Transpose<perm=[1,0]>(f) t = MatMul(f, g)", "both factors are activations"),
        ("f = Flatten(x) t = Gemm<alpha=0.5, transB=1>(f, m)", "transA, alpha or beta"),
        ("k = Abs(b) t = Conv(x, w, k)", "not one constant per output channel"),
    ],
)
def test_reasons_for_float(tmp_path: Path, body: str, reason: str) -> None:
    weights = {"w": filters(3, 3), "b": vector(3), "m": vector(768 * 4).reshape(4, 768)}
    model = net(f"{body} y = Tanh(t)", weights)
    plan = initial_plan(model, observed(model, tmp_path))
    entry = next(entry for entry in plan.ops if entry.op == "t")
    assert entry.domain is Domain.FLOAT
    assert reason in entry.why


def test_operators_that_must_stay_float_take_what_depends_on_them_along(tmp_path: Path) -> None:
    model = residual()
    plan = initial_plan(model, observed(model, tmp_path), keep_float={"c": "by request"})
    floats = {entry.op: entry.why for entry in plan.ops if entry.domain is Domain.FLOAT}
    assert floats["c"] == "by request"
    assert set(floats) == {"c", "s", "k", "v"}, "operators that join or resize lose their int8 neighbours"
    assert "k" in plan.tensors, "the last convolution still reads int8"


def test_ends_of_the_network(tmp_path: Path) -> None:
    model = residual()
    plan = initial_plan(model, observed(model, tmp_path))
    assert end_operators(model, plan, share=1.0) == (("a",), ("y",))
    assert end_operators(model, plan, share=0.15) == ((), ("y",))
    assert end_operators(model, plan, share=0.001) == ((), ())
