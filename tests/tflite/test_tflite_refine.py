"""Weights that are learned for a plan: what each technique brings at the output, on LiteRT, against PyTorch in float."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tf_cases import BY_KIND, C, builder, conv, finish, inputs, minmax, normal, plan_of, snr

from edgeseg.errors import StageError, UsageError
from edgeseg.quantize.learned import LayerWeights, load_learned, store_learned
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.quantize.ranges import Range, affine
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import Array, TfGraph
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.patches import linear_layer
from edgeseg.tflite.refine import BIAS, ROUNDING, Refined, RefineSettings, refine
from edgeseg.tflite.runtime import run

SIDE = 24


def pictures(count: int, seed: int) -> list[Array]:
    """Smooth pictures of 8 related channels: what a first layer makes of a photograph."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] / 8
    waves = [
        np.stack([np.sin(rows * a + b) * np.cos(columns * c + d) for a, b, c, d in draw.uniform(0.2, 2.0, (3, 4))], -1)
        for _ in range(count)
    ]
    mix = np.random.default_rng(1).standard_normal((3, C))
    return [(wave @ mix + 0.05 * draw.standard_normal((SIDE, SIDE, C)))[None].astype(np.float32) for wave in waves]


def net() -> TfGraph:
    """Three convolutions, one of them depthwise, with fused RELU; logits as large as those of a network that is sure."""
    made = builder(1, SIDE, SIDE, C)
    draw = np.random.default_rng(3)

    def weights(*shape: int) -> Array:
        return (draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    a = conv(made, "x", weights(16, 3, 3, C), weights(16), fusedActivationFunction=1)
    w, b = made.constant("dw", weights(1, 3, 3, 16) * 8), made.constant("db", weights(16))
    options = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": 1}
    d = made.op("DEPTHWISE_CONV_2D", (a, w, b), (1, SIDE, SIDE, 16), options={**options, "fusedActivationFunction": 1})
    return finish(made, conv(made, d, 20 * weights(5, 1, 1, 16), weights(5)))


def torch_net(graph: TfGraph, image: Array) -> Array:
    """The same net by PyTorch."""
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    for op in graph.ops:
        w, b = (torch.from_numpy(np.array(graph.tensors[str(name)].data)) for name in op.inputs[1:])
        depthwise = op.kind == "DEPTHWISE_CONV_2D"
        w = w.permute(3, 0, 1, 2) if depthwise else w.permute(0, 3, 1, 2)
        x = torch.nn.functional.conv2d(x, w, b, padding=w.shape[2] // 2, groups=x.shape[1] if depthwise else 1)
        x = torch.relu(x) if op.options.get("fusedActivationFunction") else x
    return x.permute(0, 2, 3, 1).numpy()


def learned_for(graph: TfGraph, plan: QuantPlan, *techniques: str, late: bool = False) -> Refined:
    unseen = pictures(6, seed=2)
    judge = Judge(graph, unseen, unseen, threshold=0.0, probability=False)
    deadline = time.monotonic() + (-1 if late else 60)
    settings = RefineSettings(deadline=deadline, techniques=frozenset(techniques))
    return refine(graph, plan, pictures(8, seed=1), judge, settings)


def snr_db(graph: TfGraph, emitted: TfGraph, images: Sequence[Array]) -> float:
    """Signal-to-noise ratio over images that neither taught nor judged."""
    name = graph.outputs[0]
    outputs = [(torch_net(graph, image), run(emitted, [image])[0][name]) for image in images]
    return snr(*(np.concatenate(side) for side in zip(*outputs, strict=True)))


def precise(graph: TfGraph) -> QuantPlan:
    """Everything in int8, nothing clipped."""
    return plan_of(graph, minmax(graph, pictures(8, seed=1)))


def test_learned_rounding_lowers_the_noise_at_the_output() -> None:
    graph = net()
    plan = precise(graph)
    found = learned_for(graph, plan, ROUNDING)
    assert found.layers
    before, after = (snr_db(graph, quantize(graph, plan, learned=one), pictures(4, seed=9)) for one in ({}, found.layers))
    assert after > before + 1.0
    assert found.after.snr_db > found.before.snr_db
    again = learned_for(graph, plan, ROUNDING)
    assert serialise(quantize(graph, plan, learned=again.layers)) == serialise(quantize(graph, plan, learned=found.layers))


def clipped(graph: TfGraph) -> QuantPlan:
    """Ranges that cut a twentieth off every hidden tensor: what is cut is missing on average in all that follows."""
    plan = precise(graph)
    ranges = dict(plan.tensors)
    for op in graph.ops[:-1]:
        high = ranges[op.id].high
        assert high is not None
        ranges[op.id] = affine(Range(0.0, 0.6 * high))
    return msgspec.structs.replace(plan, tensors=ranges)


def test_bias_correction_makes_up_for_clipping() -> None:
    graph = net()
    plan = clipped(graph)
    found = learned_for(graph, plan, BIAS)
    before, after = (snr_db(graph, quantize(graph, plan, learned=one), pictures(4, seed=9)) for one in ({}, found.layers))
    assert after > before + 1.0
    assert any("bias correction" in note for note in found.notes)


def test_nothing_is_kept_where_time_has_run_out() -> None:
    graph = net()
    found = learned_for(graph, precise(graph), ROUNDING, BIAS, late=True)
    assert found.layers == {}
    assert found.after == found.before
    assert found.notes == ("time ran out: the weights of 3 layer(s) were not looked at",)


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "grouped"])
@pytest.mark.parametrize(("padding", "stride", "dilation"), [(0, 1, 1), (0, 2, 1), (0, 1, 2), (1, 2, 1)])
def test_a_layer_is_the_same_as_a_matrix_product(kind: str, padding: int, stride: int, dilation: int) -> None:
    """Against LiteRT: the receptive fields times the matrix are the layer's output, at every place."""
    options = {"padding": padding, "strideH": stride, "strideW": stride}
    options |= {"dilationHFactor": dilation, "dilationWFactor": dilation}
    made = builder(1, 9, 11, C)
    size = [-(-(n - 2 * padding * dilation) // stride) for n in (9, 11)]
    if kind == "FULLY_CONNECTED":
        graph = BY_KIND[kind]()
    elif kind == "DEPTHWISE_CONV_2D":
        w, b = made.constant("w", normal(1, 3, 3, 2 * C)), made.constant("b", normal(2 * C))
        y = made.op(kind, ("x", w, b), (1, *size, 2 * C), options={**options, "depthMultiplier": 2})
        graph = finish(made, y)
    else:
        w, b = made.constant("w", normal(6, 3, 3, C // 2 if kind == "grouped" else C)), made.constant("b", normal(6))
        graph = finish(made, made.op("CONV_2D", ("x", w, b), (1, *size, 6), options=options))
    (op,), image = graph.ops, inputs(graph, 1)[0]
    layer = linear_layer(graph, op)
    assert layer is not None
    places = layer.sample(10**6, np.random.default_rng(0))
    weights, bias = (np.asarray(graph.tensors[str(name)].data) for name in op.inputs[1:])
    matrix = layer.matrix(weights)
    np.testing.assert_array_equal(layer.tensor(matrix, weights.shape), weights)
    got = layer.patches(image, places) @ matrix.transpose(0, 2, 1) + layer.per_channel(bias)[:, None]
    wanted = run(graph, [image])[0][op.id].reshape(places.size, -1)
    np.testing.assert_allclose(got.transpose(1, 0, 2).reshape(places.size, -1), wanted, atol=1e-4)


def weights_of(graph: TfGraph, plan: QuantPlan) -> dict[str, LayerWeights]:
    """Some integers that no rounding would give."""
    emitted = quantize(graph, plan)
    op = emitted.ops[1]
    stored = emitted.tensors[str(op.inputs[1])]
    assert stored.quant is not None
    integers = np.asarray(stored.data, np.int8)[::-1].copy()
    return {graph.ops[0].id: LayerWeights(integers, np.asarray(stored.quant.scale), np.full(16, 0.25, np.float32))}


def test_a_stored_plan_gives_the_same_bytes_back(tmp_path: Path) -> None:
    graph = net()
    plan = precise(graph)
    layers = weights_of(graph, plan)
    stored = store_learned(layers, plan, tmp_path)
    (tmp_path / "quantization.json").write_bytes(msgspec.json.encode(stored))
    read = msgspec.json.decode((tmp_path / "quantization.json").read_bytes(), type=QuantPlan)
    emitted = quantize(graph, read, learned=load_learned(read, tmp_path))
    assert serialise(emitted) == serialise(quantize(graph, plan, learned=layers))
    assert serialise(emitted) != serialise(quantize(graph, plan))
    integers = emitted.tensors[str(emitted.ops[1].inputs[1])].data
    np.testing.assert_array_equal(integers, next(iter(layers.values())).integers)
    first = (tmp_path / "weights.npz").read_bytes()
    store_learned(layers, plan, tmp_path)
    assert (tmp_path / "weights.npz").read_bytes() == first


def test_weights_that_do_not_belong_to_the_plan_are_refused(tmp_path: Path) -> None:
    graph = net()
    plan = precise(graph)
    layers = weights_of(graph, plan)
    stored = store_learned(layers, plan, tmp_path)
    wrong = {op: LayerWeights(one.integers, one.scale * 2, one.shift) for op, one in layers.items()}
    with pytest.raises(StageError, match="learned weights do not fit"):
        quantize(graph, plan, learned=wrong)
    store_learned(wrong, plan, tmp_path)
    with pytest.raises(UsageError, match="does not hold the learned weights"):
        load_learned(stored, tmp_path)
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(UsageError, match="names learned weights"):
        load_learned(stored, tmp_path)


def test_int16_where_one_scale_must_hold_very_large_and_very_small_values() -> None:
    """One channel 1000 times as large as the rest, taken out again by a depthwise layer: at least 25 dB."""
    made = builder(1, SIDE, SIDE, C)
    sizes = np.ones(C, np.float32)
    sizes[0] = 1000
    hidden = conv(made, "x", normal(C, 1, 1, C) * sizes.reshape(-1, 1, 1, 1))
    w, b = made.constant("dw", (1 / sizes).reshape(1, 1, 1, C)), made.constant("db", np.zeros(C, np.float32))
    options = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "depthMultiplier": 1}
    even = made.op("DEPTHWISE_CONV_2D", (hidden, w, b), (1, SIDE, SIDE, C), options=options)
    graph = finish(made, conv(made, even, np.random.default_rng(4).standard_normal((5, 1, 1, C)).astype(np.float32)))
    images = pictures(4, seed=1)
    ranges = minmax(graph, images)
    whole, mixed = (quantize(graph, plan_of(graph, ranges, domain)) for domain in (Domain.INT8, Domain.INT16))
    assert {mixed.tensors[op.id].dtype for op in mixed.ops if op.kind == "CONV_2D"} == {"int16"}
    assert snr_db(graph, mixed, images) > snr_db(graph, whole, images) + 25
