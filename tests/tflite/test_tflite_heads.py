"""The last step of the file, against numpy on the logits."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import C, H, W, builder, conv, finish, inputs, minmax, normal, plan_of

from edgeseg.errors import StageError
from edgeseg.spec import IoType, OutputKind, OutputSpec
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.heads import Head, with_head
from edgeseg.tflite.planning import initial_plan
from edgeseg.tflite.runtime import run


def net(classes: int, factor: int = 4) -> TfGraph:
    made = builder()
    a = conv(made, "x", normal(classes, 3, 3, C))
    size = (factor * H, factor * W)
    return finish(
        made, made.op("RESIZE_BILINEAR", (a, made.ints("s", size)), (1, *size, classes), options={"halfPixelCenters": True})
    )


def test_labels_are_the_largest_channel() -> None:
    graph = net(5)
    labelled, factor = with_head(graph, Head.LABELS, OutputSpec())
    tensor = labelled.tensors[labelled.outputs[0]]
    assert (factor, tensor.dtype, tensor.shape) == (1, "uint8", (1, 4 * H, 4 * W, 1))
    for image in inputs(graph, 2):
        wanted = run(graph, [image])[0][graph.outputs[0]].argmax(-1)
        np.testing.assert_array_equal(run(labelled, [image])[0]["labels"][..., 0], wanted)


@pytest.mark.parametrize("io", [IoType.FLOAT32, IoType.INT8])
def test_labels_of_an_int8_file(io: IoType) -> None:
    graph = net(5)
    labelled, _ = with_head(graph, Head.LABELS, OutputSpec())
    plan = initial_plan(labelled, minmax(labelled, inputs(graph)))
    emitted = quantize(labelled, plan, io=io)
    assert emitted.tensors["labels"].dtype == "uint8"
    logits = quantize(graph, plan_of(graph, plan.tensors), io=io)
    for image in inputs(graph, 2):
        fed = image if io is IoType.FLOAT32 else np.clip(image * 30, -128, 127).astype(np.int8)
        wanted = run(logits, [fed])[0][graph.outputs[0]].argmax(-1)
        np.testing.assert_array_equal(run(emitted, [fed])[0]["labels"][..., 0], wanted)


@pytest.mark.parametrize(("kind", "level"), [(OutputKind.SIGMOID, np.log(0.3 / 0.7)), (OutputKind.PROBABILITY, 0.3)])
def test_labels_of_one_channel(kind: OutputKind, level: float) -> None:
    graph = net(1)
    labelled, _ = with_head(graph, Head.LABELS, OutputSpec(kind=kind, threshold=0.3))
    image = inputs(graph, 1)[0]
    wanted = run(graph, [image])[0][graph.outputs[0]] > np.float32(level)
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(run(labelled, [image])[0]["labels"], wanted.astype(np.uint8))
    emitted = quantize(labelled, initial_plan(labelled, minmax(labelled, inputs(graph))))
    assert (run(emitted, [image])[0]["labels"] == wanted).mean() > 0.97


def test_small_logits_lack_the_resize() -> None:
    graph = net(5)
    small, factor = with_head(graph, Head.SMALL_LOGITS, OutputSpec())
    assert factor == 4
    assert [op.kind for op in small.ops] == ["CONV_2D"]
    image = inputs(graph, 1)[0]
    np.testing.assert_array_equal(run(small, [image])[0]["conv"].shape, (1, H, W, 5))
    assert with_head(graph, Head.LOGITS, OutputSpec()) == (graph, 1)


def test_heads_that_cannot_be() -> None:
    with pytest.raises(StageError, match="no resize"):
        with_head(with_head(net(5), Head.SMALL_LOGITS, OutputSpec())[0], Head.SMALL_LOGITS, OutputSpec())
    odd = net(5)
    odd.outputs = (*odd.outputs, "conv")
    with pytest.raises(StageError, match="2 outputs"):
        with_head(odd, Head.LABELS, OutputSpec())
    with pytest.raises(StageError, match="do not fit"):
        with_head(net(300, factor=1), Head.LABELS, OutputSpec())
