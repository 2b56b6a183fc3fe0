"""Graphs freed from their size, against the PyTorch network itself at other sizes; and those that cannot be freed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_nets import filters, images, net, residual, vector
from torch import nn

from edgeseg.errors import StageError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.model import load_model
from edgeseg.onnxgraph.kernels import quantized_share
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import load_model as load_onnx
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec
from edgeseg.stages.build_engine import Precision, any_batch_stage, any_size_stage, build_engine_stage
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_trt import prepare_trt_stage, quantize_trt_stage
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.trt.build import BuildSettings
from edgeseg.trt.driver import Environment
from edgeseg.trt.opset import as_written
from edgeseg.trt.sizes import usual_shape, with_sizes

USUAL = (32, 48)
OTHERS = ((16, 16), (64, 80), (48, 32))


def to_size(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Skips(nn.Module):
    """A decoder that resizes to the maps it joins, and to the image at the end; one transposed convolution, one pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.up, self.join, self.last = nn.ConvTranspose2d(12, 8, 2, 2), nn.Conv2d(8 + 12 + 8, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        deep = nn.functional.max_pool2d(b, 2)
        b = b + to_size(deep, b)
        y = self.join(torch.cat([self.up(b), to_size(b, a), a], 1))
        return to_size(self.last(torch.relu(y)), x)


class Pyramid(nn.Module):
    """A global pooling spread over the map again, by resizing and by expanding, and a gate by means."""

    def __init__(self, expand: bool) -> None:
        super().__init__()
        self.stem, self.part, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 4, 1)
        self.expand = expand

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.stem(x))
        whole = self.part(nn.functional.adaptive_avg_pool2d(y, 1))
        spread = whole.expand(-1, -1, y.shape[2], y.shape[3]) if self.expand else to_size(whole, y)
        gated = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return nn.functional.interpolate(self.last(torch.cat([y, spread, gated], 1)), scale_factor=2, mode="nearest")


def exported(module: nn.Module, folder: Path) -> Graph:
    """As compile exports it, for one size."""
    torch.jit.trace(module, torch.zeros(1, 3, *USUAL)).save(str(folder / "model.pt"))
    spec = ModelSpec(input=InputSpec(shape=(1, 3, *USUAL)), classes=ClassesSpec(names=("a", "b", "c", "d")))
    graph = export_onnx(load_model(folder / "model.pt"), spec, folder / "export.onnx", opset=18).graph
    return simplify(graph, folder / "float.onnx").graph


@pytest.mark.parametrize("module", [Skips(), Pyramid(True), Pyramid(False)], ids=["skips", "expand", "resize"])
def test_other_sizes_give_what_pytorch_gives(module: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module.eval()
    model = with_sizes(load_onnx(exported(module, tmp_path).path), OTHERS[:2], stage="size")
    assert usual_shape(model) == (1, 3, *USUAL)
    session = as_written(model)
    for size in (*OTHERS, USUAL):
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32))
        with torch.inference_mode():
            wanted = module(x).numpy()
        np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], wanted, atol=2e-5)


HOLDS = {
    "tokens": (
        "c = Conv<pads=[1,1,1,1]>(x, w) f = Reshape(c, flat) t = Softmax<axis=2>(f) y = Reshape(t, back)",
        {"w": filters(8, 3), "flat": np.int64([1, 8, 256]), "back": np.int64([1, 8, 16, 16])},
        "Reshape",
    ),
    "positions": (
        "c = Conv<pads=[1,1,1,1]>(x, w) y = Add(c, p)",
        {"w": filters(8, 3), "p": vector(256).reshape(1, 1, 16, 16)},
        "constant of the map's size",
    ),
    "adaptive pooling": (
        'c = Conv<pads=[1,1,1,1]>(x, w) p = AveragePool<kernel_shape=[8,8], strides=[8,8]>(c) y = Resize<mode="linear">(p, , , s)',
        {"w": filters(8, 3), "s": np.int64([1, 8, 16, 16])},
        "may be adaptive",
    ),
    "fixed places": (
        "c = Conv<pads=[1,1,1,1]>(x, w) y = Slice(c, a, b, k)",
        {"w": filters(8, 3), "a": np.int64([0]), "b": np.int64([8]), "k": np.int64([2])},
        "cuts at fixed places",
    ),
    "a size of its own": (
        'c = Conv<pads=[1,1,1,1]>(x, w) y = Resize<mode="linear">(c, , , s)',
        {"w": filters(8, 3), "s": np.int64([1, 8, 20, 20])},
        "follows from no other map",
    ),
    "joined along the height": (
        "c = Conv<pads=[1,1,1,1]>(x, w) y = Concat<axis=2>(c, c)",
        {"w": filters(8, 3)},
        "works along axis 2",
    ),
}


@pytest.mark.parametrize("held", HOLDS)
def test_what_holds_its_size_is_named(held: str) -> None:
    body, weights, why = HOLDS[held]
    with pytest.raises(StageError, match=why) as caught:
        with_sizes(net(body, weights), ((32, 32),), stage="size")
    assert "--trt-size" in caught.value.hint


def test_sizes_that_do_not_halve_evenly_are_an_error(tmp_path: Path) -> None:
    model = load_onnx(exported(Pyramid(True).eval(), tmp_path).path)
    with pytest.raises(StageError, match="from an image of 17x17 the graph makes 18x18") as caught:
        with_sizes(model, ((17, 17),), stage="size")
    assert "multiples" in caught.value.hint


SPEC = ModelSpec(input=InputSpec(shape=(1, 3, 16, 16)), classes=ClassesSpec(names=("a",)))


def test_the_shipped_int8_file_takes_any_size_and_batch(tmp_path: Path) -> None:
    onnx.save_model(residual(), str(tmp_path / "net.onnx"))
    graph = quantize_trt_stage(Graph.of(tmp_path / "net.onnx", Format.ONNX), images(4), SPEC, tmp_path).graph
    single = load_onnx(graph.path)
    settings = BuildSettings(batch=(1, 2, 4), sizes=((8, 8), (32, 48)))
    freed = any_size_stage(any_batch_stage(graph, Precision.INT8).graph, Precision.INT8, settings.sizes).graph
    model = load_onnx(freed.path)
    assert not [finding for finding in check_trt(model) if finding.refused]
    assert quantized_share(model) == quantized_share(single), "work is counted for one image of the usual size"
    session = as_written(model)
    x = np.random.default_rng(3).normal(size=(3, 3, 16, 16)).astype(np.float32)
    wanted = np.concatenate([as_written(single).run(None, {"x": one[None]})[0] for one in x])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], wanted, atol=1e-4)
    assert session.run(None, {"x": np.zeros((2, 3, 32, 48), np.float32)})[0].shape[2:] == (32, 48)
    build_engine_stage(freed, Precision.INT8, tmp_path, settings, Environment(missing="no CUDA driver"))
    ship = tmp_path / "ship"
    for line in (ship / "trtexec.txt").read_text().splitlines()[1::2]:
        assert {"--minShapes=x:1x3x8x8", "--optShapes=x:2x3x16x16", "--maxShapes=x:4x3x32x48"} <= set(line.split())
    assert "SIZES = ((8, 8), (16, 16), (32, 48))" in (ship / "build_engine.py").read_text().splitlines()


def test_the_models_own_size_lies_between(tmp_path: Path) -> None:
    onnx.save_model(residual(), str(tmp_path / "net.onnx"))
    graph = prepare_trt_stage(Graph.of(tmp_path / "net.onnx", Format.ONNX), tmp_path).graph
    with pytest.raises(UsageError, match="16x16, is not between"):
        any_size_stage(graph, Precision.FP32, ((32, 32), (64, 64)))
    with pytest.raises(UsageError, match="do not rise"):
        BuildSettings(sizes=((64, 64), (32, 128)))
