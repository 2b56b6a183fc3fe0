"""What every graph pass needs: who makes and reads a tensor, and replacing one operator by several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.tflite.builder import OPTIONS_TYPES, GraphBuilder
from edgeseg.tflite.graph import Array, OptionValue, TfGraph, TfOp

__all__ = ["POINTWISE", "Float64", "Rewriter", "channel_vector", "prune"]

Float64 = npt.NDArray[np.float64]

POINTWISE: Mapping[str, OptionValue] = {
    "padding": 1,
    "strideW": 1,
    "strideH": 1,
    "dilationWFactor": 1,
    "dilationHFactor": 1,
}
"""Options of a convolution with a 1x1 kernel."""


class Rewriter:
    """Edits a copy of a graph. Look-ups show the graph as it was given; ``finish`` gives it with all replacements made.

    An operator may be replaced once; a pass that meets its own results runs again.
    """

    def __init__(self, graph: TfGraph) -> None:
        self.before = graph
        self._build = GraphBuilder(graph.copy())
        self._producers = graph.producers()
        self._consumers = graph.consumers()
        self._replaced: dict[str, list[TfOp]] = {}
        self.count = 0

    def producer(self, name: str | None) -> TfOp | None:
        return self._producers.get(name) if name is not None else None

    def readers(self, name: str) -> list[TfOp]:
        return self._consumers.get(name, [])

    def only_reader(self, name: str) -> TfOp | None:
        """The operator that alone reads ``name``, once; None where others do or it is an output."""
        readers = self.readers(name)
        once = len(readers) == 1 and readers[0].inputs.count(name) == 1
        return readers[0] if once and name not in self.before.outputs else None

    def data(self, name: str | None) -> Array | None:
        """A constant's values, None for everything else."""
        return None if name is None or name not in self.before.tensors else self.before.tensors[name].data

    def shape(self, name: str) -> tuple[int, ...]:
        return self._build.graph.tensors[name].shape

    def untouched(self, *ops: TfOp) -> bool:
        """Whether none of the operators has been replaced yet."""
        return not any(op.id in self._replaced for op in ops)

    def constant(self, base: str, data: npt.ArrayLike, dtype: str = "float32") -> str:
        return self._build.constant(base, np.ascontiguousarray(data, dtype))

    def tensor(self, base: str, shape: Sequence[int], dtype: str = "float32") -> str:
        return self._build.tensor(base, shape, dtype)

    def op(
        self, kind: str, inputs: Sequence[str | None], output: str, options: Mapping[str, OptionValue] | None = None
    ) -> TfOp:
        """An operator that writes an existing tensor; place it with ``replace``."""
        return TfOp(kind, tuple(inputs), (output,), dict(options or {}), OPTIONS_TYPES.get(kind, ""))

    def replace(self, old: TfOp, *new: TfOp) -> None:
        """Put operators where ``old`` is; none removes it."""
        self._replaced[old.id] = list(new)

    def done(self) -> None:
        """Count one place changed."""
        self.count += 1

    def finish(self) -> tuple[TfGraph, int]:
        graph = self._build.graph
        if not self.count:
            return self.before, 0
        graph.ops = [new for op in graph.ops for new in self._replaced.get(op.id, [op])]
        prune(graph)
        return graph, self.count


def prune(graph: TfGraph) -> None:
    """Remove operators whose results nobody reads, and tensors that no operator names; in place."""
    wanted = set(graph.outputs)
    kept: list[TfOp] = []
    for op in reversed(graph.ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(name for name in op.inputs if name is not None)
    graph.ops = kept[::-1]
    named = wanted.union(graph.inputs, *(op.outputs for op in kept))
    graph.tensors = {name: tensor for name, tensor in graph.tensors.items() if name in named}


def channel_vector(data: Array | None, shape: Sequence[int]) -> Float64 | None:
    """A constant that broadcasts along the last axis only, as float64 (C,); None where it varies along another axis."""
    if data is None or data.dtype.kind != "f" or not shape:
        return None
    channels = shape[-1]
    if data.size == 1:
        return np.full(channels, float(data.reshape(-1)[0]))
    if data.ndim and data.ndim <= len(shape) and data.size == data.shape[-1] == channels:
        return data.reshape(-1).astype(np.float64)
    return None
