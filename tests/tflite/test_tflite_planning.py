"""Plans made by rule, and the counts that go into manifests."""

from __future__ import annotations

import pytest
from tf_cases import BY_KIND, C, H, W, builder, conv, finish, inputs, minmax, normal, plan_of, snr

from edgeseg.errors import StageError
from edgeseg.quantize.plan import Domain, OpPlan
from edgeseg.quantize.ranges import Range, affine
from edgeseg.spec import IoType
from edgeseg.tflite.cost import int8_share, macs, operator_domains
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.planning import Policy, align_scales, initial_plan
from edgeseg.tflite.runtime import run


def branches() -> TfGraph:
    """conv -> HARD_SWISH -> RESIZE twice as large -> concat with a wide and a narrow branch -> conv."""
    made = builder()
    a = conv(made, "x", normal(C, 3, 3, C))
    h = made.op("HARD_SWISH", (a,), (1, H, W, C), name="swish")
    size = made.ints("size", [2 * H, 2 * W])
    up = made.op("RESIZE_BILINEAR", (h, size), (1, 2 * H, 2 * W, C), name="up", options={"halfPixelCenters": True})
    narrow = conv(made, up, normal(4, 1, 1, C, scale=0.1))
    wide = conv(made, up, normal(4, 1, 1, C, scale=3.0))
    joined = made.op("CONCATENATION", (up, narrow, wide), (1, 2 * H, 2 * W, C + 8), name="join", options={"axis": 3})
    return finish(made, conv(made, joined, normal(3, 1, 1, C + 8)))


def test_auto_keeps_float_what_would_cut_the_delegate_and_says_so() -> None:
    graph = branches()
    plan = initial_plan(graph, minmax(graph, inputs(graph)))
    by_op = {entry.op: entry for entry in plan.ops}
    assert by_op["swish"].domain is Domain.FLOAT
    assert "HARD_SWISH" in by_op["swish"].why
    assert {entry.domain for entry in plan.ops if entry.op != "swish"} == {Domain.INT8}
    emitted = quantize(graph, plan)
    assert partitions(bytes(serialise(emitted))).partitions == 1
    for image in inputs(graph):
        assert snr(run(graph, [image])[0][graph.outputs[0]], run(emitted, [image])[0][graph.outputs[0]]) > 28
    full = initial_plan(graph, minmax(graph, inputs(graph)), policy=Policy.FULL)
    assert {entry.domain for entry in full.ops} == {Domain.INT8}


def test_operators_asked_to_stay_float_and_moves_between_them() -> None:
    made = builder()
    a = made.op("SIN", ("x",), (1, H, W, C))
    b = made.op("RESHAPE", (a, made.ints("s", [1, H * W, C])), (1, H * W, C), name="moved")
    graph = finish(made, made.op("SIN", (b,), (1, H * W, C)))
    plan = initial_plan(graph, minmax(graph, inputs(graph)))
    assert [entry.domain for entry in plan.ops] == [Domain.FLOAT] * 3
    assert plan.ops[1].why == "RESHAPE lies between float operators"
    graph = branches()
    ranges = minmax(graph, inputs(graph))
    plan = initial_plan(graph, ranges, float_kinds=["CONCATENATION"], float_ops=["conv"])
    assert {entry.op for entry in plan.ops if entry.why == "asked to stay float"} == {"conv", "join"}


def test_integer_only_means_no_float_operator() -> None:
    graph = branches()
    plan = initial_plan(graph, minmax(graph, inputs(graph)), policy=Policy.INTEGER_ONLY)
    for io in (IoType.INT8, IoType.UINT8):
        emitted = quantize(graph, plan, io=io, integer_only=True)
        assert operator_domains(emitted)["float"] == {}
        assert not any(tensor.dtype == "float32" for tensor in emitted.tensors.values())
    made = builder()
    odd = finish(made, made.op("SIN", ("x",), (1, H, W, C), name="wave"))
    with pytest.raises(StageError, match="'wave' \\(SIN has no integer kernel\\)"):
        initial_plan(odd, minmax(odd, inputs(odd)), policy=Policy.INTEGER_ONLY)
    indices = BY_KIND["ARG_MAX"]()
    initial_plan(indices, minmax(indices, inputs(indices)), policy=Policy.INTEGER_ONLY)


def test_scales_are_shared_where_that_saves_a_requantization_at_no_loss() -> None:
    graph = branches()
    ranges = minmax(graph, inputs(graph))
    everything = tuple(OpPlan(op=op.id, kind=op.kind, domain=Domain.INT8) for op in graph.ops)
    aligned = align_scales(graph, ranges, everything)
    assert aligned["up"] == aligned["swish"] == ranges["swish"]  # a resize has its input's scale
    assert aligned["conv_2"] == aligned["join"] == ranges["join"]  # the wide branch takes the join's
    assert aligned["conv_1"] == ranges["conv_1"]  # the narrow one keeps its own
    emitted = quantize(graph, plan_of(graph, aligned))
    requantized = [op for op in emitted.ops if op.kind == "QUANTIZE" and emitted.tensors[str(op.inputs[0])].dtype == "int8"]
    assert len(requantized) == 2
    # nothing is aligned around an operator that runs in float
    only_convs = tuple(entry for entry in everything if entry.kind == "CONV_2D")
    assert align_scales(graph, ranges, only_convs) == ranges


def test_a_relu_keeps_the_range_that_makes_it_free() -> None:
    made = builder()
    a = made.op("RELU", (conv(made, "x", normal(C, 1, 1, C)),), (1, H, W, C), name="relu")
    graph = finish(made, made.op("CONCATENATION", ("x", a), (1, H, W, 2 * C), options={"axis": 3}))
    plan = initial_plan(graph, minmax(graph, inputs(graph)))
    assert plan.tensors["relu"].zero_point == (-128,)
    assert partitions(bytes(serialise(quantize(graph, plan)))).partitions == 1


def test_a_tensor_that_others_read_is_not_clipped_for_a_join() -> None:
    made = builder()
    a = conv(made, "x", normal(C, 1, 1, C))
    joined = made.op("CONCATENATION", (a, "x"), (1, H, W, 2 * C), options={"axis": 3}, name="join")
    graph = finish(made, joined, a)
    ranges = minmax(graph, inputs(graph)) | {"join": affine(Range(-1.0, 1.0))}
    everything = tuple(OpPlan(op=op.id, kind=op.kind, domain=Domain.INT8) for op in graph.ops)
    assert align_scales(graph, ranges, everything)[a] == ranges[a]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("CONV_2D", H * W * 6 * 9 * C),
        ("DEPTHWISE_CONV_2D", H * W * C * 9),
        ("FULLY_CONNECTED", H * W * 5 * C),
        ("TRANSPOSE_CONV", H * W * C * 4 * 6),
        ("BATCH_MATMUL", H * W * W * C),
        ("ADD", 0),
    ],
)
def test_multiply_adds(kind: str, wanted: int) -> None:
    graph = BY_KIND[kind]()
    assert macs(graph.ops[-1], graph) == wanted


def test_share_of_multiply_adds_in_int8() -> None:
    made = builder()
    a = conv(made, "x", normal(C, 3, 3, C))
    graph = finish(made, conv(made, a, normal(C, 1, 1, C)))
    ranges = minmax(graph, inputs(graph))
    assert int8_share(graph) == 0.0
    assert int8_share(quantize(graph, plan_of(graph, ranges))) == 1.0
    emitted = quantize(graph, initial_plan(graph, ranges, float_ops=[graph.ops[1].id]))
    assert int8_share(emitted) == pytest.approx(0.9)
    assert operator_domains(emitted) == {
        "integer": {"CONV_2D": 1},
        "float": {"CONV_2D": 1},
        "conversion": {"QUANTIZE": 1, "DEQUANTIZE": 1},
        "other": {},
    }
