"""Windows along one or three axes and running sums, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest
from lowering_oracle import Attr, one_node

from edgeseg.tflite.graph import Array, TfGraph

Agree: TypeAlias = Callable[..., TfGraph]


def weights(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32) / 2


@pytest.mark.parametrize(
    ("group", "shape", "attrs"),
    [
        (1, (5, 6, 3), {"pads": [1, 1]}),
        (6, (6, 1, 5), {"pads": [2, 0], "strides": [2]}),
        (2, (4, 3, 3), {"dilations": [2], "pads": [0, 2]}),
        (1, (5, 6, 3), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_convolution_along_one_axis(agree: Agree, group: int, shape: Sequence[int], attrs: dict[str, Attr]) -> None:
    agree(one_node("Conv", [(1, 6, 11)], weights(*shape), weights(shape[0]), group=group, **attrs))


def test_transposed_convolution_along_one_axis(agree: Agree) -> None:
    agree(one_node("ConvTranspose", [(1, 6, 11)], weights(6, 4, 4), weights(4), strides=[2], pads=[1, 1]))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape", [(1, 6, 11), (1, 1, 6, 7, 9), (1, 2, 5, 4, 6)])
def test_pooling_along_one_axis(agree: Agree, op: str, shape: Sequence[int]) -> None:
    kernel, pads = ([3], [1, 1]) if len(shape) == 3 else ([3, 1, 1], [1, 0, 0, 1, 0, 0])
    agree(one_node(op, [shape], kernel_shape=kernel, pads=pads, strides=[1] * len(kernel)))


def test_pooling_along_the_last_of_three_axes(agree: Agree) -> None:
    agree(one_node("AveragePool", [(1, 2, 5, 4, 9)], kernel_shape=[1, 1, 3], strides=[1, 1, 2], pads=[0, 0, 1, 0, 0, 1]))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_running_sums(agree: Agree, axis: int, exclusive: int, reverse: int) -> None:
    agree(one_node("CumSum", [(1, 6, 7, 9)], np.asarray(axis, np.int64), exclusive=exclusive, reverse=reverse))
