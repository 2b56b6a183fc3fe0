"""Pooling."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import NHWC
from edgeseg.lower.source import Node
from edgeseg.lower.spatial import SAME, VALID, Pads, Window, pad_nhwc, read_window, same_pads
from edgeseg.tflite.graph import OptionValue

_KEEP_SIGN = {"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt"}
_PASS_SIGN = {"MaxPool", "AveragePool", "Concat", "Identity", "Transpose", "Reshape", "Resize", "GlobalAveragePool"}


def _options(window: Window, padding: int) -> dict[str, OptionValue]:
    return {
        "padding": padding,
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": 0,
    }


def _overhang(ctx: Lowering, node: Node, window: Window) -> Pads:
    """The paddings with what ``ceil_mode`` lets the last window reach beyond them (or fewer, where it stops short)."""
    size, wanted = ctx.shape(node.inputs[0])[2:], ctx.shape(node.outputs[0])[2:]
    reach = [(wanted[i] - 1) * window.strides[i] + window.extent[i] - size[i] - window.pads[i][0] for i in range(2)]
    (top, bottom), (left, right) = window.pads
    return (top, max(bottom, reach[0])), (left, max(right, reach[1]))


@lowers("MaxPool")
def max_pool(ctx: Lowering, node: Node) -> None:
    """MAX_POOL_2D. Padding must never win: zeros serve where the input cannot be negative; elsewhere the border is mirrored,
    which repeats values that the window holds already."""
    if len(node.outputs) > 1 and ctx.consumers.get(node.outputs[1]):
        raise Refused("the indices of the maxima")
    window = read_window(ctx, node, node.integers("kernel_shape") or ())
    out, source = node.outputs[0], node.inputs[0]
    tensor = ctx.read(source, NHWC)
    if window.dilations != (1, 1):
        raise Refused("a dilated window")
    pads = _overhang(ctx, node, window)
    size = ctx.shape(source)[2:]
    padding = VALID
    if pads != ((0, 0), (0, 0)):
        if pads == same_pads(window, (size[0], size[1])):
            padding = SAME
        elif _never_negative(ctx, source):
            tensor = pad_nhwc(ctx, tensor, pads, out)
        elif all(2 * amount <= window.kernel[i] and amount <= size[i] for i in range(2) for amount in pads[i]):
            tensor = pad_nhwc(ctx, tensor, pads, out, mirror=True)
        else:
            tensor = _pad_lowest(ctx, tensor, pads, out)
    ctx.finish("MAX_POOL_2D", (tensor,), out, NHWC, "Pool2DOptions", **_options(window, padding))


def _pad_lowest(ctx: Lowering, tensor: str, pads: Pads, near: str) -> str:
    batch, height, width, channels = ctx.graph.tensors[tensor].shape
    shape = (batch, height + sum(pads[0]), width + sum(pads[1]), channels)
    lowest = ctx.value(np.asarray(np.finfo(np.float32).min), "const/lowest")
    return ctx.step("PADV2", (tensor, ctx.index([(0, 0), *pads, (0, 0)]), lowest), near, shape, "PadV2Options")


def _never_negative(ctx: Lowering, name: str) -> bool:
    """Whether the operators before a tensor rule out values below zero."""
    producers = ctx.source.producers()
    open_names, seen = [name], set[str]()
    while open_names:
        current = open_names.pop()
        node = producers.get(current)
        if current in seen:
            continue
        seen.add(current)
        if node is None:
            return False
        if node.op in _KEEP_SIGN or (node.op == "Clip" and (ctx.source.scalar(node.input(1)) or 0.0) >= 0.0 and node.input(1)):
            continue
        linear = node.op != "Resize" or node.text("mode", "nearest") != "cubic"
        if node.op not in _PASS_SIGN or not linear:
            return False
        open_names.extend(node.inputs if node.op == "Concat" else node.inputs[:1])
    return True


@lowers("AveragePool")
def average_pool(ctx: Lowering, node: Node) -> None:
    """AVERAGE_POOL_2D, which leaves padding out of the mean. Where ONNX counts it, or cuts windows where SAME does not, zeros
    are padded and the border is corrected by a constant factor."""
    window = read_window(ctx, node, node.integers("kernel_shape") or ())
    if window.dilations != (1, 1):
        raise Refused("a dilated window")
    out, source = node.outputs[0], node.inputs[0]
    tensor = ctx.read(source, NHWC)
    pads = _overhang(ctx, node, window)
    size = ctx.shape(source)[2:]
    counted = bool(node.integer("count_include_pad", 0))
    table = "Pool2DOptions"
    if pads == ((0, 0), (0, 0)) or (not counted and pads == same_pads(window, (size[0], size[1]))):
        padding = VALID if pads == ((0, 0), (0, 0)) else SAME
        ctx.finish("AVERAGE_POOL_2D", (tensor,), out, NHWC, table, **_options(window, padding))
        return
    tensor = pad_nhwc(ctx, tensor, pads, out)
    factors = _border_factors(window, (size[0], size[1]), ctx.shape(out)[2:], counted=counted)
    if np.all(factors == 1):
        ctx.finish("AVERAGE_POOL_2D", (tensor,), out, NHWC, table, **_options(window, VALID))
        return
    shape = (1, *ctx.shape(out)[2:], ctx.shape(out)[1])
    made = ctx.step("AVERAGE_POOL_2D", (tensor,), out, shape, table, "float32", **_options(window, VALID))
    factor = ctx.value(factors[..., np.newaxis].astype(np.float32), f"{out}/border")
    ctx.finish("MUL", (made, factor), out, NHWC, "MulOptions", fusedActivationFunction=0)


def _border_factors(
    window: Window, size: tuple[int, int], wanted: tuple[int, ...], *, counted: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Kernel area over the number of positions that ONNX counts, for every output: (rows, columns). With
    ``count_include_pad`` the explicit paddings count, what lies beyond them never does."""
    counts: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for i in range(2):
        begin, end = window.pads[i] if counted else (0, 0)
        starts = np.arange(wanted[i]) * window.strides[i] - window.pads[i][0]
        stops = np.minimum(starts + window.kernel[i], size[i] + end)
        counts.append((stops - np.maximum(starts, -begin)).astype(np.float64))
    return window.kernel[0] * window.kernel[1] / np.outer(counts[0], counts[1])


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(ctx: Lowering, node: Node) -> None:
    """MEAN or REDUCE_MAX over everything but batch and channels."""
    source = node.inputs[0]
    perm = ctx.order(source)
    axes = [perm.index(axis) for axis in range(2, len(perm))]
    kind = "MEAN" if node.op == "GlobalAveragePool" else "REDUCE_MAX"
    inputs = (ctx.read(source, perm), ctx.index(sorted(axes)))
    ctx.finish(kind, inputs, node.outputs[0], perm, "ReducerOptions", keepDims=True)


@lowers("MaxUnpool")
def max_unpool(ctx: Lowering, node: Node) -> None:
    """Every value goes to the place of its window's maximum, the first where several are equal; the others are zero. The windows
    of the pooled tensor become channels, so that a place is a slice."""
    source, values = node.inputs
    out = node.outputs[0]
    kernel = node.integers("kernel_shape") or ()
    block = kernel[0]
    if set(kernel) != {block}:
        raise Refused("a window that is not square")
    tensor, given = ctx.read(source, NHWC), ctx.read(values, NHWC)
    shape = ctx.graph.tensors[given].shape
    stacked = (*shape[:3], shape[3] * block * block)
    tensor = ctx.step("SPACE_TO_DEPTH", (tensor,), out, stacked, "SpaceToDepthOptions", blockSize=block)
    places = [
        ctx.step("SLICE", (tensor, ctx.index((0, 0, 0, i * shape[3])), ctx.index(shape)), out, shape, "SliceOptions")
        for i in range(block * block)
    ]
    highest = places[0]
    for place in places[1:]:
        highest = ctx.step("MAXIMUM", (highest, place), out, shape, "MaximumMinimumOptions")
    left, parts = given, []
    for place in places:
        # What a place has taken is zero for those after it.
        found = ctx.step("EQUAL", (place, highest), out, shape, "EqualOptions", dtype="bool")
        parts.append(ctx.step("SELECT_V2", (found, left, ctx.number(0.0)), out, shape, "SelectV2Options"))
        left = ctx.step("SELECT_V2", (found, ctx.number(0.0), left), out, shape, "SelectV2Options")
    joined = ctx.step("CONCATENATION", parts, out, stacked, "ConcatenationOptions", axis=3, fusedActivationFunction=0)
    ctx.finish("DEPTH_TO_SPACE", (joined,), out, NHWC, "DepthToSpaceOptions", blockSize=block)
