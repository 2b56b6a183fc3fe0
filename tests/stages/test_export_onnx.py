"""Export and simplify: whatever the network is built from, the ONNX graph computes what PyTorch computes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeseg.errors import ModelError, SpecError, StageError
from edgeseg.graph import Graph
from edgeseg.model import Model, ModelKind, load_model
from edgeseg.session import ModelInput, infer
from edgeseg.spec import ClassesSpec, InputSpec, Layout, ModelSpec, OutputKind, OutputSpec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.torch_ref import open_torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE = (1, 3, 32, 48)
CLASSES = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_spec(
    shape: tuple[int, int, int, int] = SHAPE, stride: int = 1, classes: int = CLASSES, layout: Layout = Layout.NCHW
) -> ModelSpec:
    return ModelSpec(
        input=InputSpec(shape=shape, layout=layout),
        output=OutputSpec(stride=stride),
        classes=ClassesSpec(names=tuple(f"class {index}" for index in range(classes))),
    )


def image(shape: tuple[int, int, int, int] = SHAPE) -> ModelInput:
    """An image with the NCHW shape given, values in -1..1."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (shape[0], *shape[2:], shape[1]), dtype=np.uint8)
    return ModelInput(pixels=pixels, values=(pixels / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2))


class Segmenter(nn.Module):
    """A stem, the operator under test in the middle, and a head; input size in, input size out."""

    def __init__(self, middle: nn.Module | Callable[[torch.Tensor], torch.Tensor], channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = middle
        self.head = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.head(self.middle(self.stem(x))), size=x.shape[2:], mode="bilinear", align_corners=False)


class ChannelNorm(nn.Module):
    """LayerNorm over channels, in both the transposed form and a written-out one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mean = y.mean(1, keepdim=True)
        return (y - mean) / torch.sqrt(((y - mean) ** 2).mean(1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
        out, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return out.transpose(1, 2).reshape(n, c, h // 4, w // 4)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def uneven_pools(x: torch.Tensor) -> torch.Tensor:
    """Pooled to bins that do not divide the size, as PSPNet does."""
    return x + F.interpolate(F.adaptive_avg_pool2d(x, (3, 5)), size=x.shape[2:], mode="bilinear")


def shuffle_channels(x: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def resize(mode: str, corners: bool | None, factor: float = 2.0) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=corners)


def mixed(*middles: nn.Module | Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Several operators one after the other, each rescaled so that none drowns the next."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(part for part in middles if isinstance(part, nn.Module))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in middles:
                x = part(x)
                x = x * 2 + x.mean(1, keepdim=True)
            return x

    return Mixed()


# Operators in groups, because tracing costs a second a network and the operators of a group little.
GROUPS: dict[str, Callable[[], nn.Module | Callable[[torch.Tensor], torch.Tensor]]] = {
    "activations": lambda: mixed(
        nn.Hardswish(), nn.SiLU(), nn.Mish(), nn.ELU(), nn.PReLU(8), nn.LeakyReLU(0.1), nn.ReLU6(), nn.Softplus()
    ),
    "gelu": lambda: mixed(nn.GELU(), nn.GELU(approximate="tanh"), lambda x: x * ((1 + torch.erf(x / 2**0.5)) / 2)),
    "norms": lambda: mixed(
        nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), ChannelNorm(), SqueezeExcite()
    ),
    "pools": lambda: mixed(
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.AvgPool2d(3, 2, padding=1), lambda x: x - F.adaptive_avg_pool2d(x, 1)
    ),
    "uneven-pools": lambda: uneven_pools,
    "convolutions": lambda: mixed(
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.Conv2d(8, 8, 3, padding=4, dilation=4, groups=8, stride=2),
        nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
        nn.ReflectionPad2d(2),
        nn.Conv2d(8, 8, 5, groups=2),
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1),
    ),
    "reorders": lambda: mixed(
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        shuffle_channels,
        lambda x: torch.cat([part * (i + 1) for i, part in enumerate(x.chunk(3, 1))], 1),
        lambda x: F.pad(x[:, :, 1:, :-1], (0, 1, 1, 0)),
    ),
    "bilinear": lambda: mixed(resize("bilinear", False), resize("bilinear", True, 0.5), resize("bilinear", False, 0.5)),
    "bicubic-nearest": lambda: mixed(resize("bicubic", False), resize("bicubic", True, 0.5), resize("nearest", None)),
    "attention": Attention,
}
SECOND_TORCHSCRIPT_ROUTE = {"uneven-pools", "attention"}


def seeded(module: nn.Module) -> nn.Module:
    """Weights and batch-norm statistics that make a wrong constant visible."""
    generator = torch.Generator().manual_seed(7)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.eval()


def saved(module: nn.Module, path: Path, form: str, shape: tuple[int, int, int, int] = SHAPE) -> Model:
    if form == "pt2":
        torch.export.save(torch.export.export(module, (torch.zeros(shape),)), str(path))
    else:
        torch.jit.trace(module, torch.zeros(shape), check_trace=False).save(str(path))
    return load_model(path)


def error(model: Model, graph: Graph, spec: ModelSpec, x: ModelInput) -> float:
    """Largest difference from PyTorch, relative to the largest logit."""
    with open_torch(model, spec) as reference, open_onnx(graph.path) as candidate:
        want, have = infer(reference, x), infer(candidate, x)
    assert want.shape == have.shape
    assert np.ptp(want) > 0.1
    return float(np.abs(want - have).max() / np.abs(want).max())


@pytest.mark.parametrize("form", ["pt2", "torchscript"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "uneven-pools" else []) for name in GROUPS]
)
def test_agrees_with_pytorch(tmp_path: Path, name: str, form: str) -> None:
    model = saved(seeded(Segmenter(GROUPS[name]())), tmp_path / "model", form)
    spec, x = make_spec(), image()
    exported = export_onnx(model, spec, tmp_path / "a.onnx")
    second = "torchscript to torch.export" if name in SECOND_TORCHSCRIPT_ROUTE else "torchscript"
    assert exported.route == ("torch.export" if form == "pt2" else second)
    assert error(model, exported.graph, spec, x) < 1e-4
    simple = simplify(exported.graph, tmp_path / "b.onnx")
    assert simple.nodes_after <= simple.nodes_before
    assert error(model, simple.graph, spec, x) < 1e-4
    assert_static(simple.graph)


def assert_static(graph: Graph) -> None:
    proto = onnx.load(graph.path).graph
    assert ([value.name for value in proto.input], [value.name for value in proto.output]) == (["input"], ["logits"])
    values = {value.name: value for value in (*proto.value_info, *proto.output)}
    for name in (output for node in proto.node for output in node.output if output):
        assert all(dim.dim_value > 0 for dim in values[name].type.tensor_type.shape.dim), name


def test_stride_and_several_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, CLASSES, 3, stride=4, padding=1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x)
            return {"coarse": logits * 0, "fine": logits}

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(seeded(Two()), (torch.zeros(SHAPE),)), str(path))
    model, spec = load_model(path, output_name="fine"), make_spec(stride=4)
    exported = export_onnx(model, spec, tmp_path / "a.onnx")
    assert error(model, simplify(exported.graph, tmp_path / "b.onnx").graph, spec, image()) < 1e-5
    assert len(onnx.load(tmp_path / "b.onnx").graph.node) == 1  # the other output's operators are gone
    with pytest.raises(ModelError, match="2 outputs"):
        export_onnx(load_model(path), spec, tmp_path / "c.onnx")
    with pytest.raises(SpecError, match="stride") as caught:
        export_onnx(model, make_spec(stride=1), tmp_path / "c.onnx")
    assert "stride = 4" in caught.value.hint
    assert not (tmp_path / "c.onnx").exists()


def test_a_channels_last_network_becomes_nchw(tmp_path: Path) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, CLASSES, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    shape = (1, 32, 48, 3)
    model, spec = saved(seeded(Last()), tmp_path / "m", "pt2", shape), make_spec(shape, layout=Layout.NHWC)
    exported = export_onnx(model, spec, tmp_path / "a.onnx")
    assert error(model, simplify(exported.graph, tmp_path / "b.onnx").graph, spec, image()) < 1e-5


def test_dynamic_batch_becomes_one(tmp_path: Path) -> None:
    network = seeded(Segmenter(nn.ReLU()))
    dynamic = {"x": {0: torch.export.Dim("batch", min=2, max=8)}}
    torch.export.save(
        torch.export.export(network, (torch.zeros(2, *SHAPE[1:]),), dynamic_shapes=dynamic), str(tmp_path / "m.pt2")
    )
    model, spec = load_model(tmp_path / "m.pt2"), make_spec()
    exported = export_onnx(model, spec, tmp_path / "a.onnx")
    graph = simplify(exported.graph, tmp_path / "b.onnx").graph
    assert error(model, graph, spec, image()) < 1e-5
    assert_static(graph)


def test_a_network_of_python_code_may_take_the_second_route(tmp_path: Path) -> None:
    """Data-dependent control flow: torch.export cannot trace it, the TorchScript tracer follows one branch."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, CLASSES, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.net(x)
            return y * 2 if bool((y.abs() >= 0).all()) else y

    model = Model(tmp_path / "model.py", ModelKind.STATE_DICT, "sha256:0", _module=seeded(Branches()))
    exported = export_onnx(model, make_spec(), tmp_path / "a.onnx")
    assert exported.route == "torchscript"
    assert any(note.startswith("torch.export:") for note in exported.notes)
    assert error(model, exported.graph, make_spec(), image()) < 1e-5


def test_a_route_that_fails_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The TorchScript exporter has no pooling to a size that does not divide the map, and prints the whole graph from C++ to say
    so. What it prints would stand before the document of --json."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, CLASSES, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.net(x)
            return y + nn.functional.interpolate(nn.functional.adaptive_avg_pool2d(y, 5), size=y.shape[-2:], mode="nearest")

    model = saved(seeded(Pooled()), tmp_path / "m", "torchscript")
    exported = export_onnx(model, make_spec(), tmp_path / "a.onnx")
    assert exported.route == "torchscript to torch.export"
    ctypes.CDLL(None).fflush(None)  # what C++ still holds back
    assert capfd.readouterr().out == ""


def test_both_errors_are_kept(tmp_path: Path) -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.fft.fft2(x.detach().numpy()).real.astype(np.float32))[:, :1].repeat(1, CLASSES, 1, 1) + (
                torch.linalg.svd(x)[1].sum()
            )

    model = Model(tmp_path / "model.py", ModelKind.STATE_DICT, "sha256:0", _module=Unknown())
    with pytest.raises(StageError) as caught:
        export_onnx(model, make_spec(), tmp_path / "a.onnx")
    assert "torch.export:" in caught.value.message
    assert "torchscript:" in caught.value.message
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (make_spec((1, 4, 32, 48)), "exported for an input of shape"),
        (make_spec(classes=9), "4 channels, but edgeseg.toml names 9 classes"),
        (
            ModelSpec(
                input=InputSpec(shape=SHAPE),
                output=OutputSpec(kind=OutputKind.SIGMOID),
                classes=ClassesSpec(names=("background", "vessel")),
            ),
            "means exactly one",
        ),
    ],
)
def test_a_spec_that_does_not_fit(tmp_path: Path, spec: ModelSpec, said: str) -> None:
    model = saved(seeded(Segmenter(nn.ReLU())), tmp_path / "m", "pt2")
    with pytest.raises(SpecError, match=said):
        export_onnx(model, spec, tmp_path / "a.onnx")


def test_wrong_channel_count_in_torchscript(tmp_path: Path) -> None:
    model = saved(seeded(Segmenter(nn.ReLU())), tmp_path / "m", "torchscript")
    with pytest.raises(SpecError, match=r"expected input.*to have 3 channels, but got 1"):
        export_onnx(model, make_spec((1, 1, 32, 48)), tmp_path / "a.onnx")
