"""A .tflite or .onnx file without edgeseg.toml: what it says of its own tensors is enough to time it, not to judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgeseg.errors import ModelError, UsageError
from edgeseg.graph import Format
from edgeseg.session import ModelInput, Session, TensorInfo
from edgeseg.spec import Layout

__all__ = ["Untold", "noise_input", "open_untold"]

_INTEGERS = ("int8", "uint8")


@dataclass(frozen=True)
class Untold:
    """``open(threads)`` gives a Session, and can be pickled. ``shape``: of the input, in the file's own order."""

    path: Path
    open: Callable[[int], Session]
    x: ModelInput
    shape: tuple[int, ...]


def open_untold(path: Path, form: Format, *, shape: tuple[int, ...] | None = None, output_name: str | None = None) -> Untold:
    """Find out what the file takes.

    Args:
        shape: of the input, in the file's own order, where the file leaves sizes open.
        output_name: the output to fetch; by default the first.

    Raises:
        ModelError: the runtime refuses the file, or it does not take one image.
        UsageError: the file leaves sizes open and ``shape`` does not tell them, or contradicts it.
    """
    name = output_name or _first_output(path, form)
    with _open(path, form, Layout.NCHW, pixels=False, output_name=name, threads=1) as session:
        tensor = session.info.inputs[0]
    if len(tensor.shape) != 4:
        raise ModelError(
            f"{path} takes an input of shape {tensor.shape}; an image has four dimensions.",
            hint="Give a file that takes one image.",
        )
    size = _size(path, tensor, shape)
    layout = _layout(path, size)
    opener = partial(_open_threads, path, form, layout, tensor.dtype in _INTEGERS, name)
    return Untold(path, opener, noise_input(size, layout), size)


def noise_input(size: tuple[int, ...], layout: Layout) -> ModelInput:
    """Seeded noise: pixels 0..255, and as values in 0..1. ``size``: of the input, in ``layout`` order, batch first."""
    batch, channels, height, width = size if layout is Layout.NCHW else (size[0], size[3], size[1], size[2])
    pixels = np.random.default_rng(0).integers(0, 256, (batch, height, width, channels), np.uint8)
    return ModelInput(pixels, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255))


def _size(path: Path, tensor: TensorInfo, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None and (
        len(given) != 4 or any(have not in (want, -1) for have, want in zip(tensor.shape, given, strict=True))
    ):
        raise UsageError(f"{path} takes {tensor.shape} (-1: left open), not {given}.", hint="Give --shape in the file's order.")
    size = given or tensor.shape
    if size[0] == -1:  # A batch that is left open is one image.
        size = (1, *size[1:])
    if min(size) < 1:
        raise UsageError(
            f"{path} leaves its input's size open: {size}.", hint="Say it in the file's order: --shape 1,3,512,512."
        )
    return size


def _layout(path: Path, size: tuple[int, ...]) -> Layout:
    """Channels are the axis of 1 or 3, or the shorter one: images are larger than they are deep."""
    first, last = size[1], size[3]
    if (first in {1, 3}) != (last in {1, 3}):
        return Layout.NCHW if first in {1, 3} else Layout.NHWC
    if first == last:
        raise ModelError(
            f"{path} takes {size}, which may be read with the channels first or last.",
            hint="Write an edgeseg.toml beside it that says 'layout' under [input].",
        )
    return Layout.NCHW if first < last else Layout.NHWC


def _open_threads(path: Path, form: Format, layout: Layout, pixels: bool, output_name: str, threads: int) -> Session:
    return _open(path, form, layout, pixels=pixels, output_name=output_name, threads=threads)


def _open(path: Path, form: Format, layout: Layout, *, pixels: bool, output_name: str, threads: int) -> Session:
    # NCHW for the output: whatever it holds is fetched as it lies.
    if form is Format.TFLITE:
        from edgeseg.targets.tflite import open_tflite

        return open_tflite(
            path, threads=threads, pixels=pixels, output_layout=Layout.NCHW, output_name=output_name, any_output=True
        )
    from edgeseg.targets.onnx import open_onnx

    return open_onnx(path, threads=threads, pixels=pixels, input_layout=layout, output_name=output_name, any_output=True)


def _first_output(path: Path, form: Format) -> str:
    """What names the first output; the targets themselves ask which of several holds the logits."""
    if form is Format.TFLITE:
        from edgeseg.tflite.runtime import open_interpreter

        return str(open_interpreter(path).get_output_details()[0]["name"])
    from edgeseg.onnxgraph.view import load_model

    return str(load_model(path).graph.output[0].name)
