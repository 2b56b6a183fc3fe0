"""The search for files without float, against the float graph."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tf_cases import C, H, W, builder, conv, finish, inputs, normal, snr

from edgeseg.errors import StageError
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain
from edgeseg.spec import IoType
from edgeseg.tflite.candidates import SearchResult, SearchSettings
from edgeseg.tflite.cost import operator_domains
from edgeseg.tflite.effort import EFFORTS
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.integer_only import integer_search
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.runtime import run
from edgeseg.tflite.statistics import activations, collect

FULL = (1, H, W, C)


def searched(graph: TfGraph, images: list[Array], budget: float = 0.3) -> SearchResult:
    observers = {name: Observer(name) for name in activations(graph)}
    collect(graph, images, lambda name, values: observers[name].update(values))
    judge = Judge(graph, images, images, threshold=0.5, probability=False)
    settings = SearchSettings(budget=budget, effort=EFFORTS["normal"], boundary=Domain.INT8, deadline=time.monotonic() + 600)
    return integer_search(graph, observers, judge, images[0], settings)


def attention() -> TfGraph:
    """conv -> tokens -> layer norm written out -> softmax of products -> GELU -> conv: what a transformer needs."""
    made = builder()
    x = conv(made, "x", normal(C, 3, 3, C, scale=0.2))
    axis = made.ints("axis", [-1])
    mean = made.op("MEAN", (x, axis), (1, H, W, 1), options={"keepDims": True})
    centred = made.op("SUB", (x, mean), FULL)
    square = made.op("MUL", (centred, centred), FULL)
    variance = made.op("MEAN", (square, axis), (1, H, W, 1), options={"keepDims": True})
    inverse = made.op("RSQRT", (variance,), (1, H, W, 1))
    tokens = made.op("RESHAPE", (made.op("MUL", (centred, inverse), FULL), made.ints("s", [1, H * W, C])), (1, H * W, C))
    scores = made.op("BATCH_MATMUL", (tokens, tokens), (1, H * W, H * W), options={"adjX": False, "adjY": True})
    weights = made.op("SOFTMAX", (scores,), (1, H * W, H * W), options={"beta": 1.0})
    mixed = made.op("BATCH_MATMUL", (weights, tokens), (1, H * W, C), options={"adjX": False, "adjY": False})
    bent = made.op("GELU", (mixed,), (1, H * W, C), options={"approximate": False})
    back = made.op("RESHAPE", (bent, made.ints("t", [1, H, W, C])), FULL)
    return finish(made, conv(made, back, normal(3, 1, 1, C)))


def test_a_transformer_block_without_float() -> None:
    graph = attention()
    images = inputs(graph, 6)
    found = searched(graph, images)
    emitted = quantize(graph, found.best.plan, io=IoType.INT8, integer_only=True)
    domains = operator_domains(emitted)
    assert domains["float"] == {}
    assert set(domains["conversion"]) <= {"QUANTIZE"}
    assert all(tensor.dtype != "float32" for tensor in emitted.tensors.values())
    shown = quantize(graph, found.best.plan, integer_only=True)
    for image in images[:2]:
        assert snr(run(graph, [image])[0][graph.outputs[0]], run(shown, [image])[0][graph.outputs[0]]) > 15


def test_each_tensor_gets_the_range_that_does_least_harm() -> None:
    """Two branches with the same outliers: in one they are all that matters, in the other a saturating gate hides them. No
    estimator is right for both; the search must be better than the best of them."""
    made = builder()
    signal = conv(made, "x", np.eye(C, dtype=np.float32).reshape(C, 1, 1, C))
    gate = made.op("TANH", (conv(made, "x", 40 * np.eye(C, dtype=np.float32).reshape(C, 1, 1, C)),), FULL)
    graph = finish(made, conv(made, made.op("ADD", (signal, gate), FULL), normal(3, 1, 1, C)))
    sizes = np.full((1, H, W, 1), 0.02, np.float32)
    sizes[0, 0, :2] *= 40
    images = [image * sizes for image in inputs(graph, 6)]
    result = searched(graph, images, budget=0.0)
    alone = [one for one in result.candidates if one.name.startswith("ranges by ") and "own" not in one.name]
    assert result.best.name == "ranges by each tensor's own harm"
    assert result.best.score.noise < 0.9 * min(one.score.noise for one in alone)


def test_what_has_no_integer_kernel_is_named() -> None:
    made = builder()
    a = made.op("SIN", ("x",), FULL, name="wave")
    graph = finish(made, conv(made, made.op("COS", (a,), FULL, name="turn"), normal(3, 1, 1, C)))
    with pytest.raises(StageError, match=r"2 operator\(s\).*'wave' \(SIN.*'turn' \(COS"):
        searched(graph, inputs(graph))
