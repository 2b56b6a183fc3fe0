"""The quantizing emitter: emitted files on LiteRT against the float graph and against integer arithmetic in numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from tf_cases import (
    BY_KIND,
    C,
    H,
    W,
    builder,
    conv,
    finish,
    inputs,
    minmax,
    normal,
    plan_of,
    snr,
)

from edgeseg.errors import StageError
from edgeseg.quantize.plan import Domain, TensorQuant
from edgeseg.quantize.ranges import Range, affine
from edgeseg.spec import IoType
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.runtime import run
from edgeseg.tflite.support import RULES, Scales

FULL = (1, H, W, C)
INT8_FLOOR = 31.0  # dB; white noise of one int8 step on a normal signal is near 37
INT16_FLOOR = 40.0  # the weights have 8 bits


def kinds(graph: TfGraph) -> Counter[str]:
    return Counter(op.kind for op in graph.ops)


def worst(graph: TfGraph, emitted: TfGraph) -> float:
    images = inputs(graph)
    pairs = zip(run(graph, images), run(emitted, images), strict=True)
    return min(snr(wanted[name], got[name]) for wanted, got in pairs for name in graph.outputs)


@pytest.mark.parametrize("kind", sorted(set(BY_KIND) - {"ARG_MAX"}))
def test_every_supported_operator_in_int8(kind: str) -> None:
    graph = BY_KIND[kind]()
    ranges = minmax(graph, inputs(graph))
    emitted = quantize(graph, plan_of(graph, ranges))
    assert worst(graph, emitted) > INT8_FLOOR
    assert emitted.inputs == graph.inputs
    assert emitted.outputs == graph.outputs
    assert all(emitted.tensors[name].dtype == "float32" for name in (*emitted.inputs, *emitted.outputs))


@pytest.mark.parametrize("kind", sorted(set(BY_KIND) - {"ARG_MAX", "SPLIT", "SPLIT_V", "UNPACK"}))
def test_scales_in_the_file_are_those_of_the_plan(kind: str) -> None:
    graph = BY_KIND[kind]()
    ranges = minmax(graph, inputs(graph))
    emitted = quantize(graph, plan_of(graph, ranges), io=IoType.INT8)
    for name, quant in ranges.items():
        stored = emitted.tensors[name].quant
        assert stored is not None
        assert (stored.scale, stored.zero_point) == (quant.scale, quant.zero_point)


@pytest.mark.parametrize("kind", sorted(kind for kind, rule in RULES.items() if rule.int16))
def test_every_supported_operator_in_int16(kind: str) -> None:
    graph = BY_KIND[kind]()
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph)), Domain.INT16))
    assert worst(graph, emitted) > INT16_FLOOR


def test_argmax_of_int8_gives_the_same_indices_where_the_lead_is_clear() -> None:
    graph = BY_KIND["ARG_MAX"]()
    images = inputs(graph)
    emitted = quantize(graph, plan_of(graph, minmax(graph, images)), io=IoType.INT8)
    assert emitted.tensors[emitted.outputs[0]].dtype == "int32"
    quant = emitted.tensors["x"].quant
    assert quant is not None
    for image in images:
        stored = np.clip(np.rint(image / quant.scale[0]) + quant.zero_point[0], -128, 127).astype(np.int8)
        np.testing.assert_array_equal(run(emitted, [stored])[0][graph.outputs[0]], stored.argmax(-1))


def rounded(values: Array, scale: float, zero: int) -> Array:
    return np.clip(np.floor(values / scale + 0.5) + zero, -128, 127)


def test_convolution_equals_integer_arithmetic() -> None:
    """Weights, scales and biases: y = clip(round(sum((q - z) * w) * m + b) + z'), to one step (rounding of ties)."""
    graph = BY_KIND["CONV_2D"]()
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))), io=IoType.INT8)
    image = np.random.default_rng(3).integers(-128, 128, (1, H, W, C)).astype(np.int8)
    got = run(emitted, [image])[0]["conv"].astype(np.int64)
    op = next(op for op in emitted.ops if op.kind == "CONV_2D")
    x, w, b = (emitted.tensors[str(name)] for name in op.inputs)
    out = emitted.tensors["conv"].quant
    assert x.quant is not None
    assert w.quant is not None
    assert b.quant is not None
    assert out is not None
    assert w.data is not None
    assert b.data is not None
    assert w.quant.axis == 0
    peaks = np.abs(normal(6, 3, 3, C)).max(axis=(1, 2, 3))
    np.testing.assert_allclose(w.quant.scale, peaks / 127, rtol=1e-6)
    assert np.abs(w.data.astype(int)).max() == 127
    np.testing.assert_allclose(np.asarray(w.quant.scale) * x.quant.scale[0], b.quant.scale, rtol=1e-6)
    padded = np.pad(image.astype(np.int64) - x.quant.zero_point[0], ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    total = np.einsum("nhwcij,oijc->nhwo", windows, w.data.astype(np.int64)) + b.data
    wanted = rounded(total * np.asarray(b.quant.scale), out.scale[0], out.zero_point[0])
    assert np.abs(wanted - got).max() <= 1
    assert (wanted == got).mean() > 0.99


def test_addition_equals_integer_arithmetic() -> None:
    graph = BY_KIND["ADD"]()
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))))
    add = next(op for op in emitted.ops if op.kind == "ADD")
    emitted.outputs = (*(str(name) for name in add.inputs), "y_int8")
    got = run(emitted, inputs(graph, 1))[0]
    real = 0.0
    for name in emitted.outputs[:2]:
        quant = emitted.tensors[name].quant
        assert quant is not None
        real = real + (got[name].astype(np.float64) - quant.zero_point[0]) * quant.scale[0]
    out = emitted.tensors["y_int8"].quant
    assert out is not None
    wanted = rounded(np.asarray(real), out.scale[0], out.zero_point[0])
    assert np.abs(wanted - got["y_int8"]).max() <= 1


def chain(made_relu: bool = True) -> TfGraph:
    """conv a -> TANH -> conv b; conv a is also read by conv c; the sum of both is the output."""
    made = builder()
    a = conv(made, "x", normal(C, 1, 1, C), fusedActivationFunction=int(made_relu))
    b = conv(made, made.op("TANH", (a,), (1, H, W, C), name="tanh"), normal(C, 3, 3, C))
    c = conv(made, a, normal(C, 3, 3, C))
    return finish(made, made.op("ADD", (b, c), (1, H, W, C), name="y"))


def test_conversions_appear_only_where_domains_differ_and_once() -> None:
    graph = chain()
    ranges = minmax(graph, inputs(graph))
    whole = quantize(graph, plan_of(graph, ranges))
    assert kinds(whole) == Counter(QUANTIZE=1, CONV_2D=3, TANH=1, ADD=1, DEQUANTIZE=1)
    island = quantize(graph, plan_of(graph, ranges, Domain.INT8, "TANH"))
    assert kinds(island) == Counter(QUANTIZE=2, CONV_2D=3, TANH=1, ADD=1, DEQUANTIZE=2)
    assert worst(graph, island) > INT8_FLOOR
    nothing = quantize(graph, plan_of(graph, ranges, Domain.FLOAT))
    assert kinds(nothing) == kinds(graph)
    assert worst(graph, nothing) == float("inf")
    # conv a is float and read by an int8 TANH and an int8 convolution: one QUANTIZE serves both
    plan = plan_of(graph, ranges)
    plan = type(plan)(target="tflite", tensors=plan.tensors, ops=plan.ops[1:])
    assert kinds(quantize(graph, plan)) == Counter(QUANTIZE=1, CONV_2D=3, TANH=1, ADD=1, DEQUANTIZE=1)


def requantizations(graph: TfGraph) -> int:
    return sum(op.kind == "QUANTIZE" and graph.tensors[str(op.inputs[0])].dtype == "int8" for op in graph.ops)


def test_same_scale_operators_requantize_exactly_the_inputs_that_differ() -> None:
    made = builder()
    narrow = conv(made, "x", normal(4, 1, 1, C, scale=0.02))
    wide = conv(made, "x", normal(4, 1, 1, C, scale=2.0))
    graph = finish(made, made.op("CONCATENATION", (narrow, wide), (1, H, W, 8), options={"axis": 3}))
    ranges = minmax(graph, inputs(graph))
    mixed = quantize(graph, plan_of(graph, ranges))
    assert requantizations(mixed) == 1
    concat = next(op for op in mixed.ops if op.kind == "CONCATENATION")
    assert len({mixed.tensors[str(name)].quant for name in (*concat.inputs, *concat.outputs)}) == 1
    aligned = dict.fromkeys(ranges, ranges[graph.outputs[0]])
    assert requantizations(quantize(graph, plan_of(graph, aligned))) == 0
    # a narrow input keeps its precision up to the join: it is not given the join's scale
    assert mixed.tensors["conv"].quant is not None
    assert mixed.tensors["conv"].quant.scale == ranges["conv"].scale


def test_a_mean_of_values_is_not_clipped_before_it_is_taken() -> None:
    """An average pool whose output range is narrower than its input's must not saturate its input."""
    graph = BY_KIND["AVERAGE_POOL_2D"]()
    ranges = minmax(graph, inputs(graph))
    ranges[graph.outputs[0]] = affine(Range(-0.5, 0.5))
    emitted = quantize(graph, plan_of(graph, ranges))
    for image, got in zip(inputs(graph), run(emitted, inputs(graph)), strict=True):
        wanted = np.clip(image.reshape(1, H // 2, 2, W // 2, 2, C).mean((2, 4)), -0.5, 0.5)
        assert snr(wanted, got[graph.outputs[0]]) > 28


def test_relu_becomes_a_requantization() -> None:
    made = builder()
    joined = made.op("CONCATENATION", ("x", conv(made, "x", normal(4, 1, 1, C))), (1, H, W, C + 4), options={"axis": 3})
    graph = finish(made, made.op("RELU6", (joined,), (1, H, W, C + 4)))
    ranges = minmax(graph, inputs(graph))
    emitted = quantize(graph, plan_of(graph, ranges))
    assert "RELU6" not in kinds(emitted)
    assert worst(graph, emitted) > INT8_FLOOR
    ranges[graph.outputs[0]] = affine(Range(-1.0, 8.0))  # saturation does not clip at 0 and 6 here
    kept = quantize(graph, plan_of(graph, ranges))
    assert "RELU6" in kinds(kept)
    assert worst(graph, kept) > INT8_FLOOR


@pytest.mark.parametrize("kind", [kind for kind, rule in RULES.items() if rule.scales is Scales.FIXED])
def test_outputs_that_kernels_prescribe(kind: str) -> None:
    graph = BY_KIND[kind]()
    ranges = minmax(graph, inputs(graph)) | {graph.outputs[0]: affine(Range(-3.0, 3.0))}
    emitted = quantize(graph, plan_of(graph, ranges), io=IoType.INT8)
    fixed = emitted.tensors[graph.outputs[0]].quant
    assert fixed is not None
    assert (fixed.scale[0], fixed.zero_point[0]) == RULES[kind].fixed8


def dequantized(graph: TfGraph, values: Mapping[str, Array]) -> Array:
    quant = graph.tensors[graph.outputs[0]].quant
    assert quant is not None
    return (values[graph.outputs[0]].astype(np.float64) - quant.zero_point[0]) * quant.scale[0]


@pytest.mark.parametrize("io", [IoType.INT8, IoType.UINT8])
@pytest.mark.parametrize("stay", [(), ("CONV_2D",), ("ADD",)])
def test_integer_input_and_output(io: IoType, stay: tuple[str, ...]) -> None:
    graph = chain()
    ranges = minmax(graph, inputs(graph))
    emitted = quantize(graph, plan_of(graph, ranges, Domain.INT8, *stay), io=io)
    x, shift = emitted.tensors["x"], 128 if io is IoType.UINT8 else 0
    assert x.dtype == emitted.tensors["y"].dtype == io.value
    assert x.quant is not None
    assert x.quant.zero_point == (ranges["x"].zero_point[0] + shift,)
    assert x.quant.scale == ranges["x"].scale
    assert emitted.outputs == ("y",)
    for image, wanted in zip(inputs(graph), run(graph, inputs(graph)), strict=True):
        low, high = (0, 255) if shift else (-128, 127)
        stored = np.clip(np.rint(image / x.quant.scale[0]) + x.quant.zero_point[0], low, high).astype(io.value)
        assert snr(wanted["y"], dequantized(emitted, run(emitted, [stored])[0])) > INT8_FLOOR


def test_uint8_files_run_in_the_delegate_and_equal_int8_files() -> None:
    graph = chain()
    plan = plan_of(graph, minmax(graph, inputs(graph)))
    image = np.random.default_rng(2).integers(0, 256, FULL).astype(np.uint8)
    signed = quantize(graph, plan, io=IoType.INT8)
    wanted = run(signed, [(image.astype(np.int16) - 128).astype(np.int8)])[0]["y"].astype(np.int16) + 128
    for direct in (False, True):
        emitted = quantize(graph, plan, io=IoType.UINT8, integer_only=direct)
        np.testing.assert_array_equal(run(emitted, [image])[0]["y"], wanted)
        assert partitions(bytes(serialise(emitted))).outside_kinds == ({"QUANTIZE": 2} if direct else {})


def test_domains_meet_int8_int16_float() -> None:
    graph = chain()
    plan = plan_of(graph, minmax(graph, inputs(graph)))
    domains = [Domain.INT16, Domain.INT8, Domain.INT16, Domain.FLOAT, Domain.INT8]
    ops = tuple(
        type(entry)(op=entry.op, kind=entry.kind, domain=domain) for entry, domain in zip(plan.ops, domains, strict=True)
    )
    emitted = quantize(graph, type(plan)(target="tflite", tensors=plan.tensors, ops=ops))
    assert {emitted.tensors[op.id].dtype for op in emitted.ops if op.kind == "CONV_2D"} == {"int16", "float32"}
    assert worst(graph, emitted) > INT8_FLOOR


def test_scales_far_apart_do_not_cut_the_delegate() -> None:
    made = builder()
    tiny = conv(made, "x", normal(C, 1, 1, C, scale=1e-5))
    huge = conv(made, "x", normal(C, 1, 1, C, scale=50.0))
    joined = made.op("CONCATENATION", (tiny, huge), (1, H, W, 2 * C), options={"axis": 3})
    total = made.op("ADD", (tiny, huge), (1, H, W, C), name="sum")
    lifted = made.op("ADD", (huge, made.constant("zero", np.zeros(1, np.float32))), (1, H, W, C))
    shifted = made.op("SUB", (huge, made.constant("dust", np.full(1, 1e-6, np.float32))), (1, H, W, C))
    graph = finish(made, joined, total, lifted, shifted)
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))))
    assert partitions(bytes(serialise(emitted))).outside == ()
    assert worst(graph, emitted) > INT8_FLOOR


def test_biases_beyond_int32_and_dead_channels() -> None:
    """A channel whose weights are tiny beside its bias, and one without weights, still give their bias."""
    made = builder()
    weights = normal(4, 1, 1, C)
    weights[1] *= 1e-12
    weights[2] = 0
    graph = finish(made, conv(made, "x", weights, np.asarray([0.5, -3.0, 2.0, 1.0], np.float32)))
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))))
    got = run(emitted, inputs(graph, 1))[0]["conv"]
    step = minmax(graph, inputs(graph))["conv"].scale[0]
    np.testing.assert_allclose(got[..., 1], -3.0, atol=step)
    np.testing.assert_allclose(got[..., 2], 2.0, atol=step)
    assert worst(graph, emitted) > INT8_FLOOR


def test_constants_of_elementwise_operators() -> None:
    for kind in ("ADD", "MUL", "SUB"):
        made = builder()
        graph = finish(made, made.op(kind, ("x", made.constant("c", normal(1, 1, 1, C))), (1, H, W, C)))
        emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))))
        assert worst(graph, emitted) > INT8_FLOOR
        assert kinds(emitted) == Counter({"QUANTIZE": 1, kind: 1, "DEQUANTIZE": 1})


def test_what_cannot_be_done_is_refused() -> None:
    graph = chain()
    ranges = minmax(graph, inputs(graph))
    made = builder()
    power = finish(made, made.op("SIN", ("x",), (1, H, W, C)))
    with pytest.raises(StageError, match="SIN has no integer kernel"):
        quantize(power, plan_of(power, {}))
    prelu = BY_KIND["PRELU"]()
    with pytest.raises(StageError, match="no kernel with int16"):
        quantize(prelu, plan_of(prelu, {}, Domain.INT16))
    with pytest.raises(StageError, match="no scale for tensor 'tanh'"):
        quantize(graph, plan_of(graph, {name: quant for name, quant in ranges.items() if name != "tanh"}, Domain.INT8, "TANH"))
    with pytest.raises(StageError, match="does not exist"):
        quantize(BY_KIND["ADD"](), plan_of(graph, ranges))
    with pytest.raises(StageError, match="2 scales"):
        quantize(graph, plan_of(graph, ranges | {"x": TensorQuant(scale=(1.0, 2.0), zero_point=(0, 0))}))


def test_the_float_graph_is_left_alone() -> None:
    graph = chain()
    before = graph.copy()
    quantize(graph, plan_of(graph, minmax(graph, inputs(graph))), io=IoType.UINT8)
    assert graph.ops == before.ops
    assert graph.tensors == before.tensors


def _beside(made: GraphBuilder, kind: str) -> str:
    """An operator whose output is as nothing beside its inputs."""
    whole = made.graph.tensors["x"].shape
    large = made.op("MUL", ("x", made.constant("factor", np.float32([2000.0]))), whole)
    if kind == "HARD_SWISH":  # far below 0 but for a little
        shifted = made.op("MINIMUM", (large, made.constant("top", np.float32([0.01]))), whole)
        return made.op(kind, (shifted,), whole)
    if kind == "ADD":
        other = made.op("MUL", (large, made.constant("turn", np.float32([-1.0]))), whole)
        return made.op(kind, (large, other), whole)
    offset = made.constant("offset", np.float32([4e6]))
    moved = made.op("ADD", ("x", offset), whole)
    return made.op(kind, (moved, offset), whole)


@pytest.mark.parametrize("kind", ["ADD", "SUB", "SQUARED_DIFFERENCE", "HARD_SWISH"])
def test_scales_that_a_kernel_does_not_take_are_widened(kind: str) -> None:
    """Below them LiteRT ends the process or refuses the file."""
    made = builder()
    graph = finish(made, _beside(made, kind))
    images = inputs(graph)
    ranges = minmax(graph, images)
    out = graph.outputs[0]
    ranges[out] = affine(Range(-1e-3, 1e-3))
    quantized = quantize(graph, plan_of(graph, ranges, Domain.INT8, "MUL", "MINIMUM"))
    wanted, got = run(graph, images), run(quantized, images)
    largest = max(ranges[name].scale[0] for op in graph.ops if op.kind == kind for name in op.inputs if name in ranges)
    for one, other in zip(wanted, got, strict=True):
        assert np.isfinite(other[out]).all()
        assert np.abs(one[out] - other[out]).max() <= 2 * largest + np.abs(one[out]).max()


@pytest.mark.parametrize("bias", [0.0, 1e6])
def test_a_channel_far_beyond_the_output_range_does_not_stop_the_file(bias: float) -> None:
    """A kernel multiplies by less than 256; the other channels are as good as without it."""
    weights = np.concatenate([normal(3, 3, 3, C), 1e7 * normal(1, 3, 3, C)])
    made = builder()
    graph = finish(made, conv(made, "x", weights, np.float32([0, 0, 0, bias])))
    images = inputs(graph)
    ranges = minmax(graph, images)
    ranges["conv"] = affine(Range(-30.0, 30.0))
    quantized = quantize(graph, plan_of(graph, ranges))
    for one, other in zip(run(graph, images), run(quantized, images), strict=True):
        assert snr(one["conv"][..., :3], other["conv"][..., :3]) > 25
