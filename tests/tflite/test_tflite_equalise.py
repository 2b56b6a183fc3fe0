"""Equalisation changes no output in float, and saves small channels in int8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tf_cases import CONV, VALID, C, H, W, builder, conv, finish, inputs, minmax, normal, plan_of, snr

from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.equalise import channel_peaks, equalise
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.runtime import run

FULL = (1, H, W, C)


def uneven(count: int = C, low: float = 0.01) -> Array:
    """Sizes of channels from ``low`` to 1."""
    return np.geomspace(low, 1.0, count).astype(np.float32)


def uneven_conv(made: GraphBuilder, x: str, out: int = C, kernel: int = 1, **options: int) -> str:
    """A convolution whose output channels have very different sizes."""
    depth = made.graph.tensors[x].shape[3]
    return conv(made, x, normal(out, kernel, kernel, depth) * uneven(out).reshape(-1, 1, 1, 1), normal(out) * 0.1, **options)


def norm(made: GraphBuilder, x: str) -> str:
    """A depthwise 1x1 convolution that makes all channels alike again."""
    shape = made.graph.tensors[x].shape
    gains = (1 / np.resize(uneven(), shape[3])).astype(np.float32).reshape(1, 1, 1, -1)
    names = (made.constant("gain", gains), made.constant("shift", normal(shape[3])))
    return made.op("DEPTHWISE_CONV_2D", (x, *names), shape, options={**CONV, "depthMultiplier": 1})


def plain() -> TfGraph:
    made = builder()
    return finish(made, conv(made, norm(made, uneven_conv(made, "x")), normal(3, 1, 1, C)))


def tied() -> TfGraph:
    """Through RELU, PRELU, skip connection, joins, pools, resizes, padding, block moves, split and slices."""
    made = builder()
    a = uneven_conv(made, "x", kernel=3, fusedActivationFunction=1)
    b = made.op("PRELU", (uneven_conv(made, a), made.constant("alpha", np.abs(normal(1, 1, C)))), FULL)
    s = made.op("ADD", (a, b), FULL, options={"fusedActivationFunction": 1})
    s = made.op("ADD", (s, made.constant("shift", normal(1, 1, 1, C) * uneven())), FULL)
    j = made.op("CONCATENATION", (s, uneven_conv(made, "x")), (1, H, W, 2 * C), options={"axis": 3})
    n = norm(made, j)
    pool = {"padding": VALID, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
    p = made.op("MAX_POOL_2D", (uneven_conv(made, n),), (1, H // 2, W // 2, C), options=pool)
    size = made.ints("size", [H, W])
    r = made.op("RESIZE_BILINEAR", (p, size), FULL, options={"halfPixelCenters": True})
    left = made.op("SLICE", (r, made.ints("b", [0, 0, 0, 0]), made.ints("s", [1, H, W, C // 2])), (1, H, W, C // 2))
    right = made.op("SLICE", (r, made.ints("b", [0, 0, 0, C // 2]), made.ints("s", [1, H, W, C // 2])), (1, H, W, C // 2))
    swapped = made.op("CONCATENATION", (right, left), FULL, options={"axis": 3})
    blocks = made.op("DEPTH_TO_SPACE", (swapped,), (1, 2 * H, 2 * W, C // 4), options={"blockSize": 2})
    pads = made.ints("pads", [[0, 0], [1, 1], [1, 1], [0, 0]])
    grown = made.op("PAD", (blocks, pads), (1, 2 * H + 2, 2 * W + 2, C // 4))
    last = conv(made, grown, normal(4, 3, 3, C // 4), padding=VALID)
    mean = made.op("MEAN", (swapped, made.ints("axes", [1, 2])), (1, 1, 1, C), options={"keepDims": True})
    return finish(made, last, conv(made, mean, normal(3, 1, 1, C)))


def unlike() -> TfGraph:
    """RELU6, TANH, products and a graph output keep their scales; what lies between may change."""
    made = builder()
    a = uneven_conv(made, "x", fusedActivationFunction=3)
    b = made.op("TANH", (uneven_conv(made, a),), FULL)
    c = made.op("MUL", (b, uneven_conv(made, a)), FULL)
    grouped = conv(made, uneven_conv(made, c), normal(C, 3, 3, C // 2))
    product = made.constant("m", normal(4, C))
    y = made.op("FULLY_CONNECTED", (uneven_conv(made, grouped), product, None), (1, H, W, 4), options={"keepNumDims": True})
    return finish(made, y, a)


def unfolded() -> TfGraph:
    """Two convolutions joined, and behind the join a batch norm as exporters write it, product and sum: gains from 1 to 1000."""
    made = builder()
    sizes = np.geomspace(0.001, 1.0, 2 * C).astype(np.float32)
    halves = [
        conv(made, "x", normal(C, 1, 1, C) * part.reshape(-1, 1, 1, 1), normal(C) * 0.1 * part)
        for part in (sizes[::2], sizes[1::2])
    ]
    joined = made.op("CONCATENATION", halves, (1, H, W, 2 * C), options={"axis": 3})
    gain = (1 / np.concatenate([sizes[::2], sizes[1::2]])).astype(np.float32)
    scaled = made.op("MUL", (joined, made.constant("gain", gain)), (1, H, W, 2 * C))
    shifted = made.op("ADD", (scaled, made.constant("shift", normal(2 * C))), (1, H, W, 2 * C))
    active = made.op("PRELU", (shifted, made.constant("alpha", np.abs(normal(1, 1, 2 * C)))), (1, H, W, 2 * C))
    return finish(made, conv(made, active, normal(3, 1, 1, 2 * C)))


@pytest.mark.parametrize("make", [plain, tied, unlike, unfolded])
def test_exact_in_float_and_channels_become_alike(make: object) -> None:
    graph = make()  # type: ignore[operator]
    images = inputs(graph)
    before = channel_peaks(graph, images)
    equal, count = equalise(graph, before)
    assert count > C // 2
    for wanted, got in zip(run(graph, images), run(equal, images), strict=True):
        for name in graph.outputs:
            assert snr(wanted[name], got[name]) > 100
    after = channel_peaks(equal, images)
    assert set(after) == set(before)
    for name, peaks in after.items():
        assert peaks.max() <= before[name].max() * 1.0001, "no range may grow"
    spread = [
        float(np.log(before[name].max() / after_peaks.min())) - float(np.log(before[name].max() / before[name].min()))
        for name, after_peaks in after.items()
        if after_peaks.min() > 0
    ]
    assert min(spread) < -1.0


@pytest.mark.parametrize(("make", "gain"), [(plain, 10), (unfolded, 20)])
def test_small_channels_survive_int8(make: Callable[[], TfGraph], gain: float) -> None:
    """Small channels in front of a batch norm: 10 dB better where they are a hundred times smaller and it is a depthwise
    convolution, 20 dB where they are a thousand times smaller, joined first, and it is a product and a sum."""
    graph = make()
    images = inputs(graph)
    equal, _ = equalise(graph, channel_peaks(graph, images))
    wanted = [values[graph.outputs[0]] for values in run(graph, images)]
    outcome = []
    for candidate in (graph, equal):
        emitted = quantize(candidate, plan_of(candidate, minmax(candidate, images)))
        got = [values[graph.outputs[0]] for values in run(emitted, images)]
        outcome.append(min(snr(a, b) for a, b in zip(wanted, got, strict=True)))
    assert outcome[1] > outcome[0] + gain
    assert outcome[1] > 30


def test_balanced_graphs_are_left_alone() -> None:
    made = builder()
    graph = finish(made, conv(made, "x", normal(C, 1, 1, C)), "x")
    same, count = equalise(graph, channel_peaks(graph, inputs(graph)))
    assert count == 0
    assert same is graph
