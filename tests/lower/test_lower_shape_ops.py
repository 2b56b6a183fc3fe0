"""Operators that move, select and resample, against onnxruntime: one small graph a case."""

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


@pytest.mark.parametrize(
    "target",
    [(1, 6, 63), (1, 378), (1, 2, 3, 7, 9), (1, 42, 9), (42, 9), (1, 6, 9, 7), (6, 7, 9), (1, 6, 7, 3, 3), (1, 3, 14, 9)],
)
def test_reshape(agree: Agree, target: Sequence[int]) -> None:
    agree(one_node("Reshape", [X4], ints(*target)))


def test_reshape_of_spatial_axes_is_free(agree: Agree) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["a"]),
        helper.make_node("Transpose", ["a"], ["y"], perm=[0, 2, 1]),
    ]
    assert kinds(agree(model_of(nodes, {"x": X4}, {"flat": ints(1, 6, 63)}))) == ["RESHAPE"]


@pytest.mark.parametrize("axis", [0, 1, 2, 4])
def test_flatten(agree: Agree, axis: int) -> None:
    agree(one_node("Flatten", [X4], axis=axis))


def test_squeeze_and_unsqueeze(agree: Agree) -> None:
    agree(one_node("Squeeze", [(1, 6, 1, 9)], ints(2)))
    agree(one_node("Squeeze", [(1, 6, 1, 9)]))
    agree(one_node("Unsqueeze", [X4], ints(2)))
    agree(one_node("Unsqueeze", [(1, 6, 7)], ints(-1)))
    agree(one_node("Unsqueeze", [(1, 6, 7)], axes=[1], opset=11))


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 3, 2, 1), (0, 1, 2, 3)])
def test_transpose(agree: Agree, perm: Sequence[int]) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Transpose", ["s"], ["t"], perm=perm)]
    agree(model_of([*nodes, helper.make_node("Neg", ["t"], ["y"])], {"x": X4}, {}))


def test_expand_and_tile(agree: Agree) -> None:
    agree(one_node("Expand", [(1, 6, 1, 1)], ints(1, 6, 7, 9)))
    agree(one_node("Expand", [(6, 1)], ints(1, 3, 6, 4)))
    agree(one_node("Expand", [X4], ints(1, 1, 1, 1)))
    agree(one_node("Tile", [X4], ints(1, 2, 3, 1)))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat(agree: Agree, axis: int) -> None:
    agree(one_node("Concat", [X4, X4, X4], axis=axis))


def test_concat_with_constant(agree: Agree) -> None:
    agree(one_node("Concat", [X4], weights(1, 2, 7, 9), axis=1))


@pytest.mark.parametrize(("axis", "sizes"), [(1, (2, 4)), (2, (3, 1, 3)), (-1, (9,))])
def test_split(agree: Agree, axis: int, sizes: Sequence[int]) -> None:
    agree(one_node("Split", [X4], ints(*sizes), outputs=len(sizes), axis=axis))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ((1,), (4,), (1,), (1,)),
        ((0, 1), (100, -1), (2, 3), (1, 1)),
        ((0, 1), (100, 9), (2, 3), (2, 3)),
        ((-1,), (-100,), (3,), (-1,)),
        ((5,), (1,), (1,), (-2,)),
        ((0,), (100,), (2,), (1,)),
    ],
)
def test_slice(
    agree: Agree, starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...], steps: tuple[int, ...]
) -> None:
    agree(one_node("Slice", [X4], ints(*starts), ints(*ends), ints(*axes), ints(*steps)))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("indices", [2, -1, (1, 2, 3), (4, 0, 0, -1)])
def test_gather(agree: Agree, axis: int, indices: int | Sequence[int]) -> None:
    agree(one_node("Gather", [X4], np.asarray(indices, np.int64), axis=axis))


def test_gather_with_a_table_of_indices(agree: Agree) -> None:
    agree(one_node("Gather", [X4], np.asarray([[0, 2, 1], [3, 3, 5]]), axis=1))
    agree(one_node("Gather", [(5, 6)], np.asarray([[0, 2], [3, 3]]), axis=0))


def test_gather_nd(agree: Agree) -> None:
    agree(one_node("GatherND", [(7, 9, 6)], np.asarray([[[0, 1], [6, -1]], [[2, 2], [3, 8]]])))
    agree(one_node("GatherND", [X4], np.asarray([[0, 5], [0, 1]])))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 2, 1), (0, 1, 0, 0, 0, 2, 0, 0)])
def test_pad(agree: Agree, mode: str, pads: Sequence[int]) -> None:
    agree(one_node("Pad", [X4], ints(*pads), opset=19, mode=mode))


def test_pad_with_a_value_and_below_zero(agree: Agree) -> None:
    agree(one_node("Pad", [X4], ints(0, 0, 1, 2, 0, 0, 2, 1), np.asarray(1.5, np.float32)))
    agree(one_node("Pad", [X4], ints(0, 0, -1, 2, 0, 0, 1, -2)))


_RESIZED = [(14, 18), (21, 9), (4, 5), (3, 20)]


@pytest.mark.parametrize("size", _RESIZED)
@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_to_a_size(agree: Agree, mode: str, coordinates: str, size: tuple[int, int]) -> None:
    sizes = ints(1, 6, *size)
    agree(one_node("Resize", [X4], None, None, sizes, opset=19, mode=mode, coordinate_transformation_mode=coordinates))


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_resize_nearest_modes(agree: Agree, coordinates: str, nearest: str) -> None:
    attrs: dict[str, Attr] = {"coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    agree(one_node("Resize", [X4], None, floats(1, 1, 2, 1.5), mode="nearest", **attrs))
    agree(one_node("Resize", [X4], None, floats(1, 1, 0.6, 3), mode="nearest", **attrs))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_variants(agree: Agree, mode: str) -> None:
    agree(one_node("Resize", [X4], None, floats(1, 1, 1.7, 2.3), mode=mode))
    agree(one_node("Resize", [X4], None, floats(1, 1, 0.5, 0.4), mode=mode, antialias=1, opset=18))
    agree(one_node("Resize", [(1, 7, 9, 3)], None, floats(1, 2, 2, 1), mode="linear"))


def test_resize_of_one_pixel(agree: Agree) -> None:
    agree(one_node("Resize", [(1, 6, 1, 1)], None, None, ints(1, 6, 4, 5), mode="linear"))


def test_upsample_of_old_opsets(agree: Agree) -> None:
    agree(one_node("Upsample", [X4], floats(1, 1, 2, 2), opset=9, mode="nearest"))
    agree(one_node("Upsample", [X4], floats(1, 1, 2, 2), opset=9, mode="linear"))
    agree(one_node("Resize", [X4], floats(1, 1, 2, 2), opset=10, mode="linear"))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("channels", [4, 12])
def test_depth_to_space(agree: Agree, mode: str, channels: int) -> None:
    agree(one_node("DepthToSpace", [(1, channels, 4, 5)], blocksize=2, mode=mode))


def test_fold_of_blocks(agree: Agree) -> None:
    agree(one_node("Col2Im", [(1, 18, 20)], ints(8, 15), ints(2, 3), opset=18, strides=[2, 3]))


def test_space_to_depth(agree: Agree) -> None:
    agree(one_node("SpaceToDepth", [(1, 3, 4, 6)], blocksize=2))


@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 6), (6, 4)), ((1, 5, 6), (6, 4)), ((1, 2, 5, 6), (1, 2, 6, 4)), ((2, 5, 6), (1, 6, 4)), ((1, 3, 5, 6), (6, 4))],
)
def test_matmul(agree: Agree, left: Sequence[int], right: Sequence[int]) -> None:
    agree(one_node("MatMul", [left, right]))
    agree(one_node("MatMul", [left], weights(*right)))
    constant_first = helper.make_node("MatMul", ["c", "x"], ["y"])
    agree(model_of([constant_first], {"x": right}, {"c": weights(*left)}))


@pytest.mark.parametrize("flip", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(agree: Agree, flip: tuple[int, int]) -> None:
    left, right = ((6, 5) if flip[0] else (5, 6)), ((4, 6) if flip[1] else (6, 4))
    attrs: dict[str, Attr] = {"transA": flip[0], "transB": flip[1], "alpha": 0.5, "beta": 2.0}
    agree(one_node("Gemm", [left], weights(*right), weights(4), **attrs))
    agree(one_node("Gemm", [left, right], transA=flip[0], transB=flip[1]))


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("bhid,bhjd->bhij", (1, 2, 5, 4), (1, 2, 6, 4)),
        ("bhij,bhjd->bhid", (1, 2, 5, 6), (1, 2, 6, 4)),
        ("bqc,bchw->bqhw", (1, 5, 6), (1, 6, 3, 4)),
        ("bnc,bmc->bnm", (1, 5, 6), (1, 4, 6)),
        ("ij,jk->ik", (5, 6), (6, 4)),
    ],
)
def test_einsum(agree: Agree, equation: str, left: Sequence[int], right: Sequence[int]) -> None:
    agree(one_node("Einsum", [left, right], equation=equation))
    agree(one_node("Einsum", [left], weights(*right), equation=equation))


def test_batch_norm_alone_and_folded(agree: Agree) -> None:
    terms = [weights(6), weights(6, seed=2), weights(6, seed=3), np.abs(weights(6, seed=4)) + np.float32(0.1)]
    assert kinds(agree(one_node("BatchNormalization", [X4], *terms))) == ["MUL", "ADD"]
    held = dict(zip(("s", "b", "m", "v"), terms, strict=True))
    norm = helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"])
    conv = helper.make_node("Conv", ["x", "w"], ["c"])
    assert kinds(agree(model_of([conv, norm], {"x": X4}, {"w": weights(6, 6, 1, 1), **held}))) == ["CONV_2D"]
    turned = helper.make_node("ConvTranspose", ["x", "w"], ["c"], group=2)
    agree(model_of([turned, norm], {"x": X4}, {"w": weights(6, 3, 2, 2), **held}))


@pytest.mark.parametrize("axis", [-1, 2, 1])
def test_layer_norm(agree: Agree, axis: int) -> None:
    shape = X4[axis:] if axis > 0 else X4[-1:]
    agree(one_node("LayerNormalization", [X4], weights(*shape), weights(*shape, seed=2), axis=axis))
    agree(one_node("LayerNormalization", [X4], weights(*shape), axis=axis))


def test_instance_and_group_norm(agree: Agree) -> None:
    agree(one_node("InstanceNormalization", [X4], weights(6), weights(6, seed=2)))
    agree(one_node("InstanceNormalization", [X4], np.ones(6, np.float32), np.zeros(6, np.float32)))
    agree(one_node("GroupNormalization", [X4], weights(6), weights(6, seed=2), opset=21, num_groups=3))


def test_zero_padding_moves_into_the_conv(agree: Agree) -> None:
    nodes = [helper.make_node("Pad", ["x", "p"], ["a"]), helper.make_node("Conv", ["a", "w"], ["y"], strides=[2, 2])]
    constants = {"p": ints(0, 0, 0, 0, 0, 0, 1, 1), "w": weights(4, 6, 3, 3)}
    assert kinds(agree(model_of(nodes, {"x": (1, 6, 8, 8)}, constants))) == ["CONV_2D"]


def test_activation_is_fused(agree: Agree) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["y"]),
    ]
    constants = {"w": weights(6, 6, 1, 1), "low": np.asarray(0, np.float32), "high": np.asarray(6, np.float32)}
    graph = agree(model_of(nodes, {"x": X4}, constants))
    assert [(op.kind, op.options["fusedActivationFunction"], op.id) for op in graph.ops] == [
        ("CONV_2D", 1, "r"),
        ("ADD", 3, "y"),
    ]
