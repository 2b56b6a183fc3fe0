"""Labels and small logits of an ONNX file, against numpy on what the whole file gives in onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_nets import filters, images, net

from edgeseg.errors import StageError
from edgeseg.head import resized
from edgeseg.onnxgraph.heads import with_onnx_head
from edgeseg.spec import ClassesSpec, Head, InputSpec, ModelSpec, OutputKind, OutputSpec

SPEC = ModelSpec(input=InputSpec(shape=(1, 3, 16, 16)), classes=ClassesSpec(names=("a", "b")))


def upsampled(channels: int, mode: str = "half_pixel", method: str = "linear") -> onnx.ModelProto:
    text = (
        "c = Conv<pads=[1,1,1,1]>(x, w) "
        f'y = Resize<mode="{method}", coordinate_transformation_mode="{mode}", nearest_mode="floor">(c, , scales)'
    )
    return net(text, {"w": filters(channels, 3), "scales": np.float32([1, 1, 3, 2])})


def outputs(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images(1)[0].values})[0]


def test_labels_are_the_largest_channel() -> None:
    model = upsampled(5)
    before = model.SerializeToString()
    labelled, record = with_onnx_head(model, Head.LABELS, SPEC)
    assert model.SerializeToString() == before
    found = outputs(labelled)
    assert (found.dtype, found.shape, record.channels) == (np.uint8, (1, 1, 48, 32), 5)
    np.testing.assert_array_equal(found[:, 0], outputs(model).argmax(1))


def test_labels_of_one_channel() -> None:
    spec = ModelSpec(input=SPEC.input, classes=SPEC.classes, output=OutputSpec(kind=OutputKind.SIGMOID, threshold=0.4))
    labelled, record = with_onnx_head(upsampled(1), Head.LABELS, spec)
    wanted = 1 / (1 + np.exp(-outputs(upsampled(1)).astype(np.float64))) > 0.4
    assert 0 < wanted.mean() < 1
    assert record.threshold == pytest.approx(np.log(0.4 / 0.6))
    np.testing.assert_array_equal(outputs(labelled), wanted)


@pytest.mark.parametrize(
    ("mode", "method"),
    [("half_pixel", "linear"), ("align_corners", "linear"), ("asymmetric", "linear"), ("asymmetric", "nearest")],
)
def test_small_logits_and_the_rule_that_is_left_give_the_logits(mode: str, method: str) -> None:
    model = upsampled(5, mode, method)
    small, record = with_onnx_head(model, Head.SMALL_LOGITS, SPEC)
    found = outputs(small)
    assert found.shape == (1, 5, 16, 16)
    assert not [node for node in small.graph.node if node.op_type == "Resize"]
    (rule,) = record.resizes
    np.testing.assert_allclose(resized(found[0], rule), outputs(model)[0], atol=1e-5)


def test_heads_that_cannot_be() -> None:
    with pytest.raises(StageError, match="no resize"):
        with_onnx_head(net("y = Conv(x, w)", {"w": filters(4, 3)}), Head.SMALL_LOGITS, SPEC)
    with pytest.raises(StageError, match="do not fit"):
        with_onnx_head(net("y = Conv(x, w)", {"w": filters(300, 3)}), Head.LABELS, SPEC)
