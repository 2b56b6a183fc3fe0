"""Operators that compute, against onnxruntime: one small graph a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest
from lowering_oracle import Attr, kinds, model_of, one_node
from onnx import helper

from edgeseg.tflite.graph import Array, TfGraph

Agree: TypeAlias = Callable[..., TfGraph]

X4 = (1, 6, 7, 9)


def weights(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / 2


def ints(*values: int) -> Array:
    return np.asarray(values, np.int64)


def floats(*values: float) -> Array:
    return np.asarray(values, np.float32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 1), (2, 0, 1, 3)])
@pytest.mark.parametrize(
    ("group", "shape"), [(1, (8, 6, 3, 3)), (6, (6, 1, 3, 3)), (6, (12, 1, 3, 3)), (2, (4, 3, 3, 3)), (3, (6, 2, 1, 3))]
)
def test_conv(agree: Agree, group: int, shape: Sequence[int], pads: Sequence[int], stride: int) -> None:
    agree(one_node("Conv", [X4], weights(*shape), weights(shape[0]), group=group, pads=pads, strides=[stride, stride]))


@pytest.mark.parametrize("dilation", [2, 3])
@pytest.mark.parametrize("group", [1, 6])
def test_dilated_conv_without_bias(agree: Agree, group: int, dilation: int) -> None:
    attrs: dict[str, Attr] = {"dilations": [dilation] * 2, "pads": [dilation] * 4, "group": group}
    graph = agree(one_node("Conv", [(1, 6, 14, 16)], weights(6, 6 // group, 3, 3), **attrs))
    assert "PAD" not in kinds(graph)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_auto_pad(agree: Agree, mode: str) -> None:
    agree(one_node("Conv", [X4], weights(4, 6, 4, 3), auto_pad=mode, strides=[2, 2]))


def test_conv_of_one_channel(agree: Agree) -> None:
    graph = agree(one_node("Conv", [(1, 1, 8, 8)], weights(4, 1, 3, 3), pads=[1, 1, 1, 1]))
    assert kinds(graph) == ["CONV_2D"]


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "extra"),
    [
        (2, 2, 0, 0),
        (3, 2, 1, 1),
        (3, 2, 1, 0),
        (3, 2, 0, 1),
        (4, 2, 1, 0),
        (3, 1, 1, 0),
        (2, 3, 0, 0),
        (2, 3, 0, 2),
        (5, 3, 2, 2),
        (16, 8, 4, 0),
    ],
)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_transpose(agree: Agree, kernel: int, stride: int, pads: int, extra: int, group: int) -> None:
    agree(
        one_node(
            "ConvTranspose", [(1, 4, 5, 6)], weights(4, 3, kernel, kernel), weights(3 * group),
            group=group, strides=[stride] * 2, pads=[pads] * 4, output_padding=[extra] * 2,
        )
    )  # fmt: skip


def test_conv_transpose_asymmetric_and_dilated(agree: Agree) -> None:
    agree(one_node("ConvTranspose", [(1, 4, 5, 6)], weights(4, 3, 3, 3), strides=[2, 1], pads=[1, 0, 0, 1]))
    agree(one_node("ConvTranspose", [(1, 4, 5, 6)], weights(4, 3, 3, 3), dilations=[2, 2], strides=[2, 2], pads=[1] * 4))
    agree(one_node("ConvTranspose", [(1, 4, 5, 6)], weights(4, 3, 3, 3), strides=[2, 2], output_shape=[10, 12]))


_POOLS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [5, 3], "strides": [3, 2], "pads": [2, 0, 1, 1]},
]


@pytest.mark.parametrize("attrs", _POOLS)
def test_max_pool(agree: Agree, attrs: dict[str, Attr]) -> None:
    agree(one_node("MaxPool", [(1, 3, 9, 10)], **attrs), low=-5, high=-1)


def test_max_pool_behind_relu_pads_with_zeros(agree: Agree) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    assert "PAD" in kinds(agree(model_of(nodes, {"x": (1, 3, 8, 8)}, {})))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("attrs", _POOLS)
def test_average_pool(agree: Agree, attrs: dict[str, Attr], counted: int) -> None:
    # Opset 19 is the one whose ceil_mode onnxruntime computes as PyTorch does.
    agree(one_node("AveragePool", [(1, 3, 9, 10)], opset=19, count_include_pad=counted, **attrs))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(agree: Agree, op: str) -> None:
    agree(one_node(op, [X4]))


@pytest.mark.parametrize(
    "op",
    ["Abs", "Ceil", "Cos", "Exp", "Floor", "Neg", "Sigmoid", "Sign", "Sin", "Tanh", "Relu", "HardSwish", "Softplus",
     "Softsign", "Erf", "Selu", "Round", "Elu", "LeakyRelu", "HardSigmoid", "Identity", "ThresholdedRelu"],
)  # fmt: skip
def test_unary(agree: Agree, op: str) -> None:
    agree(one_node(op, [X4]), low=-6, high=6, tolerance=1e-5)


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal"])
def test_unary_of_positive(agree: Agree, op: str) -> None:
    agree(one_node(op, [X4]), low=0.1, high=6)


def test_parametrised_activations(agree: Agree) -> None:
    agree(one_node("Elu", [X4], alpha=0.7))
    agree(one_node("Celu", [X4], alpha=0.7))
    agree(one_node("LeakyRelu", [X4], alpha=0.2))
    agree(one_node("HardSigmoid", [X4], alpha=1 / 6, beta=0.5), low=-5, high=5)
    agree(one_node("Gelu", [X4], opset=20), low=-5, high=5)
    agree(one_node("Gelu", [X4], opset=20, approximate="tanh"), low=-5, high=5)
    agree(one_node("Mish", [X4], opset=18), low=-30, high=30)


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0, 6, "RELU6"),
        (-1, 1, "RELU_N1_TO_1"),
        (0, 1, "MINIMUM"),
        (-2, 0.5, "MINIMUM"),
        (None, 1, "MINIMUM"),
        (0, None, "RELU"),
    ],
)
def test_clip(agree: Agree, low: float | None, high: float | None, kind: str) -> None:
    bounds = [None if bound is None else np.asarray(bound, np.float32) for bound in (low, high)]
    assert kinds(agree(one_node("Clip", [X4], *bounds), low=-8, high=8))[-1] == kind


@pytest.mark.parametrize("slope", [(6, 1, 1), (1,), (1, 1, 1), (6, 7, 9)])
def test_prelu(agree: Agree, slope: Sequence[int]) -> None:
    agree(one_node("PRelu", [X4], weights(*slope)))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"])
@pytest.mark.parametrize("other", [(), (1,), (9,), (6, 1, 1), (1, 6, 1, 1), (7, 1), X4, (1, 1, 7, 9)])
def test_binary_with_constant(agree: Agree, op: str, other: Sequence[int]) -> None:
    constant = np.abs(weights(*other)) + np.float32(0.5)
    agree(one_node(op, [X4], np.asarray(constant, np.float32)), low=0.5, high=3)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("other", [X4, (6, 1, 1), (9,), (1, 6, 1, 1), (7, 1), (1, 1, 7, 9)])
def test_binary_of_activations(agree: Agree, op: str, other: Sequence[int]) -> None:
    agree(one_node(op, [X4, other]), low=0.5, high=3)
    agree(one_node(op, [other, X4]), low=0.5, high=3)


@pytest.mark.parametrize("exponent", [2.0, 0.5, -0.5, 1.0, -1.0, 3.0])
def test_power(agree: Agree, exponent: float) -> None:
    agree(one_node("Pow", [X4], np.asarray(exponent, np.float32)), low=0.5, high=3)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(agree: Agree, op: str, count: int) -> None:
    agree(one_node(op, [X4] * count))


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparison_and_where(agree: Agree, op: str) -> None:
    nodes = [
        helper.make_node(op, ["x", "c"], ["m"]),
        helper.make_node("Not", ["m"], ["n"]),
        helper.make_node("And", ["m", "n"], ["a"]),
        helper.make_node("Or", ["a", "m"], ["o"]),
        helper.make_node("Where", ["o", "x", "z"], ["w"]),
        helper.make_node("Cast", ["n"], ["f"], to=1),
        helper.make_node("Add", ["w", "f"], ["y"]),
    ]
    agree(model_of(nodes, {"x": X4, "z": X4}, {"c": floats(0.5)}))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd",
                                "ReduceSumSquare", "ReduceLogSum"])  # fmt: skip
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (-1,), (1, 2, 3)])
def test_reduce(agree: Agree, op: str, axes: Sequence[int], keep: int) -> None:
    if op == "ReduceProd" and len(axes) == 3:
        axes = (2,)
    agree(one_node(op, [X4], ints(*axes), opset=18, keepdims=keep), low=0.5, high=1.5)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_reduce_with_axes_as_attribute(agree: Agree, op: str, keep: int) -> None:
    agree(one_node(op, [X4], axes=[2, 3], keepdims=keep, opset=13))


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axis", [1, 3, -2])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg_extreme(agree: Agree, op: str, axis: int, keep: int) -> None:
    agree(one_node(op, [X4], axis=axis, keepdims=keep))


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(agree: Agree, op: str, axis: int) -> None:
    agree(one_node(op, [X4], axis=axis))


def test_softmax_over_channels_transposes_nothing(agree: Agree) -> None:
    assert kinds(agree(one_node("Softmax", [X4], axis=1))) == ["SOFTMAX"]


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(agree: Agree, p: int) -> None:
    agree(one_node("LpNormalization", [X4], axis=1, p=p))
