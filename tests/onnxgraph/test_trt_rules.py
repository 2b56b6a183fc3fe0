"""The checker against files that break one rule each, and against what edgeseg itself writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_nets import filters, images, net, residual, vector

from edgeseg.onnxgraph.planning import initial_plan, quantized_tensors
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq
from edgeseg.onnxgraph.statistics import collect
from edgeseg.onnxgraph.trt_rules import REFUSED, Rule, check_trt

PAIRS = {
    "s": np.float32(0.02),
    "z": np.int8(0),
    "ws": np.full(8, 0.01, np.float32),
    "wz": np.zeros(8, np.int8),
    "w": filters(8, 3),
    "b": vector(8),
}
INPUT = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
WEIGHTS = "wq = QuantizeLinear<axis=0>(w, ws, wz) wd = DequantizeLinear<axis=0>(wq, ws, wz)"
GOOD = f"{INPUT} {WEIGHTS} y = Conv(xd, wd, b)"
CONV = GOOD.replace("y =", "c =")
OUTPUT = "cq = QuantizeLinear(c, s, z) cd = DequantizeLinear(cq, s, z)"
INDICES = {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
SCATTERED = {"at": np.zeros((1, 4), np.int64), "n": vector(1)}
STORED = {"w": filters(8, 3).astype(np.int8)}
RESIZED = {"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "f": np.array([1, 1, 2, 2], np.float32)}


def rules(model: onnx.ModelProto, **kwargs: int) -> list[Rule]:
    return [finding.rule for finding in check_trt(model, **kwargs)]


def quantized(model: onnx.ModelProto, tmp_path: Path, style: QdqStyle) -> onnx.ModelProto:
    path = tmp_path / "float.onnx"
    onnx.save_model(model, str(path))
    observers = collect(path, images(4), tensors=quantized_tensors(model, style=style))
    return insert_qdq(model, initial_plan(model, observers, style=style), style=style)


def test_a_good_file_has_no_findings() -> None:
    assert check_trt(net(GOOD, PAIRS)) == ()


@pytest.mark.parametrize(
    ("rule", "body", "changed"),
    [
        (Rule.ZERO_POINT, GOOD, {"z": np.int8(3)}),
        (Rule.ELEMENT_TYPE, GOOD, {"z": np.uint8(0)}),
        (Rule.SCALE, GOOD, {"s": np.float32(0)}),
        (Rule.SCALE, f"t = Abs(s) {GOOD.replace('(x, s, z)', '(x, t, z)')}", {}),
        (Rule.PER_TENSOR_WEIGHTS, GOOD, {"ws": np.float32(0.01), "wz": np.int8(0)}),
        (Rule.WEIGHT_AXIS, GOOD.replace("axis=0", "axis=1"), {"ws": np.full(3, 0.01, np.float32), "wz": np.zeros(3, np.int8)}),
        (
            Rule.PER_CHANNEL_ACTIVATION,
            GOOD.replace("Linear(x", "Linear<axis=1>(x"),
            {"s": np.full(3, 0.02, np.float32), "z": np.zeros(3, np.int8)},
        ),
        (
            Rule.QUANTIZED_BIAS,
            f"{INPUT} {WEIGHTS} bd = DequantizeLinear<axis=0>(b, ws, bz) y = Conv(xd, wd, bd)",
            {"b": np.arange(8, dtype=np.int32), "bz": np.zeros(8, np.int32)},
        ),
        (Rule.BROKEN_PAIR, GOOD.replace("DequantizeLinear(xq, s, z)", "DequantizeLinear(xq, s2, z)"), {"s2": np.float32(0.03)}),
        (Rule.BROKEN_PAIR, f"{GOOD} m = MaxPool<kernel_shape=[2,2]>(xq)", {}),
        (Rule.HALF_QUANTIZED, f"{INPUT} y = Conv(xd, w, b)", {}),
        (Rule.HALF_QUANTIZED, f"{WEIGHTS} y = Conv(x, wd, b)", {}),
        (Rule.QUANTIZED_OUTPUT, f"{CONV} {OUTPUT} y = Relu(cd)", {}),
        (Rule.QUANTIZED_OUTPUT, f"{CONV} cq = QuantizeLinear(c, s, z) y = DequantizeLinear(cq, s, z)", {}),
        (Rule.FLOAT_READER, f"{CONV} e = Exp(xd) k = ReduceMean(e) y = Add(c, k)", {}),
        (
            Rule.RESIDUAL,
            f"{CONV} {OUTPUT} r = Relu(c)"
            " rq = QuantizeLinear(r, s, z) rd = DequantizeLinear(rq, s, z) y = Add(cd, rd)",
            {},
        ),
        (Rule.RESIDUAL, f"{CONV} e = ReduceMean(x) y = Add(c, e)", {}),
        (Rule.INTEGER_OPERATOR, f"{GOOD} i = ConvInteger(xq, wq)", {}),
        (Rule.UNKNOWN_OPERATOR, f"{GOOD} i = Det(x)", {}),
        (Rule.OPERATOR_FORM, f"{GOOD} m = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)", {}),
        (Rule.OPERATOR_FORM, f"{GOOD} m, i = MaxPool<kernel_shape=[2,2]>(x)", {}),
        (Rule.OPERATOR_FORM, f"{GOOD} m = Resize<coordinate_transformation_mode=\"tf_crop_and_resize\">(x, roi, f)", RESIZED),
        (
            Rule.OPERATOR_FORM,
            f"{GOOD} m = Resize<coordinate_transformation_mode=\"tf_half_pixel_for_nn\", nearest_mode=\"floor\">(x, roi, f)",
            RESIZED,
        ),
        (Rule.OPERATOR_FORM, f"{GOOD} l, m, i = LayerNormalization(x, g)", {"g": vector(16)}),
        (Rule.OPERATOR_FORM, f"{GOOD} a = Neg(one) m = Slice(x, zero, one, a)", INDICES),
        (Rule.OPERATOR_FORM, f"{GOOD} t, i = TopK<sorted=0>(x, one)", INDICES),
        (Rule.OPERATOR_FORM, f"{GOOD} m = Einsum<equation=\"...ij->...ji\">(x)", {}),
        (Rule.OPERATOR_FORM, f"{GOOD} m = ScatterND<reduction=\"add\">(x, at, n)", SCATTERED),
        (Rule.OPERATOR_FORM, f"{GOOD} i = Constant<value_ints=[1, 2]>() m = Reshape(x, i)", {}),
        (Rule.ZERO_POINT, GOOD.replace("DequantizeLinear(xq, s, z)", "DequantizeLinear(xq, s)"), {}),
        (Rule.ZERO_POINT, GOOD, {"wz": np.zeros(4, np.int8)}),
        (Rule.SCALE, GOOD, {"ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}),
        (Rule.UNSAID_AXIS, GOOD.replace("<axis=0>", ""), {"ws": np.full(3, 0.01, np.float32), "wz": np.zeros(3, np.int8)}),
        (
            Rule.WEIGHT_DETOUR,
            f"{INPUT} {WEIGHTS} t = Transpose<perm=[0,1,3,2]>(wd) y = Conv(xd, t, b)",
            {},
        ),
        (Rule.HALF_PAIR, f"{INPUT} wd = DequantizeLinear<axis=0>(w, ws, wz) y = Conv(xd, wd, b)", STORED),
        (Rule.NOTHING_QUANTIZED, "y = Conv(x, w, b)", {}),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(rule: Rule, body: str, changed: dict[str, np.ndarray]) -> None:
    assert rule in rules(net(body, PAIRS | changed))


def test_forms_that_the_parser_reads_are_not_named() -> None:
    body = (
        f"{GOOD} p = MaxPool<kernel_shape=[2,2], dilations=[1,1]>(x) q = AveragePool<kernel_shape=[2,2]>(x)"
        ' r = Resize<mode="cubic">(x, roi, f) l = LayerNormalization(x, g) m = Slice(x, zero, one, one) t, i = TopK(x, one)'
        ' e = Einsum<equation="nchw->nhwc">(x)'
    )
    assert rules(net(body, PAIRS | RESIZED | INDICES | {"g": vector(16)})) == []


def newer(kind: str, *names: str, opset: int = 18, **attributes: object) -> onnx.ModelProto:
    """The good file in a newer opset, with one more operator."""
    model = net(GOOD, PAIRS | RESIZED)
    model.opset_import[0].version = opset
    model.graph.node.append(helper.make_node(kind, names, ["extra"], **attributes))
    return model


def test_operators_that_only_newer_versions_have() -> None:
    model = newer("Mish", "x")
    assert Rule.UNKNOWN_OPERATOR in rules(model)
    assert rules(model, max_opset=20) == []


def test_forms_of_newer_opsets() -> None:
    for change in ({"antialias": 1}, {"keep_aspect_ratio_policy": "not_larger"}):
        assert rules(newer("Resize", "x", "roi", "f", **change), max_opset=20) == [Rule.OPERATOR_FORM]
    assert rules(newer("Resize", "x", "roi", "f"), max_opset=20) == []


@pytest.mark.parametrize("kind", ["UINT16", "STRING", "COMPLEX64"])
def test_an_input_of_a_type_that_tensorrt_does_not_have(kind: str) -> None:
    model = net(GOOD, PAIRS)
    model.graph.input.append(helper.make_tensor_value_info("extra", getattr(onnx.TensorProto, kind), [1]))
    assert rules(model) == [Rule.TENSOR_TYPE]


def test_a_scale_of_another_type_than_the_data() -> None:
    model = net(GOOD, PAIRS)
    model.opset_import[0].version = 23  # the first in which ONNX allows it
    half = numpy_helper.from_array(np.float16(0.02), "half")
    model.graph.initializer.append(half)
    for node in model.graph.node[:2]:
        node.input[1] = "half"
    assert Rule.SCALE in rules(model, max_opset=23)


def test_a_quantized_transposed_convolution() -> None:
    body = f"{INPUT} {WEIGHTS.replace('axis=0', 'axis=1')} y = ConvTranspose<strides=[2,2]>(xd, wd, b)"
    assert rules(net(body, PAIRS | {"w": filters(3, 8, 2)})) == [Rule.TRANSPOSED]
    wrong = body.replace("axis=1", "axis=0")
    scales = {"w": filters(3, 8, 2), "ws": np.full(3, 0.01, np.float32), "wz": np.zeros(3, np.int8)}
    assert Rule.WEIGHT_AXIS in rules(net(wrong, PAIRS | scales))


def test_opsets() -> None:
    model = net(GOOD, PAIRS)
    model.opset_import[0].version = 19
    assert rules(model) == [Rule.OPSET]
    assert rules(model, max_opset=20) == []
    model.opset_import[0].version = 11
    assert Rule.OPSET in rules(model)


def test_operators_of_a_runtimes_own_domain() -> None:
    model = net(GOOD, PAIRS)
    model.graph.node.append(helper.make_node("FusedConv", ["x", "w"], ["extra"], domain="com.microsoft"))
    assert rules(model) == [Rule.FOREIGN_DOMAIN]


def test_findings_name_the_node_and_the_remedy() -> None:
    finding = check_trt(net(GOOD, PAIRS | {"z": np.uint8(7)}))[0]
    assert "QuantizeLinear 'n0'" in finding.node
    assert "int8" in finding.remedy
    assert finding.refused
    assert Rule.RESIDUAL not in REFUSED


def test_onnxruntimes_own_style_is_refused(tmp_path: Path) -> None:
    found = set(rules(quantized(residual(), tmp_path, QdqStyle.ONNXRUNTIME)))
    assert {Rule.ZERO_POINT, Rule.ELEMENT_TYPE, Rule.QUANTIZED_BIAS} <= found


BLOCKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residual,
    "two convolutions added": lambda: net(
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[1,1,1,1]>(x, w) s = Add(a, b) t = Add(s, a) y = Conv<pads=[1,1,1,1]>(t, w)",
        {"w": filters(3, 3)},
    ),
    "the older branch is the convolution": lambda: net(
        "a = Conv<pads=[1,1,1,1]>(x, w) r = Tanh(x) s = Add(r, a) y = Conv(s, w)", {"w": filters(3, 3)}
    ),
    "linear layers": lambda: net(
        "f = Flatten(x) g = Gemm<transB=1>(f, w1, b1) r = Relu(g) m = MatMul(r, w2) y = Add(m, b2)",
        {"w1": vector(6 * 768).reshape(6, 768), "b1": vector(6), "w2": vector(30, 2).reshape(6, 5), "b2": vector(5)},
    ),
    "transposed": lambda: net(
        "a = Conv(x, w1) r = Relu(a) t = ConvTranspose<strides=[2,2]>(r, w2) y = Conv(t, w1)",
        {"w1": filters(3, 3), "w2": filters(3, 3, 2)},
    ),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_edgeseg_writes_for_tensorrt_passes(block: str, tmp_path: Path) -> None:
    made = quantized(BLOCKS[block](), tmp_path, QdqStyle.TENSORRT)
    assert [(finding.node, finding.message) for finding in check_trt(made)] == []


def test_scales_read_from_constant_nodes_count() -> None:
    model = net(GOOD, {name: value for name, value in PAIRS.items() if name != "s"} | {"s": PAIRS["s"]})
    tensor = next(t for t in model.graph.initializer if t.name == "s")
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.float32(0.02))))
    assert check_trt(model) == ()


# ---- files of other tools --------------------------------------------------------------------------------------------------------


def typed(kind: int, opset: int) -> onnx.ModelProto:
    """The good file with pairs of another element type."""
    model = net(
        GOOD, {name: value for name, value in PAIRS.items() if name not in {"z", "wz"}} | {"z": np.int8(0), "wz": PAIRS["wz"]}
    )
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in {"z", "wz"}]
    del model.graph.initializer[:]
    zeros = (helper.make_tensor("z", kind, [], [0]), helper.make_tensor("wz", kind, [8], [0] * 8))
    model.graph.initializer.extend([*kept, *zeros])
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize("kind", ["UINT8", "INT16", "UINT4", "FLOAT8E5M2"])
def test_types_that_no_version_reads(kind: str) -> None:
    found = rules(typed(getattr(onnx.TensorProto, kind), 21), max_opset=21)
    assert set(found) == {Rule.ELEMENT_TYPE}


@pytest.mark.parametrize("kind", ["INT4", "FLOAT8E4M3FN"])
def test_types_that_newer_versions_read(kind: str) -> None:
    model = typed(getattr(onnx.TensorProto, kind), 17)
    assert set(rules(model)) == {Rule.ELEMENT_TYPE}
    assert set(rules(model, max_opset=21)) == {Rule.NEWER_TYPE}
    assert Rule.NEWER_TYPE not in REFUSED


def test_the_type_that_a_quantizer_asks_for() -> None:
    model = typed(onnx.TensorProto.INT8, 21)
    del model.graph.node[0].input[2:]
    model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", onnx.TensorProto.INT8))
    assert rules(model, max_opset=21) == []
    model.graph.node[0].attribute[-1].i = onnx.TensorProto.UINT8
    assert Rule.ELEMENT_TYPE in rules(model, max_opset=21)


def test_blocks() -> None:
    model = net(GOOD, PAIRS)
    model.opset_import[0].version = 21
    for node in model.graph.node[2:4]:
        node.attribute.append(helper.make_attribute("block_size", 4))
    assert Rule.BLOCKED in rules(model, max_opset=21)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_a_node_that_is_not_valid_onnx(place: int) -> None:
    model = net(GOOD, PAIRS)
    del model.graph.node[place].input[1:]
    assert rules(model) == [Rule.MALFORMED]


def test_a_node_without_outputs() -> None:
    model = net(GOOD, PAIRS)
    del model.graph.node[1].output[:]
    assert rules(model) == [Rule.MALFORMED]


def test_graphs_inside_nodes_are_checked() -> None:
    inner = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["q", "s", "three"], ["t"], name="inside")],
        "then",
        [],
        [helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(3, np.int8), "q"), numpy_helper.from_array(np.int8(3), "three")],
    )
    model = net(GOOD, PAIRS)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner))
    assert {(finding.rule, finding.node) for finding in check_trt(model)} == {
        (rule, "DequantizeLinear 'inside'") for rule in (Rule.ZERO_POINT, Rule.HALF_PAIR)
    }


def test_a_scale_from_a_constant_node() -> None:
    model = net(GOOD, PAIRS)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "s"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value_float=0.02))
    assert rules(model) == []
    model.graph.node[0].attribute[0].f = -1.0
    assert Rule.SCALE in rules(model)
