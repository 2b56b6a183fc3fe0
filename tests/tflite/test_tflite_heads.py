"""The last step of the file, against numpy on the logits, and what it leaves out, against PyTorch's resizes."""

from __future__ import annotations

import numpy as np
import pytest
from tf_cases import C, H, W, builder, conv, finish, inputs, minmax, normal

from edgeseg.errors import StageError
from edgeseg.head import HeadRecord, HeadSession, ResizeRule, resized
from edgeseg.session import ModelInput, SessionInfo
from edgeseg.spec import ClassesSpec, Head, InputSpec, IoType, ModelSpec, OutputKind, OutputSpec
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.heads import with_head
from edgeseg.tflite.planning import initial_plan
from edgeseg.tflite.runtime import run

FACTOR = 4
SIZE = (FACTOR * H, FACTOR * W)


def spec(output: OutputSpec | None = None) -> ModelSpec:
    return ModelSpec(input=InputSpec(shape=(1, C, H, W)), classes=ClassesSpec(names=("a", "b")), output=output or OutputSpec())


def net(classes: int, size: tuple[int, int] = SIZE, **centers: bool) -> TfGraph:
    made = builder()
    a = conv(made, "x", normal(classes, 3, 3, C))
    options = centers or {"halfPixelCenters": True}
    return finish(made, made.op("RESIZE_BILINEAR", (a, made.ints("s", size)), (1, *size, classes), options=options))


def int8(graph: TfGraph, io: IoType) -> TfGraph:
    return quantize(graph, initial_plan(graph, minmax(graph, inputs(graph))), io=io)


@pytest.mark.parametrize("io", [None, IoType.FLOAT32, IoType.INT8, IoType.UINT8])
def test_labels_are_the_largest_channel(io: IoType | None) -> None:
    graph = net(5) if io is None else int8(net(5), io)
    labelled, record = with_head(graph, Head.LABELS, spec())
    tensor = labelled.tensors[labelled.outputs[0]]
    assert (tensor.dtype, tensor.shape) == ("uint8", (1, *SIZE, 1))
    assert (record.form, record.channels, record.resizes) == (Head.LABELS, 5, ())
    if io is not None:
        (argmax,) = (op for op in labelled.ops if op.kind == "ARG_MAX")
        assert labelled.tensors[str(argmax.inputs[0])].dtype == "int8"
    for image in inputs(net(5), 2):
        dtype = np.float32 if io in {None, IoType.FLOAT32} else np.dtype(io.value)
        low, high = (-np.inf, np.inf) if dtype == np.float32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        fed = np.clip(image * (1 if dtype == np.float32 else 30), low, high).astype(dtype)
        wanted = run(graph, [fed])[0][graph.outputs[0]].argmax(-1)
        assert len(np.unique(wanted)) > 2
        np.testing.assert_array_equal(run(labelled, [fed])[0]["labels"][..., 0], wanted)


@pytest.mark.parametrize(("kind", "level"), [(OutputKind.SIGMOID, np.log(0.3 / 0.7)), (OutputKind.PROBABILITY, 0.3)])
@pytest.mark.parametrize("quantized", [False, True])
def test_labels_of_one_channel(kind: OutputKind, level: float, quantized: bool) -> None:
    graph = int8(net(1), IoType.FLOAT32) if quantized else net(1)
    labelled, _ = with_head(graph, Head.LABELS, spec(OutputSpec(kind=kind, threshold=0.3)))
    image = inputs(net(1), 1)[0]
    wanted = run(graph, [image])[0][graph.outputs[0]] > np.float32(level)
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(run(labelled, [image])[0]["labels"], wanted.astype(np.uint8))


@pytest.mark.parametrize("io", [None, IoType.FLOAT32, IoType.INT8])
def test_small_logits_and_the_rule_that_is_left_give_the_logits(io: IoType | None) -> None:
    graph = net(5) if io is None else int8(net(5), io)
    small, record = with_head(graph, Head.SMALL_LOGITS, spec())
    assert record.resizes == (ResizeRule(size=SIZE),)
    shown = small.tensors[small.outputs[0]]
    assert shown.shape == (1, H, W, 5)
    assert shown.dtype == graph.tensors[graph.outputs[0]].dtype
    if io is IoType.INT8:
        return
    image = inputs(net(5), 1)[0]
    planes = run(small, [image])[0][small.outputs[0]][0].transpose(2, 0, 1)
    whole = run(graph, [image])[0][graph.outputs[0]][0].transpose(2, 0, 1)
    step = 0.0 if io is None else float(np.diff(np.unique(whole)).max())
    np.testing.assert_allclose(resized(planes, record.resizes[0]), whole, atol=1e-4 + step)


@pytest.mark.parametrize(
    ("rule", "mode", "corners"),
    [
        (ResizeRule(size=(21, 30)), "bilinear", False),
        (ResizeRule(size=(21, 30), centers="corners"), "bilinear", True),
        (ResizeRule(size=(5, 7)), "bilinear", False),
        (ResizeRule(size=(21, 30), method="nearest", centers="asymmetric"), "nearest", None),
        (ResizeRule(size=(21, 30), method="nearest"), "nearest-exact", None),
    ],
)
def test_resizes_are_those_of_pytorch(rule: ResizeRule, mode: str, corners: bool | None) -> None:
    torch = pytest.importorskip("torch")
    planes = np.random.default_rng(0).normal(size=(3, 7, 10)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(planes)[None], size=rule.size, mode=mode, align_corners=corners)
    np.testing.assert_allclose(resized(planes, rule), wanted[0].numpy(), atol=1e-5)


class _Fixed:
    """A Session that gives one output."""

    info = SessionInfo(runtime="fixed", version="", file="")

    def __init__(self, output: np.ndarray) -> None:
        self._output = output

    def feed(self, x: ModelInput) -> None: ...

    def invoke(self) -> None: ...

    def fetch(self) -> np.ndarray:
        return self._output

    def close(self) -> None: ...


def test_labels_stand_for_logits_that_decide_so() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (1, 1, 6, 7)).astype(np.float32)
    given = HeadSession(_Fixed(labels), HeadRecord(form=Head.LABELS, channels=4)).fetch()
    assert given.shape == (1, 4, 6, 7)
    np.testing.assert_array_equal(given.argmax(1), labels[0])
    single = HeadSession(_Fixed(np.minimum(labels, 1)), HeadRecord(form=Head.LABELS, channels=1, threshold=-0.8)).fetch()
    np.testing.assert_array_equal(single > -0.8, labels > 0)


def test_heads_that_cannot_be() -> None:
    with pytest.raises(StageError, match="no resize"):
        with_head(with_head(net(5), Head.SMALL_LOGITS, spec())[0], Head.SMALL_LOGITS, spec())
    odd = net(5)
    odd.outputs = (*odd.outputs, "conv")
    with pytest.raises(StageError, match="2 outputs"):
        with_head(odd, Head.LABELS, spec())
    with pytest.raises(StageError, match="do not fit"):
        with_head(net(300, size=(H, W)), Head.LABELS, spec())
