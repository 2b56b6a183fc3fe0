"""Resampling of one axis as numbers: what ONNX Resize asks for, and what TFLite's kernels do.

Both sides are written as an (output, input) matrix of weights, or a list of source indices for nearest, so that "the same" is a
comparison of numbers and not of mode names. Formulas: ONNX operator specification, Resize; TFLite reference kernels
``resize_bilinear.h`` and ``resize_nearest_neighbor.h``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "Sampling", "UnknownMode", "onnx_indices", "onnx_matrix", "tflite_indices", "tflite_matrix"]

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class UnknownMode(ValueError):
    """A mode that is not described here."""


@dataclass(frozen=True)
class Axis:
    """Lengths before and after, and the scale that the node states (their quotient where it states sizes)."""

    before: int
    after: int
    scale: float


@dataclass(frozen=True)
class Sampling:
    """The attributes of a Resize node, by their ONNX names."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool


def _coordinates(axis: Axis, how: Sampling) -> npt.NDArray[np.float64]:
    """Where every output lies in the input, in single precision as runtimes compute it."""
    one = np.float32
    x = np.arange(axis.after, dtype=one)
    scale = one(axis.scale)
    half = (x + one(0.5)) / scale - one(0.5)
    match how.coordinates:
        case "half_pixel":
            found = half
        case "pytorch_half_pixel":
            found = half if axis.after > 1 else np.zeros(1, one)
        case "half_pixel_symmetric":
            adjusted = axis.after / (axis.scale * axis.before)
            found = half + one(axis.before / 2 * (1 - adjusted))
        case "align_corners":
            found = np.zeros(1, one) if axis.after == 1 else x * one(axis.before - 1) / one(axis.after - 1)
        case "asymmetric":
            found = x / scale
        case "tf_half_pixel_for_nn":
            found = (x + one(0.5)) / scale
        case other:
            raise UnknownMode(f"coordinate transformation {other}")
    return found.astype(np.float64)


def onnx_indices(axis: Axis, how: Sampling) -> Indices:
    """Source index of every output for mode nearest."""
    x = _coordinates(axis, how)
    rounding = {
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
        "floor": np.floor(x),
        "ceil": np.ceil(x),
    }
    if how.nearest not in rounding:
        raise UnknownMode(f"nearest mode {how.nearest}")
    return np.clip(rounding[how.nearest], 0, axis.before - 1).astype(np.int64)


def onnx_matrix(axis: Axis, how: Sampling) -> Matrix:
    """Weights of every output for modes linear and cubic (Keys 1981 with parameter ``cubic_a``)."""
    if how.mode not in {"linear", "cubic"}:
        raise UnknownMode(f"mode {how.mode}")
    x = _coordinates(axis, how)
    shrink = min(axis.scale, 1.0) if how.antialias else 1.0
    reach = int(np.ceil((1 if how.mode == "linear" else 2) / shrink)) + 1
    first = np.floor(x).astype(np.int64)
    result = np.zeros((axis.after, axis.before))
    for offset in range(-reach, reach + 1):
        index = first + offset
        distance = np.abs(index - x) * shrink
        weight = np.maximum(1 - distance, 0) if how.mode == "linear" else _keys(distance, how.cubic_a)
        if how.exclude_outside:
            weight = np.where((index >= 0) & (index < axis.before), weight, 0)
        np.add.at(result, (np.arange(axis.after), np.clip(index, 0, axis.before - 1)), weight)
    total: Matrix = result.sum(axis=1, keepdims=True)
    return result / total


def _keys(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    near: Matrix = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weight: Matrix = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weight


def tflite_indices(before: int, after: int, *, align_corners: bool, half_pixel: bool) -> Indices:
    """Source index of every output of RESIZE_NEAREST_NEIGHBOR."""
    one = np.float32
    scale = one(before - 1) / one(after - 1) if align_corners and after > 1 else one(before) / one(after)
    x = (np.arange(after, dtype=one) + one(0.5 if half_pixel else 0.0)) * scale
    index = np.floor(x + one(0.5)) if align_corners else np.floor(x)
    found: Indices = np.clip(index, 0, before - 1).astype(np.int64)
    return found


def tflite_matrix(before: int, after: int, *, align_corners: bool, half_pixel: bool) -> Matrix:
    """Weights of every output of RESIZE_BILINEAR."""
    one = np.float32
    scale = one(before - 1) / one(after - 1) if align_corners and after > 1 else one(before) / one(after)
    x = np.arange(after, dtype=one)
    x = ((x + one(0.5)) * scale - one(0.5) if half_pixel else x * scale).astype(np.float64)
    low = np.maximum(np.floor(x), 0).astype(np.int64)
    high = np.minimum(np.ceil(x), before - 1).astype(np.int64)
    low = np.minimum(low, before - 1)
    result = np.zeros((after, before))
    rows = np.arange(after)
    np.add.at(result, (rows, low), 1 - (x - low))
    np.add.at(result, (rows, np.maximum(high, low)), x - low)
    return result
