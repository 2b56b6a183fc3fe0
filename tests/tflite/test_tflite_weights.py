"""Integer constants: the arithmetic of their scales, and rounding that cancels."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import builder, conv, finish, minmax, normal, plan_of, snr

from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Array, Quant
from edgeseg.tflite.runtime import run
from edgeseg.tflite.weights import Rounding, constant_range, quantize_array, quantize_linear


def restored(data: Array, quant: Quant) -> Array:
    shape = [1] * data.ndim
    shape[quant.axis] = -1
    return data.astype(np.float64) * np.asarray(quant.scale).reshape(shape)


@pytest.mark.parametrize(("shape", "axis"), [((6, 3, 3, 8), 0), ((1, 5, 5, 8), 3), ((6, 1, 1, 16), 0), ((7, 20), 0)])
def test_balanced_rounding_sums_to_nothing(shape: tuple[int, ...], axis: int) -> None:
    weights = normal(*shape)
    made = quantize_linear(weights, axis, None, input_scale=0.1, output_scale=0.1, rounding=Rounding.BALANCED)
    nearest = quantize_linear(weights, axis, None, input_scale=0.1, output_scale=0.1)
    assert made.quant == nearest.quant
    unit = restored(np.ones(shape, np.int8), made.quant)
    errors = (restored(made.weights, made.quant) - weights) / unit
    assert np.abs(errors).max() < 1.0
    others = tuple(i for i in range(len(shape)) if i != axis)
    assert np.abs(errors.sum(axis=others)).max() <= 0.5 + 1e-6
    before = (restored(nearest.weights, nearest.quant) - weights) / unit
    assert np.abs(before).max() <= 0.5 + 1e-6
    assert np.square(errors).mean() < 2 * np.square(before).mean()


def test_balanced_rounding_helps_where_inputs_are_smooth() -> None:
    """On a smooth positive picture, with nothing else rounded: at least 6 dB."""
    made = builder(1, 32, 32, 8)
    graph = finish(made, conv(made, "x", normal(16, 5, 5, 8)))
    rows, columns = np.mgrid[:32, :32] / 10
    picture = np.stack([2 + np.sin(rows + k) + np.cos(columns - k) for k in range(8)], -1)[None].astype(np.float32)
    wanted = run(graph, [picture])[0]["conv"]
    outcome = {}
    for rounding in Rounding:
        emitted = quantize(graph, plan_of(graph, minmax(graph, [picture])), rounding=rounding)
        stored = next(op for op in emitted.ops if op.kind == "CONV_2D").inputs[1]
        tensor = emitted.tensors[str(stored)]
        assert tensor.data is not None
        assert tensor.quant is not None
        rounded = builder(1, 32, 32, 8)
        copy = finish(rounded, conv(rounded, "x", restored(tensor.data, tensor.quant).astype(np.float32)))
        outcome[rounding] = snr(wanted, run(copy, [picture])[0]["conv"])
    assert outcome[Rounding.BALANCED] > outcome[Rounding.NEAREST] + 6


def test_scales_of_weights_and_biases() -> None:
    weights = np.asarray([[1.0, -2.54], [0.5, 0.25], [0.0, 0.0]], np.float32)
    bias = np.asarray([1.0, -1e9, 0.5], np.float32)
    made = quantize_linear(weights, 0, bias, input_scale=0.5, output_scale=2.0)
    assert made.bias is not None
    assert made.bias_quant is not None
    assert made.weights[0].tolist() == [50, -127]
    assert made.quant.scale[0] == pytest.approx(0.02, rel=1e-6)
    assert made.bias.dtype == np.int32
    assert made.bias[0] == 100
    np.testing.assert_allclose(made.bias * np.asarray(made.bias_quant.scale), bias, rtol=1e-6)
    wide = quantize_linear(weights, 0, bias, input_scale=0.5, output_scale=2.0, wide_bias=True)
    assert wide.bias is not None
    assert wide.bias.dtype == np.int64
    assert made.quant.scale[1] > wide.quant.scale[1], "an int32 bias that large needs a wider scale"


def test_constants() -> None:
    values = np.asarray([-1.0, 0.0, 3.0], np.float32)
    quant = constant_range(values, "int8")
    stored = quantize_array(values, quant, "int8")
    assert (stored.min(), stored.max()) == (-128, 127)
    np.testing.assert_allclose((stored.astype(int) - quant.zero_point[0]) * quant.scale[0], values, atol=0.51 * quant.scale[0])
    assert constant_range(values, "int16").zero_point == (0,)
    assert constant_range(np.zeros(3, np.float32), "int8").scale == (1.0,)
    assert quantize_array(np.asarray([-np.inf, np.inf]), quant, "int8").tolist() == [-128, 127]
