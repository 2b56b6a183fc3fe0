"""Exported programs that take their image in another type, by name, or beside other arguments."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from small_nets import SHAPE, Net
from torch import nn

from edgeseg.errors import ModelError
from edgeseg.facts import declared_input
from edgeseg.model import load_model
from edgeseg.reference import reference_module
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec, OutputSpec
from edgeseg.stages.export_onnx import export_onnx

SPEC = ModelSpec(input=InputSpec(shape=SHAPE), output=OutputSpec(stride=2), classes=ClassesSpec(names=tuple("abcde")))


class Typed(nn.Module):
    """Names its own type inside, and holds a constant of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = torch.full((1, 5, 1, 1), 0.25, dtype=x.dtype) + torch.tensor([0.5], dtype=x.dtype)
        return self.net(x) + shift + self.net(torch.full(SHAPE, 0.5, dtype=x.dtype))


class Named(nn.Module):
    """Takes more than the image, as models of libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(
        self, pixel_values: torch.Tensor, mask: torch.Tensor | None = None, gain: float = 1.0, *, flip: bool = False
    ) -> torch.Tensor:
        logits = self.net(pixel_values) * gain
        logits = logits.flip(3) if flip else logits
        return logits if mask is None else logits * mask


def saved(module: nn.Module, path: Path, args: tuple[object, ...], kwargs: dict[str, object] | None = None) -> Path:
    torch.export.save(torch.export.export(module.eval(), args, kwargs), str(path))
    return path


def agrees(path: Path, wanted: torch.Tensor, x: torch.Tensor, tolerance: float) -> None:
    """In PyTorch and as ONNX."""
    model = load_model(path)
    module, _ = reference_module(model, SPEC)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), wanted, atol=tolerance, rtol=0)
    export_onnx(model, SPEC, path.with_suffix(".onnx"))
    session = onnxruntime.InferenceSession(str(path.with_suffix(".onnx")), providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_another_precision_is_cast_and_said(kind: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Typed().eval(), torch.randn(SHAPE)
    path = saved(module.to(kind), tmp_path / "model.pt2", (x.to(kind),))
    model = load_model(path)
    assert model.notes == (f"cast from {str(kind).removeprefix('torch.')} to float32",)
    with torch.inference_mode():
        wanted = module.float()(x)  # the rounded weights, in float32
    agrees(path, wanted, x, 1e-5)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"pixel_values": ...}),
        ((), {"pixel_values": ..., "mask": None, "gain": 2.0}),
        ((..., None, 0.5), {"flip": True}),
        ((...,), {"flip": True}),
    ],
)
def test_a_call_with_other_arguments_is_made_again(args: tuple[object, ...], kwargs: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Named().eval(), torch.randn(SHAPE)
    filled = [x if one is ... else one for one in args], {key: x if one is ... else one for key, one in kwargs.items()}
    path = saved(module, tmp_path / "model.pt2", tuple(filled[0]), filled[1])
    model = load_model(path)
    assert "the image is 'pixel_values'" in model.notes[0]
    declared = declared_input(model)
    assert declared is not None
    assert declared.shape == SHAPE
    with torch.inference_mode():
        wanted = module(*filled[0], **filled[1])
    agrees(path, wanted, x, 1e-5)


def test_the_usual_call_is_left_alone(tmp_path: Path) -> None:
    model = load_model(saved(Net(), tmp_path / "model.pt2", (torch.zeros(SHAPE),)))
    assert model.notes == ()
    assert model.module() is not None


def test_two_tensors_are_named(tmp_path: Path) -> None:
    path = saved(Named(), tmp_path / "model.pt2", (torch.zeros(SHAPE), torch.ones(1, 1, 8, 12)))
    with pytest.raises(ModelError, match=r"takes 2 tensors \(pixel_values, mask\)"):
        declared_input(load_model(path))
