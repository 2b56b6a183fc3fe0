"""What a model file tells about itself: the figures ``edgeseg init`` writes into edgeseg.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import ModelError
from edgeseg.model import Model, ModelKind
from edgeseg.outputs import choose_name

if TYPE_CHECKING:
    import onnx

__all__ = ["DeclaredInput", "ModelFacts", "declared_input", "full_shape", "lower_ir_version", "probe"]


@dataclass(frozen=True)
class ModelFacts:
    """Layouts are NCHW. What the file does not tell is None.

    Attributes:
        input_channels: known from the first convolution even where the input's size is not.
        stride: input height divided by output height.
    """

    input_name: str | None = None
    input_shape: tuple[int, int, int, int] | None = None
    input_channels: int | None = None
    output_shape: tuple[int, ...] | None = None

    @property
    def channels(self) -> int | None:
        return self.output_shape[1] if self.output_shape else None

    @property
    def stride(self) -> int | None:
        if self.input_shape is None or self.output_shape is None:
            return None
        return max(1, round(self.input_shape[2] / self.output_shape[2]))


@dataclass(frozen=True)
class DeclaredInput:
    """``shape`` is None where an axis is dynamic."""

    name: str
    shape: tuple[int, int, int, int] | None


def probe(model: Model, *, shape: tuple[int, int, int, int] | None = None) -> ModelFacts:
    """Find out what can be known; ``shape`` is the NCHW input to try where the file names none (TorchScript, state_dict).

    Raises:
        ModelError: the model does not run on the input, or its logits cannot be told from its other outputs.
    """
    if model.kind is ModelKind.ONNX:
        return _probe_onnx(model.path, model.output_name, shape)
    declared = declared_input(model)
    shape = (declared.shape if declared else None) or shape
    channels = shape[1] if shape else _first_channels(model)
    output = _run(model, shape) if shape else None
    return ModelFacts(
        input_name=declared.name if declared else None, input_shape=shape, input_channels=channels, output_shape=output
    )


def declared_input(model: Model) -> DeclaredInput | None:
    """The input that a .pt2 file was exported for; None for a kind of file that does not say.

    Raises:
        ModelError: the model takes several inputs.
    """
    program = model.program()
    if program is None:
        return None
    names = {name for name in program.graph_signature.user_inputs if isinstance(name, str)}
    placed = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    inputs = [node for node in placed if hasattr(node.meta.get("val"), "shape")]  # the others are flags and numbers
    if len(inputs) != 1:
        raise ModelError(
            f"{model.path} takes {len(inputs)} tensors ({', '.join(node.name for node in inputs)}); edgeseg compiles models that "
            "take one image.",
            hint="Wrap the model so that it takes the image alone and makes the others itself, and export that.",
        )
    size = tuple(inputs[0].meta["val"].shape)
    return DeclaredInput(inputs[0].name, full_shape(tuple(n if isinstance(n, int) else None for n in size)))


def _first_channels(model: Model) -> int | None:
    for parameter in model.module().parameters():
        if parameter.ndim == 4:
            return int(parameter.shape[1])
    return None


def _run(model: Model, shape: tuple[int, int, int, int]) -> tuple[int, ...]:
    import torch

    try:
        with torch.inference_mode():
            return tuple(model.logits()(torch.zeros(shape)).shape)
    except RuntimeError as error:
        raise ModelError(
            f"{model.path} does not run on an input of shape {shape}: {str(error).strip().splitlines()[-1]}",
            hint="Give the shape that it was trained with.",
        ) from error


def _probe_onnx(path: Path, output_name: str | None, shape: tuple[int, int, int, int] | None) -> ModelFacts:
    import numpy as np
    import onnx
    import onnxruntime

    model = onnx.load_model(str(path))
    lower_ir_version(model)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0]
        size = tuple(length if isinstance(length, int) else None for length in source.shape)
        known = full_shape(size) or shape
        channels = size[1] if len(size) == 4 else None
        if known is None:
            return ModelFacts(source.name, None, channels)
        names = [item.name for item in session.get_outputs()]
        values = session.run(names, {source.name: np.zeros(known, np.float32)})
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run {path}: {error}", hint="Export the model again.") from error
    shapes = {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}
    return ModelFacts(source.name, known, channels, shapes[choose_name(shapes, output_name, what=str(path))])


def lower_ir_version(model: onnx.ModelProto) -> None:
    """Write the file format's version as 10: the onnx package writes newer ones before ONNX Runtime reads them.

    Later versions only add element types and metadata that a float segmentation model does not use.
    """
    model.ir_version = min(model.ir_version, 10)


def full_shape(size: tuple[int | None, ...]) -> tuple[int, int, int, int] | None:
    """``size`` where it has four known lengths, else None."""
    if len(size) == 4 and all(length is not None for length in size):
        batch, channels, height, width = (length or 1 for length in size)
        return (batch, channels, height, width)
    return None
