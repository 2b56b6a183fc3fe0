"""Folds the input normalisation into the first operators, so that the file takes the image's own pixels.

Quantizing a normalised input rounds every pixel once more; taking pixels as they are loses nothing: the int8 input is
``pixel - 128`` at scale 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.errors import StageError
from edgeseg.quantize.plan import TensorQuant
from edgeseg.session import Float32, UInt8
from edgeseg.spec import PreprocessSpec
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.graph import TfGraph, TfOp

__all__ = ["Normalisation", "PixelInput", "fold_input_normalisation"]

Float64: TypeAlias = npt.NDArray[np.float64]

_STAGE = "fold_pixels"
_FOLDABLE = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}  # kind to the axis of the output channels
_LEVELS = 255


@dataclass(frozen=True)
class Normalisation:
    """``value = gain * pixel + offset`` for pixels 0..255, one gain and offset a channel."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def of(cls, spec: PreprocessSpec, channels: int) -> Normalisation:
        """From ``(pixel * scale - mean) / std * post_scale``; one mean or std stands for all channels.

        >>> Normalisation.of(PreprocessSpec(mean=(0.5,), std=(0.5,)), 1).offset
        (-1.0,)
        """
        mean = np.broadcast_to(np.asarray(spec.mean, np.float64), (channels,))
        std = np.broadcast_to(np.asarray(spec.std, np.float64), (channels,))
        gain = spec.scale / std * spec.post_scale
        return cls(tuple(gain.tolist()), tuple((-mean / std * spec.post_scale).tolist()))


@dataclass(frozen=True)
class PixelInput:
    """What the folded graph's input means: ``pixel - zero``, where ``zero`` is the pixel that comes nearest to a normalised 0.

    Zero padding in the first operators pads with this pixel, which is exact only where every channel has the same mean, and
    that an integer. ``residual`` is what a padded position holds instead of 0, in normalised units, at worst over channels;
    inside the image the fold is exact.
    """

    zero: int
    residual: float

    def feed(self, pixels: UInt8) -> Float32:
        """Pixels uint8 of any shape to the values that the folded float graph takes."""
        return np.asarray(pixels.astype(np.float32) - np.float32(self.zero), np.float32)

    def quant(self) -> TensorQuant:
        """The input's entry in a plan: int8 = pixel - 128 (uint8 = pixel), exactly."""
        return TensorQuant(
            scale=(1.0,),
            zero_point=(self.zero - 128,),
            low=float(-self.zero),
            high=float(_LEVELS - self.zero),
            estimator="pixels",
        )


def fold_input_normalisation(graph: TfGraph, norm: Normalisation) -> tuple[TfGraph, PixelInput]:
    """Rewrite a graph that takes normalised values into one that takes pixels minus a constant.

    Convolutions that read the input (directly, or behind a zero PAD) take the gain into their weights and the offset into
    their bias. For other readers one depthwise 1x1 convolution normalises, exactly; all of them share it.

    Args:
        graph: float, with one input of shape (1, H, W, C); not changed.
        norm: as many channels as the input.

    Raises:
        StageError: another number of inputs, another shape or number of channels.
    """
    graph = graph.copy()
    shape = graph.tensors[graph.inputs[0]].shape if len(graph.inputs) == 1 else ()
    if len(shape) != 4 or shape[3] != len(norm.gain):
        raise StageError(
            f"pixels can be folded into one input of shape (1, H, W, {len(norm.gain)}); the graph has "
            f"{len(graph.inputs)} and the first is {list(shape)}.",
            hint="Compile with normalised input (--io float32).",
            stage=_STAGE,
        )
    gain, offset = np.asarray(norm.gain), np.asarray(norm.offset)
    zero = _zero_pixel(gain, offset)
    rest = gain * zero + offset
    folder = _Folder(graph, gain, rest)
    folder.run()
    return graph, PixelInput(zero, float(np.abs(rest).max()))


def _zero_pixel(gain: Float64, offset: Float64) -> int:
    """The pixel with the least squared distance from 0 after normalising."""
    best = -float((gain * offset).sum() / np.square(gain).sum())
    return int(np.clip(round(best), 0, _LEVELS))


class _Folder:
    def __init__(self, graph: TfGraph, gain: Float64, rest: Float64) -> None:
        self._graph = graph
        self._build = GraphBuilder(graph)
        self._gain = gain
        self._rest = rest
        self._consumers = graph.consumers()
        self._folded: dict[str, TfOp] = {}

    def run(self) -> None:
        name = self._graph.inputs[0]
        direct = [op for op in self._consumers.get(name, []) if self._foldable(op, name)]
        for op in direct:
            self._fold(op)
        others = {op.id for op in self._consumers.get(name, [])} - {op.id for op in direct}
        ops = [self._folded.get(op.id, op) for op in self._graph.ops]
        if others or name in self._graph.outputs:
            normalised = self._normaliser(name)
            ops = [_redirected(op, name, normalised.outputs[0]) if op.id in others else op for op in ops]
            ops.insert(0, normalised)
            self._graph.outputs = tuple(normalised.outputs[0] if out == name else out for out in self._graph.outputs)
        self._graph.ops = ops

    def _foldable(self, op: TfOp, source: str) -> bool:
        """A convolution over all input channels, or a zero padding of the picture that only such convolutions read."""
        if op.inputs[0] != source or list(op.inputs).count(source) != 1:
            return False
        if op.kind == "PAD":
            pads = self._graph.tensors[str(op.inputs[1])].data
            readers = self._consumers.get(op.id, [])
            spatial = pads is not None and not pads[3].any() and op.id not in self._graph.outputs
            return spatial and bool(readers) and all(self._foldable(reader, op.id) for reader in readers)
        if op.kind not in _FOLDABLE or not all(self._graph.is_constant(str(name)) for name in op.inputs[1:] if name):
            return False
        weights = self._graph.tensors[str(op.inputs[1])]
        return weights.dtype == "float32" and (op.kind != "CONV_2D" or weights.shape[3] == self._gain.size)

    def _fold(self, op: TfOp) -> None:
        if op.kind == "PAD":
            for reader in self._consumers[op.id]:
                self._fold(reader)
            return
        stored = self._graph.tensors[str(op.inputs[1])].data
        assert stored is not None
        weights = np.asarray(stored, np.float64)
        has_bias = len(op.inputs) > 2 and op.inputs[2] is not None
        bias = self._graph.tensors[str(op.inputs[2])].data if has_bias else None
        if op.kind == "CONV_2D":
            scaled = weights * self._gain
            shift = (weights * self._rest).sum(axis=(1, 2, 3))
        else:
            multiplier = weights.shape[3] // self._gain.size
            scaled = weights * np.repeat(self._gain, multiplier)
            shift = (weights * np.repeat(self._rest, multiplier)).sum(axis=(0, 1, 2))
        whole = shift if bias is None else np.asarray(bias, np.float64) + shift
        self._folded[op.id] = replace(
            op,
            inputs=(
                op.inputs[0],
                self._build.constant(f"{op.inputs[1]}_pixels", scaled.astype(np.float32)),
                self._build.constant(f"{op.id}_bias_pixels", whole.astype(np.float32)),
            ),
        )

    def _normaliser(self, name: str) -> TfOp:
        channels = self._gain.size
        weights = self._build.constant(f"{name}_gain", self._gain.astype(np.float32).reshape(1, 1, 1, channels))
        bias = self._build.constant(f"{name}_offset", self._rest.astype(np.float32))
        made = self._build.tensor(f"{name}_normalised", self._graph.tensors[name].shape)
        options = {
            "padding": 1,
            "strideW": 1,
            "strideH": 1,
            "depthMultiplier": 1,
            "dilationWFactor": 1,
            "dilationHFactor": 1,
        }
        return TfOp("DEPTHWISE_CONV_2D", (name, weights, bias), (made,), options, "DepthwiseConv2DOptions")


def _redirected(op: TfOp, old: str, new: str) -> TfOp:
    inputs: Sequence[str | None] = [new if name == old else name for name in op.inputs]
    return op.with_inputs(*inputs)
