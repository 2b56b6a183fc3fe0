"""Where two graphs part: the tensors they share by name, compared on one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.graph import Format, Graph
from edgeseg.session import Float32, ModelInput

__all__ = ["tensor_errors", "worst_tensor"]

Array = npt.NDArray[np.generic]

_PARTED_DB = 20.0


def worst_tensor(before: Graph, after: Graph, image: ModelInput) -> str:
    """One sentence for an error message: the first shared tensor whose values differ; empty where none is shared."""
    errors = tensor_errors(before, after, image)
    bad = [(name, snr) for name, snr in errors.items() if snr < _PARTED_DB]
    if not errors:
        return ""
    if not bad:
        return f" All {len(errors)} tensors that both graphs name agree; the difference arises at the output."
    name, snr = bad[0]
    return f" The first tensor that differs is '{name}' ({snr:.1f} dB; {len(bad)} of {len(errors)} shared tensors differ)."


def tensor_errors(before: Graph, after: Graph, image: ModelInput) -> dict[str, float]:
    """Signal-to-noise ratio, dB, of every float tensor that both graphs name, in execution order; inf where equal.

    A tensor held channels last in one graph and channels first in the other is compared element by element all the same; in any
    other order of its axes, as the sorted list of its values.
    """
    reference, candidate = _values(before, image), _values(after, image)
    return {name: _snr(reference[name], candidate[name]) for name in reference if name in candidate}


def _values(graph: Graph, image: ModelInput) -> dict[str, Float32]:
    return _onnx_values(graph.path, image) if graph.format is Format.ONNX else _tflite_values(graph.path, image)


def _onnx_values(path: Path, image: ModelInput) -> dict[str, Float32]:
    import onnx

    from edgeseg.onnxgraph.statistics import open_model

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {value.name for value in model.graph.value_info}
    produced = [name for node in model.graph.node for name in node.output if name in known]
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in produced if name not in shown)
    session = open_model(model)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: image.values})
    found = dict(zip(names, values, strict=True))
    return _float_only({name: found[name] for node in model.graph.node for name in node.output if name in found})


def _tflite_values(path: Path, image: ModelInput) -> dict[str, Float32]:
    from edgeseg.tflite.flatbuffer import read
    from edgeseg.tflite.runtime import LoadedGraph

    graph = read(path)
    exposed = graph.copy()
    computed = [name for op in graph.ops for name in op.outputs if graph.tensors[name].dtype in {"float32", "int8"}]
    exposed.outputs = tuple(dict.fromkeys((*graph.outputs, *computed)))
    values: dict[str, Array] = {}
    with LoadedGraph(exposed) as loaded:
        loaded.feed(np.ascontiguousarray(image.values.transpose(0, 2, 3, 1)))
        loaded.invoke()
        for name in exposed.outputs:
            found, quant = np.array(loaded.view(name)), graph.tensors[name].quant
            if quant is not None and len(quant.scale) == 1:
                found = found.astype(np.float32) - np.float32(quant.zero_point[0])
                found *= np.float32(quant.scale[0])
            values[name] = found
    return _float_only(values)


def _float_only(values: Mapping[str, Array]) -> dict[str, Float32]:
    return {name: value.astype(np.float32) for name, value in values.items() if value.dtype == np.float32}


def _snr(reference: Float32, candidate: Float32) -> float:
    if reference.shape != candidate.shape:
        if reference.ndim == 4 and candidate.ndim == 4 and reference.transpose(0, 2, 3, 1).shape == candidate.shape:
            reference = reference.transpose(0, 2, 3, 1)
        elif reference.size == candidate.size:
            reference = np.sort(reference.ravel())
            candidate = np.sort(candidate.ravel())
        else:
            return -math.inf
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
