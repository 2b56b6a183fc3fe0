"""Convolutions as matrix products on a sample of their output places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from edgeseg.tflite.graph import Array, TfGraph, TfOp

__all__ = ["LINEAR", "Float32", "LinearLayer", "linear_layer"]

Float32 = npt.NDArray[np.float32]
_SAME = 0

LINEAR = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


@dataclass(frozen=True)
class LinearLayer:
    """A CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED as ``groups`` products (n, k) x (k, r).

    Attributes:
        source: the activation it reads.
        weights: the constant's name.
        kernel, stride, dilation: (height, width); (1, 1) for a product.
        same: padding SAME, zeros.
        places: (height, width) of the output; the number of rows and 1 for a product.
        channels: of the input.
    """

    kind: str
    source: str
    weights: str
    bias: str | None
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    same: bool
    places: tuple[int, int]
    channels: int
    groups: int

    def sample(self, count: int, draw: np.random.Generator) -> npt.NDArray[np.int64]:
        """Flat indices of at most ``count`` output places, each once; int64 (n,)."""
        total = self.places[0] * self.places[1]
        return np.sort(draw.choice(total, min(count, total), replace=False))

    def patches(self, values: Array, places: npt.NDArray[np.int64]) -> Float32:
        """What the layer reads at these places: float32 (groups, n, k). ``values``: the source, NHWC or (..., channels)."""
        if self.kind == "FULLY_CONNECTED":
            return np.asarray(values, np.float32).reshape(-1, self.channels)[places][None]
        image = np.asarray(values, np.float32)[0]
        rows, columns = np.divmod(places, self.places[1])
        tops, lefts = (
            at * step - self._before(size, out, axis)
            for axis, (at, step, size, out) in enumerate(
                zip((rows, columns), self.stride, image.shape[:2], self.places, strict=True)
            )
        )
        down = tops[:, None, None] + (np.arange(self.kernel[0]) * self.dilation[0])[None, :, None]
        right = lefts[:, None, None] + (np.arange(self.kernel[1]) * self.dilation[1])[None, None, :]
        inside = (down >= 0) & (down < image.shape[0]) & (right >= 0) & (right < image.shape[1])
        taken = image[np.clip(down, 0, image.shape[0] - 1), np.clip(right, 0, image.shape[1] - 1)] * inside[..., None]
        grouped = taken.reshape(places.size, -1, self.groups, self.channels // self.groups)
        return np.ascontiguousarray(grouped.transpose(2, 0, 1, 3).reshape(self.groups, places.size, -1), np.float32)

    def matrix(self, weights: Array) -> Float32:
        """The weights as float32 (groups, r, k)."""
        values = np.asarray(weights, np.float32)
        if self.kind == "DEPTHWISE_CONV_2D":  # (1, kh, kw, channels * multiplier)
            return values.reshape(-1, self.groups, values.shape[3] // self.groups).transpose(1, 2, 0).copy()
        return values.reshape(self.groups, values.shape[0] // self.groups, -1)

    def tensor(self, matrix: Float32, shape: tuple[int, ...]) -> Float32:
        """The inverse of ``matrix``."""
        if self.kind == "DEPTHWISE_CONV_2D":
            return matrix.transpose(2, 0, 1).reshape(shape)
        return matrix.reshape(shape)

    def per_channel(self, values: Array) -> Float32:
        """One value an output channel as float32 (groups, r)."""
        return np.asarray(values, np.float32).reshape(self.groups, -1)

    def _before(self, size: int, out: int, axis: int) -> int:
        if not self.same:
            return 0
        reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        return max((out - 1) * self.stride[axis] + reach - size, 0) // 2


def linear_layer(graph: TfGraph, op: TfOp) -> LinearLayer | None:
    """The operator as a matrix product, where it is one of constant weights on a float activation; None for others."""
    if op.kind not in LINEAR:
        return None
    source, name = graph.tensors[str(op.inputs[0])], str(op.inputs[1])
    weights = graph.tensors[name].data
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if weights is None or source.data is not None or source.dtype != "float32":
        return None
    if bias is not None and not graph.is_constant(bias):
        return None
    if op.kind == "FULLY_CONNECTED":
        channels, ones = weights.shape[1], (1, 1)
        rows = int(np.prod(source.shape)) // channels
        return LinearLayer(op.kind, source.name, name, bias, ones, ones, ones, False, (rows, 1), channels, 1)
    if len(source.shape) != 4 or source.shape[0] != 1:
        return None
    options = {key: cast(int, value) for key, value in op.options.items()}
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    return LinearLayer(
        kind=op.kind,
        source=source.name,
        weights=name,
        bias=bias,
        kernel=(weights.shape[1], weights.shape[2]),
        stride=(options["strideH"], options["strideW"]),
        dilation=(options.get("dilationHFactor", 1), options.get("dilationWFactor", 1)),
        same=options["padding"] == _SAME,
        places=(graph.tensors[op.id].shape[1], graph.tensors[op.id].shape[2]),
        channels=source.shape[3],
        groups=source.shape[3] if depthwise else source.shape[3] // weights.shape[3],
    )
