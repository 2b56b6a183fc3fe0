"""Streaming activations, against onnx-free oracles: numpy and LiteRT without exposed tensors."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import BY_KIND, C, H, W, builder, conv, finish, inputs, normal

from edgeseg.errors import DataError
from edgeseg.quantize.observe import Observer
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.runtime import run
from edgeseg.tflite.statistics import activations, collect


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
