"""Factors of least noise change no output in float, and beat making channels alike where ties would hold them back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from tf_cases import CONV, C, H, W, builder, conv, finish, inputs, minmax, normal, plan_of, snr

from edgeseg.session import Float32
from edgeseg.tflite.balance import least_noise
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.equalise import channel_peaks, equalise
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.runtime import run
from edgeseg.tflite.sensitivity import channel_moments, squared_gains

FULL = (1, H, W, C)
UNEVEN: Float32 = np.geomspace(0.01, 1.0, C).astype(np.float32)


def draw(*shape: int) -> Float32:
    return np.asarray(normal(*shape), np.float32)


def sized(made: GraphBuilder, x: str, sizes: Float32) -> str:
    """A convolution whose output channels have the sizes given."""
    return conv(made, x, draw(C, 1, 1, C) * np.asarray(sizes, np.float32).reshape(-1, 1, 1, 1), draw(C) * 0.1 * sizes)


def channelwise(made: GraphBuilder, x: str, gain: Float32) -> str:
    names = (
        made.constant("gain", np.asarray(gain, np.float32).reshape(1, 1, 1, -1)),
        made.constant("shift", draw(gain.size)),
    )
    return made.op("DEPTHWISE_CONV_2D", (x, *names), made.graph.tensors[x].shape, options={**CONV, "depthMultiplier": 1})


def residual() -> TfGraph:
    """A sum whose channels differ, of a tensor with these sizes and one, far smaller, whose sizes are the other way round; then
    a batch norm that makes them alike and a PRELU as the maximum of two."""
    made = builder()
    total = made.op("ADD", (sized(made, "x", UNEVEN), sized(made, "x", 0.01 * UNEVEN[::-1])), FULL)
    terms = (channelwise(made, total, 1 / UNEVEN), channelwise(made, total, 0.2 / UNEVEN))
    return finish(made, conv(made, made.op("MAXIMUM", terms, FULL), draw(3, 1, 1, C)))


def joined() -> TfGraph:
    """Through a join, a block move, padding and a pool; RELU6, a product of two activations and a second output hold scales."""
    made = builder()
    held = made.op("RELU6", (sized(made, "x", UNEVEN),), FULL)
    both = made.op("CONCATENATION", (held, sized(made, "x", UNEVEN[::-1])), (1, H, W, 2 * C), options={"axis": 3})
    few = conv(made, both, draw(2 * C, 1, 1, 2 * C) * np.tile(UNEVEN, 2).reshape(-1, 1, 1, 1))
    moved = made.op("DEPTH_TO_SPACE", (few,), (1, 2 * H, 2 * W, C // 2), options={"blockSize": 2})
    back = conv(made, moved, draw(C, 3, 3, C // 2), padding=0)
    grouped = conv(made, back, draw(C, 3, 3, C // 2))
    product = made.op("MUL", (grouped, back), (1, 2 * H, 2 * W, C))
    return finish(made, conv(made, product, draw(3, 1, 1, C)), held)


@pytest.mark.parametrize("make", [residual, joined])
def test_exact_in_float(make: Callable[[], TfGraph]) -> None:
    graph = make()
    images = inputs(graph)
    scaled, count = least_noise(graph, channel_moments(graph, images))
    assert count > 2
    for wanted, got in zip(run(graph, images), run(scaled, images), strict=True):
        for name in graph.outputs:
            assert snr(wanted[name], got[name]) > 100


def test_less_noise_than_making_channels_alike() -> None:
    """Channels that are small in the sum are the largest of what is added to it: no rule that lets no range grow can enlarge
    them."""
    graph = residual()
    images = inputs(graph)
    wanted = [values[graph.outputs[0]] for values in run(graph, images)]
    outcome = []
    for form in (
        graph,
        equalise(graph, channel_peaks(graph, images))[0],
        least_noise(graph, channel_moments(graph, images))[0],
    ):
        emitted = quantize(form, plan_of(form, minmax(form, images)))
        got = [values[graph.outputs[0]] for values in run(emitted, images)]
        outcome.append(min(snr(a, b) for a, b in zip(wanted, got, strict=True)))
    assert outcome[2] > max(outcome[:2]) + 6


def test_the_factors_are_those_of_the_least_modelled_noise() -> None:
    """One tensor between two convolutions of 1x1. Its noise is that of a step in every channel through the squares of the
    second's weights, that of the second's weights a step of each row times the power that comes in. Another optimiser, without
    slopes and on true maxima, finds no factors with less."""
    made = builder()
    hidden = sized(made, "x", UNEVEN)
    weights = draw(4, 1, 1, C)
    graph = finish(made, conv(made, hidden, weights))
    images = inputs(graph)
    scaled, _ = least_noise(graph, channel_moments(graph, images))
    seen = [values[hidden].reshape(-1, C).astype(np.float64) for values in run(exposing(graph, hidden), images)]
    low = np.mean([one.min(axis=0) for one in seen], axis=0)
    high = np.mean([one.max(axis=0) for one in seen], axis=0)
    power = np.mean([np.square(one).mean(axis=0) for one in seen], axis=0)
    matrix = weights.reshape(4, C).astype(np.float64)

    def noise(logs: Float32) -> float:
        f = np.exp(np.asarray(logs, np.float64))
        step = ((f * high).max() + (-f * low).max()) / 255
        rows = np.abs(matrix / f).max(axis=1) / 127
        return float(step**2 * (np.square(matrix) / f**2).sum() + np.square(rows).sum() * (power * f**2).sum())

    factors = np.abs(constant(graph, hidden) / constant(scaled, hidden))
    found = noise(-np.log(factors))
    least = min(
        minimize(lambda v: np.log(noise(v)), start, method="Powell", options={"maxiter": 20000}).fun
        for start in (np.zeros(C), -np.log(factors), -np.log(UNEVEN.astype(np.float64)))
    )
    assert found < noise(np.zeros(C)) / 2
    assert found < 1.15 * np.exp(least)


def test_squared_gains_are_what_noise_does() -> None:
    """Noise in one channel of the input, and its power at the output, through two branches, a join and a batch norm."""
    made = builder()
    branches = (channelwise(made, "x", UNEVEN), conv(made, "x", draw(C, 1, 1, C), fusedActivationFunction=1))
    both = made.op("CONCATENATION", branches, (1, H, W, 2 * C), options={"axis": 3})
    graph = finish(made, conv(made, both, draw(5, 1, 1, 2 * C)))
    images = inputs(graph, 24)
    expected = squared_gains(graph, channel_moments(graph, images))["x"]
    plain = [values[graph.outputs[0]] for values in run(graph, images)]
    measured = []
    for channel in range(C):
        random = np.random.default_rng(channel)
        noise = [np.zeros(FULL, np.float32) for _ in images]
        for one in noise:
            one[..., channel] = 0.01 * random.standard_normal(FULL[:3])
        changed = run(graph, [image + one for image, one in zip(images, noise, strict=True)])
        error = sum(float(np.square(values[graph.outputs[0]] - was).sum()) for values, was in zip(changed, plain, strict=True))
        measured.append(error / sum(float(np.square(one).sum()) for one in noise))
    # The branches meet again, which the estimate does not know: their errors add or cancel.
    assert np.corrcoef(np.log(expected), np.log(measured))[0, 1] > 0.8
    assert 0.7 < float(np.sum(expected) / np.sum(measured)) < 1.4


def exposing(graph: TfGraph, name: str) -> TfGraph:
    made = graph.copy()
    made.outputs = (*graph.outputs, name)
    return made


def constant(graph: TfGraph, op: str) -> Float32:
    """The bias of a convolution."""
    made = graph.producers()[op]
    data = graph.tensors[str(made.inputs[2])].data
    assert data is not None
    return data
