"""Integer forms of constants: weights per channel, biases, elementwise constants. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from edgeseg.quantize.learned import LayerWeights
from edgeseg.tflite.graph import Array, Quant

Float64 = npt.NDArray[np.float64]

__all__ = ["LIMITS", "LinearWeights", "Rounding", "constant_range", "float32", "quantize_array", "quantize_linear", "widened"]

LIMITS: dict[str, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
"""Smallest and largest integer of the types activations are quantized to."""

_WEIGHT_LIMIT = 127  # symmetric: -128 is never used, so that kernels may negate
_BIAS_LIMIT = 2**30  # of an int32 bias; the other half of the range is left to the products added to it
_SAME_SCALE = 1e-5  # rounding of a scale that was computed on another machine
_SMALLEST_RATIO, _LARGEST_RATIO = 2.0**-24, 255.0  # of (input scale * weight scale) / output scale
_ANY_RATIO = 1e-6  # so small that the weights' own size decides


class Rounding(StrEnum):
    """NEAREST: each weight by itself. BALANCED: so that the rounding errors of a kernel window cancel, and those of a channel.

    What a convolution reads is smooth and often positive: neighbouring positions and channels hold alike values, so the sum
    of the rounding errors does more harm than their squares. BALANCED rounds a few weights the other way until the sums are
    at most half a step (the idea of Guo et al. 2022, SQuant, arXiv:2202.07471; needs no data).
    """

    NEAREST = "nearest"
    BALANCED = "balanced"


@dataclass(frozen=True)
class LinearWeights:
    """``weights`` int8 with per-channel ``quant``; ``bias`` int32 or int64 with ``bias_quant``, None where there is none."""

    weights: Array
    quant: Quant
    bias: Array | None
    bias_quant: Quant | None


def quantize_array(values: Array, quant: Quant, dtype: str) -> Array:
    """Per-tensor affine quantization, rounding half to even, saturating (infinities too)."""
    low, high = LIMITS[dtype]
    steps = np.rint(np.asarray(values, np.float64) / quant.scale[0]) + quant.zero_point[0]
    clipped: Array = np.clip(steps, low, high).astype(dtype)
    return clipped


def constant_range(values: Array, dtype: str) -> Quant:
    """Scale and zero point that hold a constant exactly at its extremes; symmetric for int16."""
    finite = np.asarray(values, np.float64)
    low, high = min(float(finite.min(initial=0.0)), 0.0), max(float(finite.max(initial=0.0)), 0.0)
    if dtype == "int16":
        return Quant((float32(max(-low, high) / 32767 or 1.0),), (0,))
    scale = float32((high - low) / 255 or 1.0)
    return Quant((scale,), (int(np.clip(round(-128 - low / scale), -128, 127)),))


def widened(quant: Quant, scale: float, dtype: str) -> Quant:
    """The same range and more at a larger scale; symmetric stays symmetric.

    >>> widened(Quant((0.5,), (-128,)), 1.0, "int8"), widened(Quant((0.5,), (28,)), 1.0, "int8")
    (Quant(scale=(1.0,), zero_point=(-128,), axis=0), Quant(scale=(1.0,), zero_point=(-50,), axis=0))
    """
    wider, bottom, zero = float32(scale), LIMITS[dtype][0], quant.zero_point[0]
    if dtype == "int16":
        return Quant((wider,), (zero,))
    return Quant((wider,), (round(bottom - (bottom - zero) * quant.scale[0] / wider),))


def quantize_linear(
    weights: Array,
    axis: int,
    bias: Array | None,
    *,
    input_scale: float,
    output_scale: float | None,
    wide_bias: bool = False,
    rounding: Rounding = Rounding.NEAREST,
    learned: LayerWeights | None = None,
) -> LinearWeights:
    """Weights of a convolution or matrix product, symmetric per index of ``axis``, and the bias that goes with them.

    A channel's scale is its largest magnitude over 127, made wider where the bias would not fit into int32, and where the
    channel is so small that the kernel's rescaling factor would leave its range (a dead channel has any scale). Where it is so
    large that one step of weight and input is 255 steps of the output, the scale is what the kernel still takes, and the weights
    saturate.

    Args:
        weights: float32, finite.
        axis: of the output channels.
        bias: float32, one value a channel.
        input_scale: of the activation operand; the bias has scale ``input_scale * weight scale``.
        output_scale: of the result; None where it does not matter yet.
        rounding: see Rounding.
        wide_bias: an int64 bias, as kernels with int16 activations take.
        learned: integers to take instead of rounding, and what to add to the bias.

    Raises:
        ValueError: the learned integers are of another shape or belong to another scale.
    """
    other = tuple(i for i in range(weights.ndim) if i != axis)
    peak = np.max(np.abs(np.asarray(weights, np.float64)), axis=other, initial=0.0)
    ratio = _ANY_RATIO if output_scale is None else output_scale / input_scale
    scale = np.maximum(peak / _WEIGHT_LIMIT, _SMALLEST_RATIO * ratio)
    if bias is not None and not wide_bias:
        scale = np.maximum(scale, np.abs(np.asarray(bias, np.float64)) / (input_scale * _BIAS_LIMIT))
    if output_scale is not None:
        scale = np.minimum(scale, _LARGEST_RATIO * ratio)
    scale = scale.astype(np.float32).astype(np.float64)
    shape = [1] * weights.ndim
    shape[axis] = scale.size
    exact = np.asarray(weights, np.float64) / scale.reshape(shape)
    if learned is None:
        steps = _balanced(exact, axis) if rounding is Rounding.BALANCED else np.rint(exact)
        integers = np.clip(steps, -_WEIGHT_LIMIT, _WEIGHT_LIMIT).astype(np.int8)
    else:
        integers = learned.integers
        if integers.shape != exact.shape or not np.allclose(learned.scale, scale, rtol=_SAME_SCALE, atol=0):
            raise ValueError("they were learned for other weights or at other scales")
        bias = learned.shift if bias is None else np.asarray(bias, np.float64) + learned.shift
    quant = Quant(tuple(scale.tolist()), (0,) * scale.size, axis)
    if bias is None:
        return LinearWeights(integers, quant, None, None)
    # The kernel multiplies in float32: its product is the scale that the bias has.
    product = (np.float32(input_scale) * scale.astype(np.float32)).astype(np.float64)
    exact_bias = np.rint(np.asarray(bias, np.float64) / product)
    stored = exact_bias.astype(np.int64) if wide_bias else np.clip(exact_bias, -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
    return LinearWeights(integers, quant, stored, Quant(tuple(product.tolist()), (0,) * product.size, 0))


def _balanced(exact: Float64, axis: int) -> Float64:
    """Round so that the errors of each kernel window, then of each output channel, sum to at most half a step."""
    rows = np.moveaxis(exact, axis, 0)
    steps = np.rint(rows)
    if rows.ndim == 4:  # the kernel's height and width are now axes 1 and 2
        order = (0, 3, 1, 2) if axis == 0 else (0, 1, 2, 3)
        shape = (-1, exact.shape[1] * exact.shape[2])
        turned = rows.transpose(order)
        windows = _cancelled(turned.reshape(shape), steps.transpose(order).reshape(shape))
        steps = windows.reshape(turned.shape).transpose(np.argsort(order))
    steps = _cancelled(rows.reshape(rows.shape[0], -1), steps.reshape(rows.shape[0], -1)).reshape(rows.shape)
    balanced: Float64 = np.moveaxis(steps, 0, axis)
    return balanced


def _cancelled(exact: Float64, steps: Float64) -> Float64:
    """Move just so many values of each row by one step that the row's errors cancel: those which that costs least."""
    errors = steps - exact
    excess = np.rint(errors.sum(axis=1, keepdims=True))
    rank = np.argsort(np.argsort(-errors * np.sign(excess), axis=1, kind="stable"), axis=1, kind="stable")
    moved: Float64 = steps - np.where(rank < np.abs(excess), np.sign(excess), 0.0)
    return moved


def float32(value: float) -> float:
    """The nearest value that a file can hold as a scale."""
    number: npt.NDArray[np.float32] = np.asarray(value, np.float32)
    return float(number)
