"""What a changed tensor does at the network's output: only the operators behind it are run.

The float network runs once per image with every activation kept. A question about one tensor ("what if it were held in int8
with this scale?") then costs a run of the operators between that tensor and the output, half the network on average, and
the part of the graph is loaded once for all questions about the same tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from edgeseg.quantize.plan import TensorQuant
from edgeseg.session import Float32
from edgeseg.tflite.graph import Array, TfGraph, TfOp
from edgeseg.tflite.runtime import Feed, LoadedGraph, workers

__all__ = ["Downstream", "Tail", "rounded"]

_POSITIONS = 16384  # of the output are compared per image


class Downstream:
    """Holds the activations of a float graph on a few images.

    Memory: every activation of every image, float32.

    Args:
        graph: float; its first output is what counts.
        images: at least one, as the graph takes them.
    """

    def __init__(self, graph: TfGraph, images: Sequence[Feed]) -> None:
        self.graph = graph
        computed = [name for op in graph.ops for name in op.outputs]
        exposed = graph.copy()
        exposed.outputs = tuple(dict.fromkeys((*graph.outputs, *computed)))
        self.activations: list[dict[str, Array]] = []
        with LoadedGraph(exposed, threads=workers()) as loaded:
            for image in images:
                fed = loaded.feed(image)
                loaded.invoke()
                self.activations.append(fed | {name: loaded.view(name).copy() for name in computed})
        self._wanted = [_centred(held[graph.outputs[0]]) for held in self.activations]
        self._signal = sum(float(np.vdot(one, one)) for one in self._wanted)

    def tail(self, name: str) -> Tail:
        """The operators behind a tensor, loaded; a context manager."""
        if name == self.graph.outputs[0]:
            return Tail(self, name, _part(self.graph, [], (name,), first=name))
        behind, ops = {name}, list[TfOp]()
        for op in self.graph.ops:
            if any(one in behind for one in op.inputs):
                ops.append(op)
                behind.update(op.outputs)
        if self.graph.outputs[0] not in behind:
            return Tail(self, name, None)  # nothing that is done to it reaches the output
        return Tail(self, name, _part(self.graph, ops, (self.graph.outputs[0],), first=name))

    def run_alone(self, op: TfOp, graph: TfGraph) -> list[Array]:
        """The first output of one operator for each image; ``graph`` holds the constants it reads."""
        with LoadedGraph(_part(graph, [op], (op.id,)), threads=workers()) as loaded:
            found = []
            for held in self.activations:
                loaded.feed(held)
                loaded.invoke()
                found.append(loaded.view(op.id).copy())
        return found

    def noise(self, outputs: Sequence[Array]) -> float:
        """Error power over signal power of changed logits, each pixel's mean over the classes taken off first."""
        error = 0.0
        for found, wanted in zip(outputs, self._wanted, strict=True):
            difference = _centred(found)
            difference -= wanted
            error += float(np.vdot(difference, difference))
        return error / self._signal if math.isfinite(error) and self._signal else math.inf


@dataclass
class Tail:
    """See ``Downstream.tail``."""

    _source: Downstream
    _name: str
    _part: TfGraph | None

    def __enter__(self) -> Self:
        # A tensor that is the output itself has no operators behind it.
        self._loaded = LoadedGraph(self._part, threads=workers()) if self._part is not None and self._part.ops else None
        return self

    def __exit__(self, *_: object) -> None:
        self._loaded = None

    def noise(self, change: Callable[[int, Array], Array]) -> float:
        """Noise at the output when the tensor becomes ``change(image's index, float values)`` on each image."""
        if self._part is None:
            return 0.0
        outputs = []
        for index, held in enumerate(self._source.activations):
            changed = change(index, held[self._name])
            if self._loaded is None:
                outputs.append(changed)
                continue
            self._loaded.feed({**held, self._name: changed})
            self._loaded.invoke()
            outputs.append(self._loaded.view(self._part.outputs[0]).copy())
        return self._source.noise(outputs)


def rounded(values: Array, quant: TensorQuant) -> Float32:
    """Real values as a per-tensor quantization holds them."""
    limits = np.iinfo(quant.dtype)
    scale, zero = np.float32(quant.scale[0]), quant.zero_point[0]
    held: Float32 = np.rint(np.asarray(values, np.float32) / scale)
    np.clip(held, limits.min - zero, limits.max - zero, out=held)
    held *= scale
    return held


def _part(graph: TfGraph, ops: list[TfOp], outputs: tuple[str, ...], *, first: str | None = None) -> TfGraph:
    """Some operators as a graph of their own; the activations that they read and do not make become inputs."""
    made = {name for op in ops for name in op.outputs}
    read = [name for op in ops for name in op.inputs if name is not None]
    wanted = [first, *read] if first is not None else read
    inputs = tuple(dict.fromkeys(name for name in wanted if not graph.is_constant(name) and name not in made))
    names = {*made, *read, *inputs}
    return TfGraph({name: graph.tensors[name] for name in names}, ops, inputs, outputs)


def _centred(logits: Array) -> Float32:
    """Some positions of the logits, evenly spread, each position's mean over the last axis taken off; float32 (n, C)."""
    flat = logits.reshape(-1, logits.shape[-1])
    stride = max(1, flat.shape[0] // _POSITIONS)
    while math.gcd(stride, flat.shape[0]) > 1:  # so that it visits all rows and columns alike
        stride += 1
    some: Float32 = np.array(flat[::stride], np.float32)
    if some.shape[1] > 1:
        some -= some.mean(axis=1, keepdims=True)
    return some
