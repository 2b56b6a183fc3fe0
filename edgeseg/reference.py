"""The trained model joined with its spec: a checked module from one NCHW image to NCHW logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseg.errors import ModelError, SpecError
from edgeseg.facts import declared_input
from edgeseg.model import Model
from edgeseg.outputs import logits_layout, select_output
from edgeseg.spec import InputSpec, Layout, ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["nchw_shape", "reference_module"]


def nchw_shape(spec: InputSpec) -> tuple[int, int, int, int]:
    """The input's shape in NCHW order, whatever order the PyTorch model takes."""
    return (1, spec.channels, spec.height, spec.width)


def reference_module(model: Model, spec: ModelSpec) -> tuple[torch.nn.Module, tuple[int, int, int, int]]:
    """The network as a module from float32 (1, C, H, W) to float32 (1, C, h, w), run once on zeros.

    Returns:
        The module, and the shape of its output.

    Raises:
        ModelError: the model has no PyTorch network, or its logits cannot be told from its other outputs.
        SpecError: the model refuses the input that the spec describes, or its output does not fit the spec.
    """
    import torch

    what = str(model.path)
    declared = declared_input(model)
    if declared is not None and declared.shape is not None and declared.shape != spec.input.shape:
        raise SpecError(
            f"{what} was exported for an input of shape {declared.shape}, but edgeseg.toml says {spec.input.shape}.",
            hint="Write the file's own shape under [input], or export the model for the other size.",
        )
    network = model.module()
    try:
        with torch.inference_mode():
            returned = network(torch.zeros(spec.input.shape))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, KeyError) as error:
        raise SpecError(
            f"{what} refuses an input of shape {spec.input.shape} ({spec.input.layout}): {_last_line(error)}",
            hint="Correct 'shape' and 'layout' under [input] in edgeseg.toml.",
        ) from error
    shape = tuple(select_output(returned, model.output_name, what=what).shape)
    if len(shape) != 4:
        raise ModelError(
            f"{what} gives logits of shape {shape}; four dimensions are needed (batch, channels, height, width).",
            hint="Choose another output with --output-name, or wrap the model.",
        )
    layout = logits_layout(shape, spec, what=what)
    module = model.logits(input_layout=spec.input.layout, output_layout=layout)
    batch, first, second, third = shape
    return module, (batch, first, second, third) if layout is Layout.NCHW else (batch, third, first, second)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
