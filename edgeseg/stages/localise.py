"""Where two graphs part: the tensors they share by name, compared on the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeseg.graph import Format, Graph
from edgeseg.session import Float32, ModelInput, TensorInfo
from edgeseg.spec import Layout
from edgeseg.tensor_io import dequantize, input_array

__all__ = ["TensorError", "tensor_errors", "worst_tensor"]

Array: TypeAlias = npt.NDArray[np.generic]
Float64: TypeAlias = npt.NDArray[np.float64]

_PARTED_DB = 20.0
_LEAST_GAIN = 1.0 / 256.0  # equalisation enlarges a channel no further than this undoes


@dataclass(frozen=True)
class TensorError:
    """One tensor of the later graph against the earlier's.

    Attributes:
        op: the kind of operator that computes it.
        int8: it is held in 8 bits.
        snr_db: ``10 log10(sum(before^2) / sum((before - after)^2))`` over all values of all images; inf where they are equal,
            -inf where they cannot be compared or are not finite.
    """

    op: str
    int8: bool
    snr_db: float


def worst_tensor(before: Graph, after: Graph, images: Sequence[ModelInput]) -> str:
    """One sentence for an error message: the first shared tensor whose values differ; empty where none is shared."""
    errors = tensor_errors(before, after, images)
    bad = [(name, error.snr_db) for name, error in errors.items() if error.snr_db < _PARTED_DB]
    if not errors:
        return ""
    if not bad:
        return f" All {len(errors)} tensors that both graphs name agree; the difference arises at the output."
    name, snr = bad[0]
    return f" The first tensor that differs is '{name}' ({snr:.1f} dB; {len(bad)} of {len(errors)} shared tensors differ)."


def tensor_errors(
    before: Graph, after: Graph, images: Iterable[ModelInput], *, equalised: bool = False
) -> dict[str, TensorError]:
    """Every computed tensor that both graphs name, in the later graph's execution order. Memory holds one image's tensors.

    A tensor held channels last in one graph and channels first in the other is compared element by element all the same; in any
    other order of its axes, as the sorted list of its values.

    Args:
        images: at least one.
        equalised: the later graph's channels may have been enlarged, each by a factor of its own, and made small again later
            (``edgeseg.tflite.equalise``): each channel is compared after the factor, at most 1, that brings it closest.
    """
    first, second = _Runner.of(before), _Runner.of(after)
    channels = None if not equalised else 1 if after.format is Format.ONNX else -1
    sums: dict[str, Float64] = {}
    for image in images:
        reference, candidate = first.run(image), second.run(image)
        for name in second.order:
            if name in reference and name in candidate:
                found = _products(reference[name], candidate[name], channels=channels)
                sums[name] = found if name not in sums or found.shape != sums[name].shape else sums[name] + found
    return {name: TensorError(*second.kinds[name], _decibel(total)) for name, total in sums.items()}


@dataclass(frozen=True)
class _Runner:
    """``run`` gives float tensors by name; ``kinds``: operator and whether it is held in 8 bits, in execution ``order``."""

    run: Callable[[ModelInput], dict[str, Float32]]
    kinds: dict[str, tuple[str, bool]]

    @property
    def order(self) -> list[str]:
        return list(self.kinds)

    @classmethod
    def of(cls, graph: Graph) -> _Runner:
        return _of_onnx(graph.path, graph.pixels) if graph.format is Format.ONNX else _of_tflite(graph.path, graph.pixels)


def _of_onnx(path: Path, pixels: bool) -> _Runner:
    import onnx

    from edgeseg.onnxgraph.statistics import open_model

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    shown = {output.name for output in model.graph.output}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    kinds = {
        name: (node.op_type, node.op_type == "DequantizeLinear" or readers.get(name) == {"QuantizeLinear"})
        for node in model.graph.node
        for name in node.output
        if name in known
    }
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in kinds if name not in shown)
    session = open_model(model)
    source = session.get_inputs()[0]
    dtype = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(source.type, source.type[7:-1])
    target = TensorInfo(source.name, dtype, tuple(source.shape))
    names = [output.name for output in session.get_outputs()]

    def run(image: ModelInput) -> dict[str, Float32]:
        values = session.run(names, {source.name: input_array(image, target, pixels=pixels, layout=Layout.NCHW)})
        return {
            name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True) if value.dtype.kind == "f"
        }

    return _Runner(run, kinds)


def _of_tflite(path: Path, pixels: bool) -> _Runner:
    from edgeseg.tflite.flatbuffer import read
    from edgeseg.tflite.runtime import LoadedGraph

    graph = read(path)
    exposed = graph.copy()
    info: dict[str, TensorInfo] = {}
    kinds: dict[str, tuple[str, bool]] = {}
    for op in graph.ops:
        for name in op.outputs:
            tensor = graph.tensors[name]
            scale, zero = (tensor.quant.scale, tensor.quant.zero_point) if tensor.quant is not None else ((), ())
            if tensor.dtype in {"float32", "float16"} or (tensor.dtype in {"int8", "uint8"} and len(scale) == 1):
                info[name] = TensorInfo(name, tensor.dtype, tensor.shape, scale, zero)
                kinds[name] = (op.kind, tensor.dtype in {"int8", "uint8"})
    exposed.outputs = tuple(dict.fromkeys((*graph.outputs, *kinds)))
    source = graph.tensors[graph.inputs[0]]
    scale, zero = (source.quant.scale, source.quant.zero_point) if source.quant is not None else ((), ())
    target = TensorInfo(source.name, source.dtype, source.shape, scale, zero)
    loaded = LoadedGraph(exposed)

    def run(image: ModelInput) -> dict[str, Float32]:
        channels = image.values.shape[1]
        layout = Layout.NHWC if target.shape[-1] == channels else Layout.NCHW
        loaded.feed(input_array(image, target, pixels=pixels, layout=layout))
        loaded.invoke()
        found: dict[str, Float32] = {}
        for name, tensor in info.items():
            value = np.array(loaded.view(name))
            found[name] = dequantize(value, tensor) if kinds[name][1] else value.astype(np.float32)
        return found

    return _Runner(run, kinds)


def _products(reference: Float32, candidate: Float32, *, channels: int | None) -> Float64:
    """Sums of reference^2, reference * candidate and candidate^2 over each index of the axis ``channels``, float64 (3, C);
    over the whole tensor, (3, 1), where there is none. NaN where the two cannot be compared."""
    if reference.shape != candidate.shape:
        if reference.ndim == 4 and candidate.ndim == 4 and reference.transpose(0, 2, 3, 1).shape == candidate.shape:
            reference = reference.transpose(0, 2, 3, 1)
        elif reference.size == candidate.size:
            reference, candidate = np.sort(reference.ravel()), np.sort(candidate.ravel())
        else:
            return np.full((3, 1), np.nan)
    if channels is None or candidate.ndim < 2:
        a, b = reference.reshape(1, -1), candidate.reshape(1, -1)
    else:
        a, b = (np.moveaxis(side, channels, 0).reshape(candidate.shape[channels], -1) for side in (reference, candidate))
    return np.stack([np.einsum("ci,ci->c", x, y, dtype=np.float64) for x, y in ((a, a), (a, b), (b, b))])


def _decibel(sums: Float64) -> float:
    """Signal over noise. With several channels each is first scaled by the factor in ``_LEAST_GAIN`` .. 1 that fits best."""
    if not np.isfinite(sums).all():
        return -math.inf
    own, cross, other = sums
    gain = np.ones_like(own)
    if own.size > 1:
        np.divide(cross, other, out=gain, where=other > 0)
        gain = np.clip(gain, _LEAST_GAIN, 1.0)
        gain[gain > 1.0 / 1.01] = 1.0
    noise = float(np.maximum(own - 2 * gain * cross + gain**2 * other, 0.0).sum())
    signal = float(own.sum())
    if noise <= 1e-15 * signal:  # below what the sums resolve
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
