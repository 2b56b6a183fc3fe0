"""Folding the input normalisation, against the graph that takes normalised values."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import CONV, VALID, builder, conv, finish, minmax, normal, plan_of, snr

from edgeseg.errors import StageError
from edgeseg.spec import IoType, PreprocessSpec
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.pixels import Normalisation, PixelInput, fold_input_normalisation
from edgeseg.tflite.runtime import run

H, W = 20, 24
IMAGENET = PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
EQUAL_MEANS = PreprocessSpec(scale=1.0, mean=(128.0,), std=(64.0,))
PLAIN = PreprocessSpec()


def pictures() -> list[Array]:
    draw = np.random.default_rng(5)
    return [draw.integers(0, 256, (1, H, W, 3)).astype(np.uint8) for _ in range(3)]


def values(pixels: Array, spec: PreprocessSpec) -> Array:
    """The formula of PreprocessSpec, written out once more."""
    wanted = (pixels.astype(np.float64) * spec.scale - np.asarray(spec.mean)) / np.asarray(spec.std) * spec.post_scale
    return wanted.astype(np.float32)


def picture_builder() -> GraphBuilder:
    return builder(1, H, W, 3)


def interior() -> TfGraph:
    made = picture_builder()
    return finish(made, conv(made, "x", normal(8, 3, 3, 3), normal(8), padding=VALID))


def padded() -> TfGraph:
    made = picture_builder()
    pads = made.ints("pads", [[0, 0], [1, 1], [1, 1], [0, 0]])
    grown = made.op("PAD", ("x", pads), (1, H + 2, W + 2, 3))
    return finish(made, conv(made, grown, normal(8, 3, 3, 3), normal(8), padding=VALID))


def same() -> TfGraph:
    made = picture_builder()
    return finish(made, conv(made, "x", normal(8, 3, 3, 3), normal(8)))


def depthwise() -> TfGraph:
    made = picture_builder()
    w, b = made.constant("w", normal(1, 3, 3, 6)), made.constant("b", normal(6))
    options = {**CONV, "padding": VALID, "depthMultiplier": 2}
    return finish(made, made.op("DEPTHWISE_CONV_2D", ("x", w, b), (1, H - 2, W - 2, 6), options=options))


def mixed() -> TfGraph:
    """Read by a convolution, by a pool and by the output."""
    made = picture_builder()
    a = conv(made, "x", normal(3, 1, 1, 3))
    pool = {"padding": 0, "strideH": 1, "strideW": 1, "filterHeight": 3, "filterWidth": 3}
    b = made.op("AVERAGE_POOL_2D", ("x",), (1, H, W, 3), options=pool)
    return finish(made, made.op("ADD", (a, b), (1, H, W, 3)), "x")


def outputs(graph: TfGraph, fed: Array) -> list[Array]:
    found = run(graph, [fed])[0]
    return [found[name] for name in graph.outputs]


@pytest.mark.parametrize("spec", [IMAGENET, EQUAL_MEANS, PLAIN], ids=["imagenet", "equal", "plain"])
@pytest.mark.parametrize("make", [interior, depthwise, mixed])
def test_exact_in_float(make: object, spec: PreprocessSpec) -> None:
    graph = make()  # type: ignore[operator]
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(spec, 3))
    for picture in pictures():
        for wanted, got in zip(outputs(graph, values(picture, spec)), outputs(folded, pixels.feed(picture)), strict=True):
            assert snr(wanted, got) > 110


@pytest.mark.parametrize("make", [same, padded])
def test_zero_padding_is_exact_for_one_mean_and_bounded_otherwise(make: object) -> None:
    graph = make()  # type: ignore[operator]
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(EQUAL_MEANS, 3))
    assert pixels == PixelInput(zero=128, residual=0.0)
    picture = pictures()[0]
    assert snr(outputs(graph, values(picture, EQUAL_MEANS))[0], outputs(folded, pixels.feed(picture))[0]) > 110
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(IMAGENET, 3))
    wanted, got = outputs(graph, values(picture, IMAGENET))[0], outputs(folded, pixels.feed(picture))[0]
    assert 0 < pixels.residual < 0.25
    assert snr(wanted[:, 1:-1, 1:-1], got[:, 1:-1, 1:-1]) > 110
    padded_taps = 5 * 3  # of a corner's 9 positions, times channels
    assert np.abs(wanted - got).max() <= pixels.residual * padded_taps * np.abs(normal(8, 3, 3, 3)).max()


@pytest.mark.parametrize("io", [IoType.UINT8, IoType.INT8])
def test_the_file_takes_the_pictures_own_bytes(io: IoType) -> None:
    graph = interior()
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(IMAGENET, 3))
    ranges = minmax(folded, [pixels.feed(picture) for picture in pictures()]) | {"x": pixels.quant()}
    emitted = quantize(folded, plan_of(folded, ranges), io=io)
    x, y = emitted.tensors["x"], emitted.tensors[emitted.outputs[0]]
    assert x.quant is not None
    assert y.quant is not None
    assert x.quant.scale == (1.0,)
    for picture in pictures():
        stored = picture if io is IoType.UINT8 else (picture.astype(np.int16) - 128).astype(np.int8)
        got = (outputs(emitted, stored)[0].astype(np.float64) - y.quant.zero_point[0]) * y.quant.scale[0]
        wanted = outputs(graph, values(picture, IMAGENET))[0]
        assert snr(wanted, got) > 36


def test_input_rounding_is_saved() -> None:
    """Against a normalised input quantized to int8, with the output left float: only the weights' rounding remains."""
    graph = interior()
    picture = pictures()[0]
    wanted = outputs(graph, values(picture, IMAGENET))[0]
    folded, pixels = fold_input_normalisation(graph, Normalisation.of(IMAGENET, 3))
    wide = {"conv": minmax(graph, [values(picture, IMAGENET)])["conv"]}
    exact = quantize(folded, plan_of(folded, wide | {"x": pixels.quant()}))
    usual = quantize(graph, plan_of(graph, wide | minmax(graph, [values(picture, IMAGENET)])))
    assert snr(wanted, outputs(exact, pixels.feed(picture))[0]) >= snr(wanted, outputs(usual, values(picture, IMAGENET))[0])


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(StageError, match="pixels can be folded"):
        fold_input_normalisation(interior(), Normalisation.of(PLAIN, 4))
