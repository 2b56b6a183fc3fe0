"""Windows, strides and paddings of the 2-D operators, read from ONNX and said in TFLite's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.lower.context import Lowering, Refused
from edgeseg.lower.source import Node

__all__ = ["SAME", "VALID", "Pads", "Window", "pad_nhwc", "read_window", "same_pads"]

SAME, VALID = 0, 1  # the schema's Padding

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Begin and end padding of the rows, then of the columns."""


@dataclass(frozen=True)
class Window:
    """``kernel``, ``strides``, ``dilations``: rows, columns."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Pads

    @property
    def extent(self) -> tuple[int, int]:
        """What one window spans in the input."""
        return (
            (self.kernel[0] - 1) * self.dilations[0] + 1,
            (self.kernel[1] - 1) * self.dilations[1] + 1,
        )

    @property
    def padded(self) -> bool:
        return self.pads != ((0, 0), (0, 0))


def read_window(ctx: Lowering, node: Node, kernel: Sequence[int]) -> Window:
    """The window of a 2-D convolution or pooling node; ``auto_pad`` is resolved to explicit paddings."""
    if ctx.rank(node.inputs[0]) != 4 or len(kernel) != 2:
        raise Refused(f"{ctx.rank(node.inputs[0]) - 2} spatial dimensions, 2 are supported")
    strides = _pair(node.integers("strides"), 1)
    dilations = _pair(node.integers("dilations"), 1)
    found = Window((kernel[0], kernel[1]), strides, dilations, ((0, 0), (0, 0)))
    mode = node.text("auto_pad", "NOTSET")
    if mode in {"SAME_UPPER", "SAME_LOWER"}:
        size = ctx.shape(node.inputs[0])[2:]
        rows, columns = same_pads(found, (size[0], size[1]))
        if mode == "SAME_LOWER":
            rows, columns = rows[::-1], columns[::-1]
        return Window(found.kernel, strides, dilations, (rows, columns))
    given = node.integers("pads")
    if mode == "VALID" or given is None:
        return found
    return Window(found.kernel, strides, dilations, ((given[0], given[2]), (given[1], given[3])))


def _pair(values: tuple[int, ...] | None, default: int) -> tuple[int, int]:
    return (values[0], values[1]) if values else (default, default)


def same_pads(window: Window, size: tuple[int, int]) -> Pads:
    """The paddings that TFLite's SAME gives on an input of ``size``: ceil(size / stride) outputs, the odd one at the end."""

    def one(length: int, extent: int, stride: int) -> tuple[int, int]:
        total = max((-(-length // stride) - 1) * stride + extent - length, 0)
        return total // 2, total - total // 2

    extent = window.extent
    return one(size[0], extent[0], window.strides[0]), one(size[1], extent[1], window.strides[1])


def pad_nhwc(ctx: Lowering, tensor: str, pads: Pads, near: str, *, mirror: bool = False) -> str:
    """A PAD with zeros (or a MIRROR_PAD that repeats the border) of an NHWC tensor."""
    (top, bottom), (left, right) = pads
    batch, height, width, channels = ctx.graph.tensors[tensor].shape
    shape = (batch, height + top + bottom, width + left + right, channels)
    amounts = ctx.index(np.asarray([(0, 0), (top, bottom), (left, right), (0, 0)]).tolist())
    if mirror:
        return ctx.step("MIRROR_PAD", (tensor, amounts), near, shape, "MirrorPadOptions", mode=1)
    return ctx.step("PAD", (tensor, amounts), near, shape, "PadOptions")
