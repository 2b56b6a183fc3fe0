"""Blocks of segmentation networks, exported by PyTorch and compared with PyTorch's own exporter's graph in onnxruntime."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx
import onnxslim
import pytest
import torch
from lowering_oracle import kinds
from torch import Tensor, nn
from torch.nn import functional

from edgeseg.tflite.graph import TfGraph

Agree: TypeAlias = Callable[..., TfGraph]


def export(module: nn.Module, *shapes: Sequence[int], dynamo: bool = False) -> onnx.ModelProto:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.running_mean)
    stream = io.BytesIO()
    names = [f"x{i}" for i in range(len(shapes))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = tuple(torch.rand(*shape) for shape in shapes)
        if dynamo:
            program = torch.onnx.export(module.eval(), example, dynamo=True, verbose=False)
            assert program is not None
            return onnxslim.slim(program.model_proto)
        torch.onnx.export(module.eval(), example, stream, dynamo=False, opset_version=17, input_names=names)
    return onnxslim.slim(onnx.load_from_string(stream.getvalue()))


class Call(nn.Module):
    """A module around a function, with parameters of its own."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*self.layers, *inputs)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.pool(x).flatten(1)
        gate = functional.hardsigmoid(self.up(functional.relu(self.down(gate))))
        return x * gate[:, :, None, None]


class Attention(nn.Module):
    """Multi-head self-attention over the pixels, as vision transformers write it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        qkv = self.qkv(tokens).reshape(batch, -1, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q @ k.transpose(-2, -1) * (channels // self.heads) ** -0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, -1, channels)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class ReducedAttention(nn.Module):
    """Few keys for many queries, with the scores scaled behind the product, as SegFormer has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x.flatten(2).transpose(1, 2))
        reduced = self.reduce(x).flatten(2).transpose(1, 2)
        return (q @ self.k(reduced).transpose(1, 2) / 3.7).softmax(-1) @ reduced


class WindowAttention(nn.Module):
    """Swin's shift, window partition and their reverse, around a linear layer."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.mix = nn.Linear(window * window, window * window)

    def forward(self, x: Tensor) -> Tensor:
        window = self.window
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // window, window, width // window, window, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = x.reshape(batch, height // window, width // window, window, window, channels)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels)
        return torch.roll(x, (1, 1), (1, 2)).permute(0, 3, 1, 2)


class PyramidPooling(nn.Module):
    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(channels, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        pooled = [functional.interpolate(stage(x), size, mode="bilinear", align_corners=False) for stage in self.stages]
        return torch.cat([x, *pooled], 1)


class Aspp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=rate, dilation=rate, bias=False) for rate in (1, 2, 4))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.ReLU())
        self.join = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.interpolate(self.pooled(x), x.shape[2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([*(branch(x) for branch in self.branches), wide], 1))


def channel_shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 3, channels // 3, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def unfold_as_mobilevit(x: Tensor) -> Tensor:
    """2x2 patches, the pixels of one place within the patch as a sequence; and back, around a softmax."""
    batch, channels, height, width = x.shape
    rows, columns = height // 2, width // 2
    y = x.reshape(batch * channels * rows, 2, columns, 2).transpose(1, 2)
    y = y.reshape(batch, channels, rows * columns, 4).transpose(1, 3).reshape(batch * 4, rows * columns, channels)
    y = y.softmax(-1)
    y = y.reshape(batch, 4, rows * columns, channels).transpose(1, 3)
    return y.reshape(batch * channels * rows, columns, 2, 2).transpose(1, 2).reshape(batch, channels, height, width)


def seven_axes(x: Tensor) -> Tensor:
    y = x.reshape(1, 2, 3, 2, 4, 4, 4).permute(0, 6, 1, 5, 2, 4, 3).reshape(1, 8, 12, 8)
    return torch.sigmoid(y)


def l2_attention(x: Tensor, y: Tensor) -> Tensor:
    """Dual attention: affinity between channels."""
    flat = x.flatten(2)
    return (functional.softmax(flat @ y.flatten(2).transpose(1, 2), -1) @ flat).view_as(x)


@pytest.mark.parametrize(
    ("module", "most_transposes"),
    [
        (nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.PReLU(6)), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3, 2, 1, groups=6), nn.BatchNorm2d(12), nn.Hardswish()), 0),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 4, 3, 2)), 0),
        (nn.Sequential(nn.ReflectionPad2d(2), nn.Conv2d(6, 4, 5), nn.InstanceNorm2d(4)), 0),
        (nn.Sequential(nn.Conv2d(6, 8, 1), nn.GroupNorm(4, 8), nn.GELU()), 0),
        (nn.Sequential(nn.Conv2d(6, 6, (1, 3), padding=(0, 2), dilation=(1, 2)), nn.BatchNorm2d(6), nn.SiLU()), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3, padding=1), nn.PixelShuffle(2), nn.Mish()), 0),
        (nn.Sequential(nn.PixelShuffle(1), nn.PixelUnshuffle(2), nn.Conv2d(24, 4, 1)), 1),
        (nn.Sequential(nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.ELU()), 0),
        (nn.Sequential(nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6, bias=False), nn.LeakyReLU(0.1)), 0),
        (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1), nn.Softplus()), 0),
        (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(6, 2, 1)), 0),
        (nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Softmax(1)), 0),
        (nn.Sequential(nn.Upsample(scale_factor=3, mode="nearest"), nn.LogSoftmax(1)), 0),
        (nn.Upsample(scale_factor=2, mode="bicubic"), 0),
        (nn.Upsample(size=(13, 30), mode="bilinear", align_corners=True), 0),
        (SqueezeExcite(6), 0),
        (Attention(6, 1), 0),
        (Attention(6, 2), 4),
        (WindowAttention(4), 4),
        (PyramidPooling(6, (1, 2, 4)), 0),
        (Aspp(6), 0),
        (Call(channel_shuffle), 1),
        (Call(unfold_as_mobilevit), 2),
        (Call(seven_axes), 2),
        (Call(lambda x: functional.normalize(x, dim=1)), 0),
        (Call(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)) + x.amax(1, keepdim=True)), 0),
        (Call(lambda x: functional.layer_norm(x, (6, 8, 16))), 0),
        (Call(lambda x: torch.stack([x, x.flip(3)], 1).sum(1)), 2),
        (Call(lambda x: functional.unfold(x, 2, stride=2).view(1, 24, 4, 8)), 2),
    ],
)  # fmt: skip
def test_block(agree: Agree, module: nn.Module, most_transposes: int) -> None:
    graph = agree(export(module, (1, 6, 8, 16)))
    assert kinds(graph).count("TRANSPOSE") <= most_transposes


class Unpool(nn.Module):
    """ENet's and SegNet's way up: maxima go back to where they came from. Behind the ReLU many are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = self.down(torch.relu(x))
        return self.up(self.middle(pooled), places) + x


@pytest.mark.parametrize("module", [Unpool(), nn.AdaptiveAvgPool2d((3, 5)), nn.ReflectionPad2d(1)])
def test_block_by_the_torch_export_route(agree: Agree, module: nn.Module) -> None:
    agree(export(module, (1, 6, 8, 16), dynamo=True))


def test_scale_of_attention_scores_goes_into_the_weights(agree: Agree) -> None:
    graph = agree(export(ReducedAttention(6), (1, 6, 8, 16)))
    assert kinds(graph).count("MUL") == 0
    graph = agree(export(Call(lambda conv, x: conv(x) * 0.3, nn.Conv2d(6, 4, 3)), (1, 6, 8, 16)))
    assert kinds(graph) == ["CONV_2D"]


def test_attention_between_two_maps(agree: Agree) -> None:
    agree(export(Call(l2_attention), (1, 6, 4, 5), (1, 6, 4, 5)), low=-1, high=1)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), "GELU"),
        (lambda x: x * (0.5 * (1 + torch.erf(x * 0.5**0.5))), "GELU"),
        (lambda x: (1 + torch.erf(x / 2**0.5)) * x / 2, "GELU"),
        (lambda x: 0.5 * x + 0.5 * (x * torch.erf(x / 2**0.5)), "GELU"),
        (lambda x: functional.gelu(x, approximate="tanh"), "GELU"),
        (lambda x: x * functional.relu6(x + 3) / 6, "HARD_SWISH"),
        (lambda x: x * functional.hardsigmoid(x), "HARD_SWISH"),
    ],
)
def test_written_out_activation(agree: Agree, function: Callable[[Tensor], Tensor], kind: str) -> None:
    assert kinds(agree(export(Call(function), (1, 6, 8, 16)), low=-7, high=7)) == [kind]


def test_clamped_function_is_not_taken_for_the_plain_one(agree: Agree) -> None:
    graph = agree(export(Call(lambda x: functional.gelu(x.clamp(max=5.0))), (1, 6, 8, 16)), low=-7, high=7)
    assert kinds(graph) == ["MINIMUM", "GELU"]
