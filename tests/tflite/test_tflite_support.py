"""The table of facts about the runtime, measured again on the runtime that is installed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tf_cases import BY_KIND, C, H, W, builder, conv, finish, inputs, minmax, normal, plan_of

from edgeseg.quantize.plan import Domain
from edgeseg.tflite.builder import OPTIONS_TYPES
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.support import RULES, delegated, supported


def joined(count: int) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        parts = [conv(made, "x", normal(4, 1, 1, C)) for _ in range(count)]
        return finish(made, made.op("CONCATENATION", parts, (1, H, W, 4 * count), options={"axis": 3}))

    return make


def halved(count: int) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        names = tuple(made.tensor(f"o{i}", (1, H, W, C // count)) for i in range(count))
        made.graph.ops.append(TfOp("SPLIT", (made.ints("axis", [3]), "x"), names, {"numSplits": count}, "SplitOptions"))
        return finish(made, *names)

    return make


def leaky(alpha: float) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        return finish(made, made.op("LEAKY_RELU", ("x",), (1, H, W, C), options={"alpha": alpha}))

    return make


def tanh_behind_convolution() -> TfGraph:
    made = builder()
    return finish(made, conv(made, "x", normal(6, 3, 3, C), fusedActivationFunction=4))


def window(step: int) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        ends = [made.ints("i", values) for values in ([0, 0, 2, 0], [1, H, 6, C], [1, step, 1, 1])]
        return finish(made, made.op("STRIDED_SLICE", ("x", *ends), (1, H // step, 4, C)))

    return make


VARIANTS: dict[str, Callable[[], TfGraph]] = {
    "CONCATENATION of 5": joined(5),
    "CONCATENATION of 6": joined(6),
    "SPLIT in 4": halved(4),
    "SPLIT in 8": halved(8),
    "LEAKY_RELU 0": leaky(0.0),
    "LEAKY_RELU 0.001": leaky(0.001),
    "LEAKY_RELU 1.5": leaky(1.5),
    "LEAKY_RELU -0.5": leaky(-0.5),
    "CONV_2D with TANH": tanh_behind_convolution,
    "STRIDED_SLICE step 1": window(1),
    "STRIDED_SLICE step 2": window(2),
}


def test_every_rule_has_a_case_and_an_options_table() -> None:
    assert set(RULES) == set(BY_KIND)
    without_options = {"RELU", "RELU6", "PRELU", "ELU", "LOGISTIC", "TANH", "RSQRT"}
    assert set(RULES) - set(OPTIONS_TYPES) == without_options


@pytest.mark.parametrize("name", [*sorted(BY_KIND), *VARIANTS])
def test_what_the_delegate_takes(name: str) -> None:
    graph = (BY_KIND | VARIANTS)[name]()
    op = graph.ops[-1]
    left = partitions(bytes(serialise(graph))).outside_kinds
    assert (op.kind not in left) == delegated(op, graph, Domain.FLOAT), "in float"
    emitted = quantize(graph, plan_of(graph, minmax(graph, inputs(graph))))
    left = partitions(bytes(serialise(emitted))).outside_kinds
    assert (op.kind not in left) == delegated(op, graph, Domain.INT8), "in int8"


def test_partitions_count_and_name_what_is_left_out() -> None:
    made = builder()
    a = conv(made, "x", normal(C, 1, 1, C))
    cut = made.op("MIRROR_PAD", (a, made.ints("p", [[0, 0], [1, 1], [1, 1], [0, 0]])), (1, H + 2, W + 2, C), name="cut")
    graph = finish(made, conv(made, cut, normal(C, 1, 1, C)))
    facts = partitions(bytes(serialise(graph)))
    assert facts.partitions == 2
    assert facts.operators == 3
    assert facts.outside == (("MIRROR_PAD", "cut"),)
    assert facts.outside_kinds == {"MIRROR_PAD": 1}


def test_unsupported_operands_are_told_in_advance() -> None:
    made = builder()
    weights = conv(made, "x", normal(C, 1, 1, C))
    flat = made.op("RESHAPE", (weights, made.ints("s", [H * W, C])), (H * W, C))
    graph = finish(made, made.op("FULLY_CONNECTED", ("x", flat, None), (1, H, W, H * W), options={"keepNumDims": True}))
    assert not supported(graph.ops[-1], graph)
    assert supported(graph.ops[-1], graph, Domain.FLOAT)
    assert supported(graph.ops[0], graph)
    assert supported(graph.ops[0], graph, Domain.INT16)
    assert not supported(TfOp("ERF", ("x",), ("y",)), graph)
