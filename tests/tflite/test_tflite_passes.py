"""Every graph pass gives the same float outputs as the graph it was given, and does what it is there for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from tf_cases import (
    CONV,
    POOL,
    SAME,
    VALID,
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

from edgeseg.errors import UsageError
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.passes import DEFAULT, INTEGER_ONLY, PASSES, apply
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.runtime import run

FULL = (1, H, W, C)
RELU, RELU6 = 1, 3


def kinds(graph: TfGraph) -> Counter[str]:
    return Counter(op.kind for op in graph.ops)


def checked(graph: TfGraph, name: str, count: int) -> TfGraph:
    """Run one pass; its result must compute the same, and the given graph must be as it was."""
    ops, tensors = list(graph.ops), dict(graph.tensors)
    after, found = PASSES[name](graph)
    assert found == count
    assert (graph.ops, graph.tensors) == (ops, tensors)
    assert (after.inputs, after.outputs) == (graph.inputs, graph.outputs)
    for left, right in zip(run(graph, inputs(graph)), run(after, inputs(graph)), strict=True):
        for output in graph.outputs:
            assert left[output].shape == right[output].shape
            assert snr(left[output], right[output]) > 110
    assert PASSES[name](after)[1] == 0, "a second run must find nothing"
    return after


def vector(made: GraphBuilder, low: float = 0.5, high: float = 1.5, channels: int = C) -> str:
    return made.constant("c", np.random.default_rng(1).uniform(low, high, (1, 1, 1, channels)).astype(np.float32))


def affine_behind(made: GraphBuilder) -> str:
    """conv, DIV by a vector, MUL by a scalar, vector minus x, ADD with RELU6."""
    x = conv(made, "x", normal(C, 3, 3, C), normal(C))
    x = made.op("DIV", (x, vector(made)), FULL)
    x = made.op("MUL", (made.constant("s", np.full((), 2.0, np.float32)), x), FULL)
    x = made.op("SUB", (vector(made), x), FULL)
    return made.op("ADD", (x, vector(made)), FULL, options={"fusedActivationFunction": RELU6})


def affine_behind_depthwise(made: GraphBuilder) -> str:
    w, b = made.constant("w", normal(1, 3, 3, C)), made.constant("b", normal(C))
    x = made.op("DEPTHWISE_CONV_2D", ("x", w, b), FULL, options={**CONV, "depthMultiplier": 1})
    return made.op("MUL", (x, vector(made)), FULL)


def affine_behind_product(made: GraphBuilder) -> str:
    w = made.constant("w", normal(5, C))
    x = made.op("FULLY_CONNECTED", ("x", w, None), (1, H, W, 5), options={"keepNumDims": True})
    return made.op("SUB", (x, made.constant("c", normal(5))), (1, H, W, 5))


def affine_before(made: GraphBuilder) -> str:
    """MUL and ADD in front of two convolutions without padding and a product."""
    x = made.op("MUL", ("x", vector(made)), FULL)
    x = made.op("ADD", (x, vector(made)), FULL)
    a = conv(made, x, normal(4, 3, 3, C), normal(4), padding=VALID)
    b = conv(made, x, normal(4, 1, 1, C))
    w = made.constant("w", normal(1, 1, 1, 2 * C))
    c = made.op(
        "DEPTHWISE_CONV_2D", (x, w, made.constant("b", normal(2 * C))), (1, H, W, 2 * C), options={**CONV, "depthMultiplier": 2}
    )
    made.graph.outputs = (a, b)
    return c


@pytest.mark.parametrize(
    ("make", "count"), [(affine_behind, 4), (affine_behind_depthwise, 1), (affine_behind_product, 1), (affine_before, 2)]
)
def test_affine_chains_go_into_weights(make: Callable[[GraphBuilder], str], count: int) -> None:
    made = builder()
    last = make(made)
    graph = finish(made, *made.graph.outputs, last)
    after = checked(graph, "fold_affine", count)
    assert not set(kinds(after)) & {"MUL", "ADD", "SUB", "DIV"}


def test_affine_chains_stay_where_folding_would_not_be_exact() -> None:
    made = builder()
    shifted = made.op("ADD", ("x", vector(made)), FULL)
    a = conv(made, shifted, normal(4, 3, 3, C))  # padding mixes zeros in
    clipped = conv(made, "x", normal(C, 1, 1, C), fusedActivationFunction=RELU)
    b = made.op("MUL", (clipped, vector(made)), FULL)  # behind an activation
    shared = conv(made, "x", normal(C, 1, 1, C))
    c = made.op("MUL", (shared, vector(made)), FULL)
    d = made.op("TANH", (shared,), FULL)  # others read the convolution too
    e = made.op("MUL", ("x", made.constant("map", normal(1, H, W, C))), FULL)  # varies over the picture
    f = made.op("MUL", ("x", made.op("TANH", ("x",), FULL)), FULL)  # no constant
    checked(finish(made, a, b, c, d, e, f), "fold_affine", 0)


def test_batch_norm_that_cannot_be_folded_becomes_one_depthwise_convolution() -> None:
    made = builder()
    joined = made.op("CONCATENATION", ("x", conv(made, "x", normal(4, 1, 1, C))), (1, H, W, C + 4), options={"axis": 3})
    scaled = made.op("MUL", (joined, vector(made, 0.001, 1.3, C + 4)), (1, H, W, C + 4))
    moved = made.op("ADD", (scaled, vector(made, -1, 1, C + 4)), (1, H, W, C + 4), options={"fusedActivationFunction": RELU})
    lone = made.op("MUL", (vector(made), "x"), FULL)
    taken = made.op("MUL", ("x", vector(made)), FULL)
    less = made.op("SUB", (taken, vector(made)), FULL)
    after = checked(finish(made, moved, lone, less, taken), "affine_depthwise", 3)
    assert kinds(after) == Counter(CONV_2D=3, CONCATENATION=1, DEPTHWISE_CONV_2D=1, SUB=1)  # dense up to 8 channels


def test_per_channel_weights_save_a_batch_norm_of_unlike_gains() -> None:
    """Gains from 0.002 to 2: as int8 MUL and ADD the small channels vanish, as a convolution they keep their precision."""
    many = 2 * C
    made = builder(1, H, W, many)
    gains = np.geomspace(0.002, 2, many).astype(np.float32).reshape(1, 1, 1, many)
    flat = made.op("MUL", ("x", made.constant("gain", gains)), (1, H, W, many))
    shift = made.constant("shift", normal(1, 1, 1, many) * gains)
    graph = finish(made, made.op("ADD", (flat, shift), (1, H, W, many)))
    after = checked(graph, "affine_depthwise", 1)

    def outcome(candidate: TfGraph) -> float:
        emitted = quantize(candidate, plan_of(candidate, minmax(candidate, inputs(candidate))))
        kept = next(op for op in emitted.ops if op.kind in {"MUL", "DEPTHWISE_CONV_2D"})
        stored = emitted.tensors[str(kept.inputs[1])]
        assert stored.data is not None
        assert stored.quant is not None
        scale, zero = np.asarray(stored.quant.scale), np.asarray(stored.quant.zero_point)
        restored = (stored.data.astype(np.float64).reshape(-1) - zero) * scale
        return float(np.abs(restored / gains.reshape(-1) - 1).max())

    assert outcome(after) < 1e-6
    assert outcome(graph) > 0.3


@pytest.mark.parametrize(("bias", "step"), [(True, 2), (False, 4)])
def test_transposed_convolution_with_kernel_equal_to_stride(bias: bool, step: int) -> None:
    made = builder()
    shape = (1, step * H, step * W, 6)
    w = made.constant("w", normal(6, step, step, C))
    more = (made.constant("b", normal(6)),) if bias else ()
    options = {"padding": VALID, "strideH": step, "strideW": step, "fusedActivationFunction": RELU}
    graph = finish(made, made.op("TRANSPOSE_CONV", (made.ints("s", shape), w, "x", *more), shape, options=options))
    after = checked(graph, "transpose_conv", 1)
    assert kinds(after) == Counter(CONV_2D=1, DEPTH_TO_SPACE=1)


def test_overlapping_transposed_convolution_stays() -> None:
    made = builder()
    shape = (1, 2 * H, 2 * W, 6)
    options = {"padding": SAME, "strideH": 2, "strideW": 2}
    w = made.constant("w", normal(6, 3, 3, C))
    graph = finish(made, made.op("TRANSPOSE_CONV", (made.ints("s", shape), w, "x"), shape, options=options))
    checked(graph, "transpose_conv", 0)


def test_average_pools_become_convolutions() -> None:
    made = builder()
    whole = made.op("AVERAGE_POOL_2D", ("x",), (1, H // 2, W // 2, C), options=POOL)
    pads = made.ints("pads", [[0, 0], [1, 1], [1, 1], [0, 0]])
    padded = made.op("PAD", ("x", pads), (1, H + 2, W + 2, C))
    three = {"padding": VALID, "strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 3}
    counted = made.op("AVERAGE_POOL_2D", (padded,), (1, H // 2, W // 2, C), options=three)
    fits = made.op("AVERAGE_POOL_2D", ("x",), (1, H // 2, W // 2, C), options={**POOL, "padding": SAME})
    shrinking = made.op("AVERAGE_POOL_2D", ("x",), (1, H // 2, W // 2, C), options={**three, "padding": SAME})
    graph = finish(made, whole, counted, fits, shrinking)
    after = checked(graph, "average_pool", 3)
    assert kinds(after) == Counter(DEPTHWISE_CONV_2D=3, PAD=1, AVERAGE_POOL_2D=1)
    emitted = quantize(after, plan_of(after, minmax(after, inputs(after))))
    weights = [emitted.tensors[str(op.inputs[1])].data for op in emitted.ops if op.kind == "DEPTHWISE_CONV_2D"]
    assert all((np.asarray(data) == 127).all() for data in weights)


def test_padding_goes_into_convolutions() -> None:
    made = builder()

    def padded(before: int, behind: int) -> str:
        pads = made.ints("pads", [[0, 0], [before, behind], [before, behind], [0, 0]])
        return made.op("PAD", ("x", pads), (1, H + before + behind, W + before + behind, C))

    one = padded(1, 1)
    a = conv(made, one, normal(4, 3, 3, C), padding=VALID)  # SAME
    b = conv(made, one, normal(4, 3, 3, C), padding=VALID, strideH=2, strideW=2)  # SAME would pad 0 and 1
    c = conv(made, one, normal(4, 3, 3, C), padding=VALID, strideH=2, strideW=2)
    d = conv(made, padded(0, 1), normal(4, 3, 3, C), padding=VALID, strideH=2, strideW=2)  # SAME
    e = conv(made, padded(1, 2), normal(4, 3, 3, C), padding=VALID)  # one row more than SAME
    kept = made.op("TANH", (padded(2, 2),), (1, H + 4, W + 4, C))
    after = checked(finish(made, a, b, c, d, e, kept), "pads", 3)
    assert kinds(after) == Counter(CONV_2D=5, PAD=4, TANH=1)
    assert Counter(op.options["padding"] for op in after.ops if op.kind == "CONV_2D") == Counter({SAME: 2, VALID: 3})
    read = Counter(str(op.inputs[0]) for op in after.ops if op.kind == "CONV_2D" and op.options["padding"] == VALID)
    assert set(read.values()) == {1}


def slopes(*values: float) -> TfGraph:
    made = builder()
    alpha = np.resize(np.asarray(values, np.float32), (1, 1, C)).copy()
    return finish(made, made.op("PRELU", ("x", made.constant("alpha", alpha)), FULL))


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        (slopes(0.1, -0.25), {"CONV_2D": 1, "MAXIMUM": 1}),
        (slopes(0.1, 0.25, 0.0, 1.5), {"CONV_2D": 2, "SUB": 1}),
        (slopes(1.5, -0.25), {"CONV_2D": 3, "ADD": 1}),
        (slopes(0.25), {"LEAKY_RELU": 1}),
    ],
)
def test_prelu_from_operators_with_int8_kernels(graph: TfGraph, wanted: dict[str, int]) -> None:
    after = checked(graph, "prelu", 1)
    assert kinds(after) == Counter(wanted)
    emitted = quantize(after, plan_of(after, minmax(after, inputs(after))))
    assert set(partitions(bytes(serialise(emitted))).outside_kinds) <= {"MAXIMUM"}
    for image in inputs(graph, 2):
        assert snr(run(graph, [image])[0][graph.outputs[0]], run(emitted, [image])[0][graph.outputs[0]]) > 33


def test_a_prelu_behind_a_batch_norm_needs_no_int8_form_of_what_it_reads() -> None:
    """Some channels lie far below 0 and have small slopes: most of the range before the PRELU is a tail."""
    made = builder(1, H, W, 16)
    draw = np.random.default_rng(3)
    shape = (1, H, W, 16)
    gain = made.constant("gain", np.geomspace(0.02, 2.0, 16, dtype=np.float32))
    shift = made.constant("shift", np.where(np.arange(16) % 4 == 0, -30.0, 0.0).astype(np.float32))
    x = made.op("ADD", (made.op("MUL", ("x", gain), shape), shift), shape)
    alpha = made.constant("alpha", draw.uniform(-0.02, 0.02, (1, 1, 16)).astype(np.float32))
    graph, _ = PASSES["affine_depthwise"](finish(made, made.op("PRELU", (x, alpha), shape)))
    after = checked(graph, "prelu", 1)
    assert kinds(after) == Counter({"DEPTHWISE_CONV_2D": 2, "MAXIMUM": 1})
    noise = []
    for one in (PASSES["prelu"](finish_with_reader(graph))[0], after):
        emitted = quantize(one, initial_plan(one, minmax(one, inputs(one)), policy=Policy.INTEGER_ONLY))
        noise += [snr(*(run(form, [image])[0][one.outputs[0]] for form in (one, emitted))) for image in inputs(graph, 1)]
    assert noise[1] > noise[0] + 3
    assert Counter(op.kind for op in emitted.ops)["QUANTIZE"] == 1, "both terms have the scale of the maximum"


def finish_with_reader(graph: TfGraph) -> TfGraph:
    """The same graph in which the PRELU's input is an output too, so that nothing may be merged into it."""
    return TfGraph(graph.tensors, graph.ops, graph.inputs, (*graph.outputs, str(graph.ops[-1].inputs[0])))


def test_hard_swish_from_operators_with_int8_kernels() -> None:
    made = builder()
    swish = made.op("HARD_SWISH", (conv(made, "x", normal(C, 1, 1, C)),), FULL)
    graph = finish(made, conv(made, swish, normal(C, 1, 1, C)))
    after = checked(graph, "hard_swish", 1)
    folded, count = PASSES["fold_affine"](after)
    assert count == 1
    assert kinds(folded) == Counter(CONV_2D=2, ADD=1, MUL=1)
    emitted = quantize(folded, plan_of(folded, minmax(folded, inputs(folded))))
    assert partitions(bytes(serialise(emitted))).outside == ()
    for image in inputs(graph, 2):
        assert snr(run(graph, [image])[0][graph.outputs[0]], run(emitted, [image])[0][graph.outputs[0]]) > 30


def test_clamps_are_fused_into_what_they_clamp() -> None:
    made = builder()
    a = made.op("RELU6", (conv(made, "x", normal(C, 1, 1, C)),), FULL)
    b = made.op("RELU", (made.op("ADD", (a, "x"), FULL),), FULL)
    shared = conv(made, "x", normal(C, 1, 1, C))
    c = made.op("RELU", (shared,), FULL)
    d = made.op("RELU", (made.op("TANH", (shared,), FULL),), FULL)
    e = made.op("RELU", (conv(made, "x", normal(C, 1, 1, C), fusedActivationFunction=RELU6),), FULL)
    after = checked(finish(made, b, c, d, e), "activations", 2)
    assert kinds(after)["RELU"] == 3
    assert [op.options.get("fusedActivationFunction") for op in after.ops if op.kind in {"CONV_2D", "ADD"}][:2] == [3, 1]


def test_arithmetic_with_integer_kernels() -> None:
    made = builder()
    a = made.op("SQUARE", ("x",), FULL)
    b = made.op("NEG", (a,), FULL)
    c = made.op("DIV", (b, vector(made)), FULL, options={"fusedActivationFunction": RELU})
    d = made.op("DIV", (vector(made), made.op("EXP", ("x",), FULL)), FULL)
    after = checked(finish(made, b, c, d), "integer_forms", 3)
    assert kinds(after) == Counter(MUL=3, EXP=1, DIV=1)


@pytest.mark.parametrize(("count", "joins"), [(5, 1), (6, 2), (11, 3), (26, 7)])
def test_wide_joins_become_trees(count: int, joins: int) -> None:
    made = builder()
    parts = [conv(made, "x", normal(2, 1, 1, C)) for _ in range(count)]
    graph = finish(made, made.op("CONCATENATION", parts, (1, H, W, 2 * count), options={"axis": -1}))
    after = checked(graph, "wide_joins", int(count > 5))
    assert kinds(after)["CONCATENATION"] == joins
    assert max(len(op.inputs) for op in after.ops if op.kind == "CONCATENATION") <= 5
    assert partitions(bytes(serialise(after))).outside == ()


def test_wide_splits_become_slices() -> None:
    made = builder()
    names = tuple(made.tensor(f"o{i}", (1, H, W, 1)) for i in range(C))
    made.graph.ops.append(TfOp("SPLIT", (made.ints("axis", np.asarray(-1)), "x"), names, {"numSplits": C}, "SplitOptions"))
    after = checked(finish(made, *names[1:]), "wide_joins", 1)
    assert kinds(after) == Counter(SLICE=C - 1)


def test_data_movement_that_cancels() -> None:
    made = builder()

    def transposed(name: str, *order: int) -> str:
        shape = tuple(made.graph.tensors[name].shape[axis] for axis in order)
        return made.op("TRANSPOSE", (name, made.ints("order", order)), shape)

    def reshaped(name: str, *shape: int) -> str:
        return made.op("RESHAPE", (name, made.ints("shape", shape)), shape)

    there = transposed("x", 0, 3, 1, 2)
    back = made.op("TANH", (transposed(there, 0, 2, 3, 1),), FULL)
    twice = transposed(there, 0, 2, 1, 3)
    flat = reshaped(reshaped("x", 1, H * W, C), H, W, C)
    none = made.op("TANH", (reshaped(reshaped("x", H, W, C), *FULL),), FULL)
    squeezed = made.op("SQUEEZE", ("x",), (H, W, C), options={"squeezeDims": (0,)})
    unit = transposed("x", 1, 0, 2, 3)
    graph = finish(made, back, twice, flat, none, squeezed, unit)
    after, _ = PASSES["moves"](graph)
    assert kinds(after) == Counter(TRANSPOSE=1, TANH=2, RESHAPE=3)
    for left, right in zip(run(graph, inputs(graph)), run(after, inputs(graph)), strict=True):
        for name in graph.outputs:
            np.testing.assert_allclose(left[name], right[name], atol=1e-6)
    assert PASSES["moves"](after)[1] == 0


def test_passes_run_by_name_in_their_own_order() -> None:
    made = builder()
    swish = made.op("HARD_SWISH", (conv(made, "x", normal(C, 1, 1, C)),), FULL)
    graph = finish(made, conv(made, swish, normal(C, 1, 1, C)))
    _, counts = apply(graph)
    assert set(counts) == set(DEFAULT)
    assert set(DEFAULT) | set(INTEGER_ONLY) == set(PASSES)
    _, counts = apply(graph, ["fold_affine", "hard_swish"])
    assert counts == {"hard_swish": 1, "fold_affine": 1}
    same, counts = apply(graph, [])
    assert same is graph
    assert counts == {}
    with pytest.raises(UsageError, match="no graph pass 'fold'"):
        apply(graph, ["fold"])
