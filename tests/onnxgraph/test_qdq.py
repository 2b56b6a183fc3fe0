"""Q/DQ pairs read back from the graph, and what onnxruntime makes of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx_nets import filters, images, net, residual, two_convs, vector

from edgeseg.errors import ModelError, UsageError
from edgeseg.onnxgraph.kernels import quantized_share, runtime_operators
from edgeseg.onnxgraph.planning import initial_plan, quantized_tensors
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq, quantize_weights
from edgeseg.onnxgraph.statistics import collect, run_images
from edgeseg.onnxgraph.view import GraphView
from edgeseg.quantize.estimate import decision_snr, in_float
from edgeseg.quantize.plan import Domain, QuantPlan

ORT, TRT = QdqStyle.ONNXRUNTIME, QdqStyle.TENSORRT


def planned(model: onnx.ModelProto, tmp_path: Path, style: QdqStyle = ORT, **kwargs: int) -> QuantPlan:
    path = tmp_path / "float.onnx"
    onnx.save_model(model, str(path))
    observers = collect(path, images(8, **kwargs), tensors=quantized_tensors(model, style=style))
    return initial_plan(model, observers, style=style)


def quality(model: onnx.ModelProto, quantized: onnx.ModelProto, **kwargs: int) -> float:
    held_out = images(4, seed=9, **kwargs)
    return decision_snr(run_images(model, held_out), run_images(quantized, held_out))


def pairs(model: onnx.ModelProto, kind: str = "QuantizeLinear") -> dict[str, tuple[float, int, str]]:
    """Activation to scale, zero point and type of the node that quantizes it."""
    view = GraphView(model)
    found = {}
    for node in view.nodes:
        if node.op_type == kind and not view.is_constant(node.input[0]):
            scale, zero = view.constant(node.input[1]), view.constant(node.input[2])
            found[node.input[0].removesuffix("_float")] = (float(scale), int(zero), str(zero.dtype))
    return found


@pytest.mark.parametrize("style", [ORT, TRT])
def test_the_files_scales_are_the_plans(tmp_path: Path, style: QdqStyle) -> None:
    model = residual()
    plan = planned(model, tmp_path, style)
    found = pairs(insert_qdq(model, plan, style=style))
    assert found == {name: (q.scale[0], q.zero_point[0], q.dtype) for name, q in plan.tensors.items()}


def test_onnxruntime_runs_everything_between_int8_operators_on_integers(tmp_path: Path) -> None:
    model = residual()
    quantized = insert_qdq(model, planned(model, tmp_path), style=ORT)
    kinds = runtime_operators(quantized)
    assert kinds["QLinearConv"] == 4
    assert kinds["QLinearAdd"] == kinds["QLinearConcat"] == 1
    assert not {"Conv", "FusedConv", "Add", "Relu", "Concat"} & set(kinds)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1, "only at the input and the output"
    assert quality(model, quantized) > 27
    share = quantized_share(quantized)
    assert share.share == 1
    assert share.others.total() == 0


@pytest.mark.parametrize(
    "middle",
    [
        "m = MaxPool<kernel_shape=[2,2]>(r)",
        "m = Transpose<perm=[0,1,3,2]>(r)",
        "m = Reshape(r, shape)",
        'm = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(r, , scales)',
        "m = DepthToSpace<blocksize=2>(r)",
        "m = AveragePool<kernel_shape=[2,2]>(r)",
        "m = GlobalAveragePool(r)",
        "m = Mul(r, r)",
    ],
)
def test_operators_that_stay_between_integers(tmp_path: Path, middle: str) -> None:
    into = 2 if "DepthToSpace" in middle else 8
    model = net(
        f"c = Conv(x, w1, b1) r = Relu(c) {middle} y = Conv(m, w2)",
        {
            "w1": filters(8, 3),
            "b1": vector(8),
            "w2": filters(4, into, 1, seed=1),
            "shape": np.int64([1, 8, 7, 28]),
            "scales": np.float32([1, 1, 2, 2]),
        },
    )
    plan = planned(model, tmp_path)
    quantized = insert_qdq(model, plan, style=ORT)
    kinds = runtime_operators(quantized)
    assert kinds["DequantizeLinear"] == 1, kinds
    assert quality(model, quantized) > 28


def test_what_has_no_integer_kernel_stays_float_with_ranges_of_its_own(tmp_path: Path) -> None:
    model = net(
        'c = Conv(x, w1) m = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(c, , scales) y = Conv(m, w2)',
        {"w1": filters(8, 3), "w2": filters(4, 8, 1, seed=1), "scales": np.float32([1, 1, 2, 2])},
    )
    plan = planned(model, tmp_path)
    assert plan.domain_of("m") is Domain.FLOAT
    assert plan.tensors["m"].scale < plan.tensors["c"].scale
    assert quality(model, insert_qdq(model, plan, style=ORT)) > 30


def test_every_weighted_kind_has_an_integer_kernel(tmp_path: Path) -> None:
    model = net(
        "c = Conv<group=4>(x, w1, b1) f = Flatten(c) g = Gemm<transB=1>(f, w2, b2) h = Gemm(g, w3) y = MatMul(h, w4)",
        {
            "w1": filters(8, 1),
            "b1": vector(8),
            "w2": vector(6 * 1568, scale=0.05).reshape(6, 1568),
            "b2": vector(6),
            "w3": vector(30, 2).reshape(6, 5),
            "w4": vector(35, 3).reshape(5, 7),
        },
        channels=4,
    )
    quantized = insert_qdq(model, planned(model, tmp_path, channels=4), style=ORT)
    kinds = runtime_operators(quantized)
    assert kinds["QLinearConv"] == 1
    assert kinds["QGemm"] == 2
    assert kinds["QLinearMatMul"] + kinds["MatMulIntegerToFloat"] == 1
    assert quality(model, quantized, channels=4) > 23


def test_weights_are_int8_per_output_channel() -> None:
    weights = filters(8, 3)
    weights[2] = 0
    levels, scale = quantize_weights(weights, 0)
    assert levels.dtype == np.int8
    assert scale[2] == 1
    assert not levels[2].any()
    used = np.arange(8) != 2
    assert (np.abs(levels).reshape(8, -1).max(axis=1)[used] == 127).all()
    back = levels * scale[:, None, None, None]
    assert (np.abs(back - weights) <= scale[:, None, None, None] / 2 + 1e-7).all()


def test_per_channel_scales_save_channels_of_unequal_size(tmp_path: Path) -> None:
    model = two_convs()
    plan = planned(model, tmp_path)
    quantized = insert_qdq(model, plan, style=ORT)
    view = GraphView(quantized)
    weight_pairs = [n for n in view.nodes if n.op_type == "DequantizeLinear" and view.is_constant(n.input[0])]
    assert sorted(view.constant(n.input[0]).dtype.name for n in weight_pairs) == ["int32", "int32", "int8", "int8"]
    assert all(view.constant(n.input[1]).size == view.constant(n.input[0]).shape[0] for n in weight_pairs)
    assert quality(model, quantized) > 30


def test_a_bias_far_above_the_products_is_kept(tmp_path: Path) -> None:
    """Its int32 would overflow at the scale of tiny weights."""
    weights = filters(4, 3)
    weights[1] = 1e-12
    bias = np.float32([0.1, 500.0, -0.2, 0])
    model = net("y = Conv(x, w, b)", {"w": weights, "b": bias})
    quantized = insert_qdq(model, planned(model, tmp_path), style=ORT)
    got = run_images(quantized, images(1))[0]
    assert got[0, 1] == pytest.approx(np.full((14, 14), 500.0), rel=0.01)


@pytest.mark.parametrize("style", [ORT, TRT])
def test_weights_and_inputs_shared_by_operators(tmp_path: Path, style: QdqStyle) -> None:
    model = net(
        "a = Conv<pads=[1,1,1,1]>(x, w) s = Softplus(a) e = Exp(a) b = Conv<pads=[1,1,1,1]>(s, w) q = Conv<pads=[1,1,1,1]>(s, w)"
        " d = Tanh(s) k = Add(b, q) y = Add(k, d)",
        {"w": filters(3, 3)},
    )
    plan = planned(model, tmp_path, style)
    quantized = insert_qdq(model, plan, style=style)
    assert quality(model, quantized) > 28
    readers = {node.op_type for node in GraphView(quantized).consumers["s"]}
    assert readers == {"QuantizeLinear", "Tanh"}, "a float reader of a float tensor takes it as it is"


def test_a_degenerate_tensor_does_no_harm(tmp_path: Path) -> None:
    model = net(
        "z = Mul(x, zero) c = Conv(z, w1, b1) r = Relu(c) y = Conv(r, w2)",
        {"zero": np.float32(0), "w1": filters(4, 3), "b1": vector(4), "w2": filters(4, 4, seed=1)},
    )
    quantized = insert_qdq(model, planned(model, tmp_path), style=ORT)
    assert quality(model, quantized) > 30


def test_names_and_types_of_inputs_and_outputs_stay(tmp_path: Path) -> None:
    model = two_convs()
    quantized = insert_qdq(model, planned(model, tmp_path), style=ORT)
    assert list(quantized.graph.input) == list(model.graph.input)
    assert list(quantized.graph.output) == list(model.graph.output)
    assert not any(node.op_type.endswith("Linear") for node in model.graph.node), "the model given is not changed"


def test_tensorrt_gets_pairs_on_inputs_only_and_float_biases(tmp_path: Path) -> None:
    model = residual()
    plan = planned(model, tmp_path, TRT)
    quantized = insert_qdq(model, plan, style=TRT)
    view = GraphView(quantized)
    assert {(zero, kind) for _, zero, kind in pairs(quantized).values()} == {(0, "int8")}
    for node in view.nodes:
        if node.op_type == "Conv":
            makers = [view.producers.get(name) for name in node.input]
            assert [maker is not None and maker.op_type == "DequantizeLinear" for maker in makers[:2]] == [True, True]
            assert all(maker is None for maker in makers[2:])
    assert [node.op_type for node in view.consumers["a"]] == ["Relu"]
    assert quality(model, quantized) > 28


def test_tensorrt_quantizes_one_branch_of_a_residual_addition(tmp_path: Path) -> None:
    for order in ("r, c", "c, r"):
        model = net(
            f"a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2) s = Add({order}) y = Conv(s, w3)",
            {"w1": filters(8, 3), "w2": filters(8, 8, seed=1), "w3": filters(4, 8, seed=2)},
        )
        view = GraphView(insert_qdq(model, planned(model, tmp_path, TRT), style=TRT))
        add = next(node for node in view.nodes if node.op_type == "Add")
        assert {view.producers[name].op_type for name in add.input} == {"Conv", "DequantizeLinear"}
        assert view.producers[view.producers[next(n for n in add.input if n != "c")].input[0]].input[0] == "r"


def test_operators_in_float_are_left_alone(tmp_path: Path) -> None:
    model = two_convs()
    plan = in_float(planned(model, tmp_path), ["y"], "by hand")
    kinds = runtime_operators(insert_qdq(model, plan, style=ORT))
    assert kinds["QLinearConv"] == 1
    assert kinds["Conv"] + kinds["FusedConv"] == 1


def test_plans_that_do_not_fit(tmp_path: Path) -> None:
    model = two_convs()
    plan = planned(model, tmp_path)
    change = msgspec.structs.replace
    with pytest.raises(UsageError, match="'elsewhere'"):
        insert_qdq(model, change(plan, tensors={**plan.tensors, "elsewhere": plan.tensors["x"]}), style=ORT)
    with pytest.raises(UsageError, match="'nothing'"):
        insert_qdq(model, change(plan, ops=(change(plan.ops[0], op="nothing"),)), style=ORT)
    with pytest.raises(UsageError, match="no scale for its input 'x'"):
        insert_qdq(model, change(plan, tensors={k: v for k, v in plan.tensors.items() if k != "x"}), style=ORT)
    with pytest.raises(UsageError, match="int16"):
        insert_qdq(model, change(plan, ops=(change(plan.ops[0], domain=Domain.INT16),)), style=ORT)
    with pytest.raises(UsageError, match="zero point"):
        insert_qdq(model, plan, style=TRT)
    model.opset_import[0].version = 11
    with pytest.raises(ModelError, match="opset 11"):
        insert_qdq(model, plan, style=ORT)
