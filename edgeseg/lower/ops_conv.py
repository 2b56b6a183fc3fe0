"""Conv and ConvTranspose."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import NHWC
from edgeseg.lower.source import Node
from edgeseg.lower.spatial import SAME, VALID, Window, pad_nhwc, read_window, same_pads
from edgeseg.tflite.graph import Array, OptionValue

_OHWI = (0, 2, 3, 1)


@lowers("Conv")
def conv(ctx: Lowering, node: Node) -> None:
    """CONV_2D (grouped where the groups are several) or DEPTHWISE_CONV_2D, behind a PAD where SAME and VALID do not fit."""
    weights = ctx.known(node.inputs[1], "weight")
    window = read_window(ctx, node, weights.shape[2:])
    bias = _bias(ctx, node, weights.shape[0])
    tensor = ctx.read(node.inputs[0], NHWC)
    convolve(ctx, tensor, weights, bias, window, node.integer("group", 1), node)


def convolve(ctx: Lowering, tensor: str, weights: Array, bias: str, window: Window, groups: int, node: Node) -> None:
    """A convolution of an NHWC tensor with ONNX weights (O, I / groups, rows, columns); defines the node's output."""
    out = node.outputs[0]
    _, height, width, channels = ctx.graph.tensors[tensor].shape
    padding = VALID
    if window.padded and window.pads == same_pads(window, (height, width)):
        padding = SAME
    elif window.padded:
        tensor = pad_nhwc(ctx, tensor, window.pads, out)
    options: dict[str, OptionValue] = {
        "padding": padding,
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": 0,
    }
    name = node.inputs[1]
    if groups == channels and groups > 1:
        # ONNX orders the outputs by input channel, then by multiplier, as TFLite does.
        filters = ctx.value(weights[:, 0].transpose(1, 2, 0)[np.newaxis], name)
        options["depthMultiplier"] = weights.shape[0] // channels
        ctx.finish("DEPTHWISE_CONV_2D", (tensor, filters, bias), out, NHWC, "DepthwiseConv2DOptions", **options)
        return
    filters = ctx.value(weights.transpose(_OHWI), name)
    ctx.finish("CONV_2D", (tensor, filters, bias), out, NHWC, "Conv2DOptions", **options)


def _bias(ctx: Lowering, node: Node, outputs: int) -> str:
    if node.input(2):
        return ctx.value(ctx.known(node.inputs[2], "bias").reshape(-1), node.inputs[2])
    return ctx.value(np.zeros(outputs, np.float32), f"{node.inputs[1]}/bias")


@lowers("ConvTranspose")
def conv_transpose(ctx: Lowering, node: Node) -> None:
    """TRANSPOSE_CONV, cut by a SLICE where TFLite's paddings do not fit; grouped or dilated ones become a convolution of the
    input with zeros between its pixels (Dumoulin and Visin 2016, arXiv:1603.07285, section 4)."""
    weights = ctx.known(node.inputs[1], "weight")
    groups = node.integer("group", 1)
    bias = _bias(ctx, node, weights.shape[1] * groups)
    window = _transposed_window(ctx, node, weights)
    if groups > 1 or window.dilations != (1, 1):
        _by_zero_insertion(ctx, node, weights, bias, window, groups)
        return
    out = node.outputs[0]
    _, channels, rows, columns = ctx.shape(out)
    tensor = ctx.read(node.inputs[0], NHWC)
    size = ctx.shape(node.inputs[0])[2:]
    full = tuple((size[i] - 1) * window.strides[i] + window.kernel[i] for i in range(2))
    filters = ctx.value(weights.transpose(1, 2, 3, 0), node.inputs[1])
    options: dict[str, OptionValue] = {
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "fusedActivationFunction": 0,
    }
    table = "TransposeConvOptions"
    wanted = (rows, columns)
    padding = next((kind for kind in (VALID, SAME) if _fits(kind, size, full, wanted, window)), None)
    if padding is not None:
        shape = ctx.index((1, rows, columns, channels))
        ctx.finish("TRANSPOSE_CONV", (shape, filters, tensor, bias), out, NHWC, table, padding=padding, **options)
        return
    # VALID computes everything that the input reaches; what ONNX wants beyond it holds the bias alone.
    whole = tuple(max(full[i], window.pads[i][0] + wanted[i]) for i in range(2))
    if any(whole[i] - full[i] >= window.strides[i] for i in range(2)):
        raise Refused("output padding of a whole stride or more")
    reached = (1, *whole, channels)
    made = ctx.step(
        "TRANSPOSE_CONV", (ctx.index(reached), filters, tensor, bias), out, reached, table, "float32", padding=VALID, **options
    )
    begin = ctx.index((0, window.pads[0][0], window.pads[1][0], 0))
    ctx.finish("SLICE", (made, begin, ctx.index((1, rows, columns, channels))), out, NHWC, "SliceOptions")


def _transposed_window(ctx: Lowering, node: Node, weights: Array) -> Window:
    """The window of a transposed convolution with the paddings that its output shape implies."""
    window = read_window(ctx, node, weights.shape[2:])
    size, wanted = ctx.shape(node.inputs[0])[2:], ctx.shape(node.outputs[0])[2:]
    mode = node.text("auto_pad", "NOTSET")
    if mode == "NOTSET" and node.integers("output_shape") is None:
        return window
    extra = node.integers("output_padding") or (0, 0)
    pads: list[tuple[int, int]] = []
    for i in range(2):
        total = (size[i] - 1) * window.strides[i] + extra[i] + window.extent[i] - wanted[i]
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return Window(window.kernel, window.strides, window.dilations, (pads[0], pads[1]))


def _fits(kind: int, size: tuple[int, ...], full: tuple[int, ...], wanted: tuple[int, int], window: Window) -> bool:
    """Whether TRANSPOSE_CONV with this padding cuts exactly what ONNX cuts."""
    for i in range(2):
        begin = window.pads[i][0]
        if kind == VALID and (begin != 0 or wanted[i] != full[i]):
            return False
        if kind == SAME and (-(-wanted[i] // window.strides[i]) != size[i] or begin != max(full[i] - wanted[i], 0) // 2):
            return False
    return True


def _by_zero_insertion(ctx: Lowering, node: Node, weights: Array, bias: str, window: Window, groups: int) -> None:
    out = node.outputs[0]
    tensor = ctx.read(node.inputs[0], NHWC)
    tensor = _spread(ctx, tensor, window.strides, out)
    size, wanted = ctx.graph.tensors[tensor].shape[1:3], ctx.shape(out)[2:]
    pads: list[tuple[int, int]] = []
    for i in range(2):
        before = window.extent[i] - 1 - window.pads[i][0]
        pads.append((before, wanted[i] + window.extent[i] - 1 - size[i] - before))
    tensor = _crop(ctx, tensor, (pads[0], pads[1]), out)
    pads = [(max(begin, 0), max(end, 0)) for begin, end in pads]
    inner = weights.shape[0] // groups
    kernel = weights.reshape(groups, inner, *weights.shape[1:]).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    kernel = kernel.reshape(groups * weights.shape[1], inner, *weights.shape[2:])
    plain = Window(window.kernel, (1, 1), window.dilations, (pads[0], pads[1]))
    convolve(ctx, tensor, kernel, bias, plain, groups, node)


def _spread(ctx: Lowering, tensor: str, strides: tuple[int, int], near: str) -> str:
    """Puts ``stride - 1`` zeros between the pixels of an NHWC tensor."""
    if strides == (1, 1):
        return tensor
    down, across = strides
    _, height, width, channels = ctx.graph.tensors[tensor].shape
    tensor = ctx.reshape(tensor, (height, 1, width, channels), near)
    shape = (height, down, width, across * channels)
    amounts = ctx.index([(0, 0), (0, down - 1), (0, 0), (0, (across - 1) * channels)])
    tensor = ctx.step("PAD", (tensor, amounts), near, shape, "PadOptions")
    tensor = ctx.reshape(tensor, (1, height * down, width * across, channels), near)
    return _cut(ctx, tensor, (0, 0), ((height - 1) * down + 1, (width - 1) * across + 1), near)


def _crop(ctx: Lowering, tensor: str, pads: tuple[tuple[int, int], tuple[int, int]], near: str) -> str:
    """Cuts what negative paddings take away."""
    begin = (max(-pads[0][0], 0), max(-pads[1][0], 0))
    height, width = ctx.graph.tensors[tensor].shape[1:3]
    size = (height - begin[0] - max(-pads[0][1], 0), width - begin[1] - max(-pads[1][1], 0))
    return _cut(ctx, tensor, begin, size, near)


def _cut(ctx: Lowering, tensor: str, begin: tuple[int, int], size: tuple[int, int], near: str) -> str:
    _, height, width, channels = ctx.graph.tensors[tensor].shape
    if (height, width) == size:
        return tensor
    shape = (1, *size, channels)
    inputs = (tensor, ctx.index((0, *begin, 0)), ctx.index(shape))
    return ctx.step("SLICE", inputs, near, shape, "SliceOptions")
