"""Streaming activations, against onnx-free oracles: numpy and LiteRT without exposed tensors."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import BY_KIND, C, H, W, builder, conv, finish, inputs, normal

from edgeseg.errors import DataError, ModelError
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.runtime import run
from edgeseg.tflite.statistics import activations, collect
from edgeseg.tflite.summaries import summarise


def net() -> TfGraph:
    made = builder()
    a = conv(made, "x", normal(C, 3, 3, C), fusedActivationFunction=1)
    b = made.op("TANH", (a,), (1, H, W, C), name="tanh")
    return finish(made, made.op("ADD", (a, b), (1, H, W, C), name="y"))


def test_every_activation_of_every_image_is_seen_in_order() -> None:
    graph, images = net(), inputs(net(), 3)
    seen: list[tuple[str, Array]] = []
    assert collect(graph, iter(images), lambda name, values: seen.append((name, values.copy()))) == 3
    assert [name for name, _ in seen] == ["x", "conv", "tanh", "y"] * 3
    assert activations(graph) == ("x", "conv", "tanh", "y")
    for i, image in enumerate(images):
        x, a, b, y = (values for _, values in seen[4 * i : 4 * i + 4])
        np.testing.assert_array_equal(x, image)
        assert a.min() == 0.0
        np.testing.assert_allclose(b, np.tanh(a), atol=1e-6)
        np.testing.assert_allclose(y, a + b, atol=1e-6)
        np.testing.assert_array_equal(y, run(graph, [image])[0]["y"])


def test_only_the_tensors_asked_for() -> None:
    seen: list[str] = []
    collect(net(), inputs(net(), 2), lambda name, _: seen.append(name), names={"tanh"})
    assert seen == ["tanh", "tanh"]


def test_integer_tensors_are_not_shown() -> None:
    assert activations(BY_KIND["ARG_MAX"]()) == ("x",)


def test_observers_of_the_quantizer_take_it() -> None:
    observers: dict[str, Observer] = {}

    def watch(name: str, values: Array) -> None:
        observers.setdefault(name, Observer()).update(np.asarray(values, np.float32))

    images = inputs(net(), 3)
    collect(net(), images, watch)
    assert observers["x"].low == pytest.approx(min(float(image.min()) for image in images))


def test_wrong_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        collect(net(), [], lambda *_: None)
    with pytest.raises(DataError, match="wants float32"):
        collect(net(), [np.zeros((1, 3, 3, C), np.float32)], lambda *_: None)


def wide_net() -> TfGraph:
    """Maps too large to be shown whole, and every operator that only moves values: joined, padded, turned to blocks and back."""
    made = builder()
    shape = (1, 96, 80, 8)
    x = made.input("wide", shape)
    made.graph.inputs = (x,)
    a = conv(made, x, normal(8, 3, 3, 8), fusedActivationFunction=1)
    b = made.op("TANH", (a,), shape, name="tanh")
    c = made.op("CONCATENATION", (a, b), (1, 96, 80, 16), name="joined", options={"axis": 3, "fusedActivationFunction": 0})
    d = made.op("DEPTH_TO_SPACE", (c,), (1, 192, 160, 4), name="blocks", options={"blockSize": 2})
    e = made.op("NEG", (b,), shape, name="negative")
    f = made.op("PAD", (e, made.ints("p", ((0, 0), (1, 1), (1, 1), (0, 0)))), (1, 98, 82, 8), name="padded")
    g = made.op("RESHAPE", (d, made.ints("s", (1, 192 * 160, 4))), (1, 192 * 160, 4), name="flat", options={"newShape": []})
    h = made.op("TANH", (g,), (1, 192 * 160, 4), name="tokens")
    made.graph.outputs = (f, h)
    return made.graph


def test_summaries_are_what_looking_at_everything_gives() -> None:
    """Extremes of every image exactly; of the distribution what a sample of it can tell."""
    graph = wide_net()
    images = inputs(graph, 6)
    whole, summed = ({name: Observer(name) for name in activations(graph)} for _ in range(2))
    collect(graph, images, lambda name, values: whole[name].update(np.asarray(values, np.float32)))
    assert summarise(graph, images, summed) == 6
    for name, seen in summed.items():
        assert (seen.low, seen.high) == (whole[name].low, whole[name].high), name
        assert seen.mean_extremes == pytest.approx(whole[name].mean_extremes)
        assert seen.moving_extremes == pytest.approx(whole[name].moving_extremes)
        assert seen.histogram.total > 6 * 2000
        for estimator in ("percentile-99.9", "mean-minmax"):
            one, other = (choose(o, estimator=estimator).scale[0] for o in (seen, whole[name]))
            assert one == pytest.approx(other, rel=0.1), (name, estimator)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_summaries_refuse_what_is_not_finite(bad: float) -> None:
    graph = wide_net()
    (image,) = inputs(graph, 1)
    spoilt = np.array(image)
    spoilt[0, 7, 5, 3] = bad
    with pytest.raises(ModelError, match="NaN or infinity"):
        summarise(graph, [spoilt], {name: Observer(name) for name in activations(graph) if name != "wide"})
