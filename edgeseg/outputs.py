"""Finding the logits in what a model returns, and their layout.

A segmentation model may return a tensor, a dict (torchvision: ``out``, ``aux``), an object with named fields
(Hugging Face: ``logits``) or a tuple. ``as_logits`` makes of any of them a module from one NCHW tensor to one NCHW tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from edgeseg.errors import ModelError, SpecError
from edgeseg.spec import Layout, ModelSpec, OutputKind

if TYPE_CHECKING:
    import torch

__all__ = ["as_logits", "choose_name", "logits_layout", "select_output"]

# Names under which libraries give the main output; anything else beside them is auxiliary.
_MAIN_NAMES = ("out", "logits")


def choose_name(shapes: Mapping[str, tuple[int, ...]], wanted: str | None, *, what: str) -> str:
    """The name of the one output that holds the logits.

    Args:
        shapes: name to shape of every output. Unnamed outputs go by their index.
        wanted: the user's choice (``--output-name``), a name or a position from 0, or None. A name goes first.
        what: the file, for messages.

    Raises:
        ModelError: no output has four dimensions, several have and none was chosen, or the chosen one does not exist.

    >>> choose_name({"out": (1, 21, 64, 64), "aux": (1, 21, 64, 64)}, None, what="m.pt")
    'out'
    >>> choose_name({"out": (1, 21, 64, 64), "aux": (1, 21, 64, 64)}, "1", what="m.pt")
    'aux'
    """
    listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
    if wanted is not None:
        if wanted in shapes:
            return wanted
        if wanted.isdecimal() and int(wanted) < len(shapes):
            return list(shapes)[int(wanted)]
        raise ModelError(f"{what} has no output named '{wanted}'. Its outputs: {listing}.", hint="Choose one of them.")
    images = [name for name, shape in shapes.items() if len(shape) == 4]
    if len(images) == 1:
        return images[0]
    for name in _MAIN_NAMES:
        if name in images:
            return name
    if not images:
        raise ModelError(
            f"{what} gives no output of four dimensions (batch, channels, height, width). Its outputs: {listing}.",
            hint="edgeseg needs one score per class and pixel; wrap the model so that it returns them.",
        )
    raise ModelError(
        f"{what} has {len(images)} outputs that could be the logits: {listing}.",
        hint=f"Say which with --output-name, for example --output-name {images[0]}.",
    )


def select_output(returned: object, wanted: str | None, *, what: str) -> torch.Tensor:
    """The logits among what a PyTorch model returned.

    Raises:
        ModelError: see ``choose_name``.
    """
    tensors = dict(_named_tensors(returned, ""))
    name = choose_name({key: tuple(tensor.shape) for key, tensor in tensors.items()}, wanted, what=what)
    return tensors[name]


def _named_tensors(value: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name or "0", value
        return
    for key, item in _children(value):
        yield from _named_tensors(item, f"{name}.{key}" if name else key)


def _children(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    names = getattr(value, "_fields", None)  # a named tuple
    if isinstance(value, tuple) and names:
        return list(zip(names, value, strict=True))
    if isinstance(value, tuple | list):
        return [(str(index), item) for index, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return []


def as_logits(
    module: torch.nn.Module,
    *,
    what: str,
    output_name: str | None = None,
    input_layout: Layout = Layout.NCHW,
    output_layout: Layout = Layout.NCHW,
) -> torch.nn.Module:
    """A module that takes float32 (1, C, H, W) and returns the logits (1, C, h, w), whatever ``module`` takes and returns."""
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = x.permute(0, 2, 3, 1) if input_layout is Layout.NHWC else x
            logits = select_output(self.inner(given), output_name, what=what)
            return logits.permute(0, 3, 1, 2) if output_layout is Layout.NHWC else logits

    return Logits()


def logits_layout(shape: tuple[int, ...], spec: ModelSpec, *, what: str) -> Layout:
    """The layout of an output of ``shape``, checked against ``spec``.

    The image axes are those that are the input's size divided by the stride (rounded either way); where both readings
    fit, the input's layout decides.

    Raises:
        SpecError: the size is not what the stride says, or the channels do not fit the classes.
    """
    found = [layout for layout in _layouts(spec.input.layout) if _fits(_image_size(shape, layout), spec)]
    if not found:
        height, width = _image_size(shape, spec.input.layout)
        hint = "Correct 'stride' under [output], or 'shape' under [input], in edgeseg.toml."
        stride = round(spec.input.height / max(height, 1))
        if stride > 1 and round(spec.input.width / max(width, 1)) == stride:
            hint = f"Write 'stride = {stride}' under [output] in edgeseg.toml."
        raise SpecError(
            f"{what} gives an output of shape {shape}, which does not fit an input of "
            f"{spec.input.height}x{spec.input.width} with output stride {spec.output.stride}.",
            hint=hint,
        )
    channels = shape[1] if found[0] is Layout.NCHW else shape[3]
    _check_channels(channels, spec, what)
    return found[0]


def _layouts(first: Layout) -> tuple[Layout, Layout]:
    return (first, Layout.NHWC if first is Layout.NCHW else Layout.NCHW)


def _image_size(shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
    return (shape[2], shape[3]) if layout is Layout.NCHW else (shape[1], shape[2])


def _fits(size: tuple[int, int], spec: ModelSpec) -> bool:
    wanted = (spec.input.height, spec.input.width)
    stride = spec.output.stride
    return all(have in (full // stride, -(-full // stride)) for have, full in zip(size, wanted, strict=True))


def _check_channels(channels: int, spec: ModelSpec, what: str) -> None:
    if spec.output.kind is OutputKind.LOGITS:
        if channels < spec.num_classes:
            raise SpecError(
                f"{what} gives {channels} channels, but edgeseg.toml names {spec.num_classes} classes.",
                hint="Name one class a channel under [classes] (a model may have further channels, not fewer), or set "
                "'kind = \"sigmoid\"' under [output] for a single foreground channel.",
            )
    elif channels != 1:
        raise SpecError(
            f"{what} gives {channels} channels, but output kind '{spec.output.kind}' means exactly one.",
            hint="Set 'kind = \"logits\"' under [output] in edgeseg.toml.",
        )
