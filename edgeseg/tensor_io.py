"""Between images and the element types of a file: quantize what goes in, dequantize what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ModelError
from edgeseg.session import Float32, ModelInput, TensorInfo
from edgeseg.spec import Layout

__all__ = ["as_labels", "dequantize", "input_array", "logits_array", "quantize"]

_INTEGERS = ("int8", "uint8", "int16")


def quantize(values: Float32, tensor: TensorInfo) -> npt.NDArray[np.generic]:
    """``clip(round(x / scale) + zero_point)``, halves to even (Jacob et al. 2018, arXiv:1712.05877, eq. 1).

    >>> quantize(np.float32([-9, 0.25, 0.75, 9]), TensorInfo("x", "int8", (4,), (0.5,), (-1,))).tolist()
    [-19, -1, 1, 17]
    """
    scale, zero_point = _affine(tensor)
    limits = np.iinfo(tensor.dtype)
    levels: Float32 = np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max)
    return levels.astype(tensor.dtype)


def dequantize(array: npt.NDArray[np.generic], tensor: TensorInfo) -> Float32:
    """``scale * (q - zero_point)`` as float32."""
    scale, zero_point = _affine(tensor)
    return (array.astype(np.float32) - np.float32(zero_point)) * scale


def _affine(tensor: TensorInfo) -> tuple[np.float32, int]:
    if len(tensor.scale) != 1:
        raise ModelError(
            f"Tensor '{tensor.name}' is {tensor.dtype} with {len(tensor.scale)} scales, where one is needed.",
            hint="If the file takes raw pixels, say so (pixels); otherwise it lacks its quantization parameters.",
        )
    return np.float32(tensor.scale[0]), tensor.zero_point[0]


def input_array(x: ModelInput, tensor: TensorInfo, *, pixels: bool, layout: Layout) -> npt.NDArray[np.generic]:
    """``x`` in the element type and layout that ``tensor`` takes.

    With ``pixels``, the raw pixels: as they are for uint8 and float, minus 128 for int8. Without, the normalised values,
    quantized by the tensor's own scale where it is an integer tensor.
    """
    if pixels:
        image: npt.NDArray[np.generic] = x.pixels
        if tensor.dtype == "int8":
            image = (x.pixels ^ 0x80).view(np.int8)  # flipping the top bit is subtracting 128
        elif tensor.dtype != "uint8":
            image = x.pixels.astype(tensor.dtype)
        return np.ascontiguousarray(image if layout is Layout.NHWC else image.transpose(0, 3, 1, 2))
    values = x.values.transpose(0, 2, 3, 1) if layout is Layout.NHWC else x.values
    if tensor.dtype in _INTEGERS:
        return np.ascontiguousarray(quantize(values, tensor))
    return np.ascontiguousarray(values, dtype=tensor.dtype)


def as_labels(tensor: TensorInfo) -> TensorInfo:
    """An output of class indices: integers that stand for themselves.

    >>> as_labels(TensorInfo("y", "uint8", (1, 4, 4, 1))).scale
    (1.0,)
    """
    return replace(tensor, scale=(1.0,), zero_point=(0,))


def logits_array(array: npt.NDArray[np.generic], tensor: TensorInfo, *, layout: Layout) -> Float32:
    """A file's output as float32 (1, C, h, w)."""
    logits = dequantize(array, tensor) if tensor.dtype in _INTEGERS else array.astype(np.float32, copy=False)
    return np.ascontiguousarray(logits if layout is Layout.NCHW else logits.transpose(0, 3, 1, 2))
