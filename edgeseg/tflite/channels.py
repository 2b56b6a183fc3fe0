"""Which channels of which tensors must be scaled by one factor so that a graph computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.rewrite import channel_vector

__all__ = ["ChannelTies", "Float64", "gains", "scales_weights"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_LINEAR = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}  # to the bias' position
_HOMOGENEOUS = {0, 1}  # fused activations NONE and RELU let positive factors through
_ALONG = {
    "AVERAGE_POOL_2D",
    "LEAKY_RELU",
    "MAX_POOL_2D",
    "MIRROR_PAD",
    "PRELU",
    "RELU",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
}


def scales_weights(graph: TfGraph, op: TfOp) -> bool:
    """Whether ``op`` is a convolution or product with constant weights and bias, which take factors on both sides."""
    if op.kind not in _LINEAR or graph.tensors[op.id].dtype != "float32":
        return False
    if (
        op.kind == "FULLY_CONNECTED"
        and graph.tensors[str(op.inputs[0])].shape[-1] != graph.tensors[str(op.inputs[1])].shape[-1]
    ):
        return False  # it flattens several axes: its columns are no channels
    if graph.is_constant(str(op.inputs[2] if op.kind == "TRANSPOSE_CONV" else op.inputs[0])):
        return False
    fixed = [op.inputs[1], *op.inputs[_LINEAR[op.kind] :]]
    return all(graph.is_constant(name) for name in fixed if name is not None)


def gains(graph: TfGraph, op: TfOp) -> int | None:
    """The position of the constant, where ``op`` multiplies each channel by one, which takes factors on both sides: the gain of
    a batch norm that was not folded. None for everything else.

    It has its values along the last axis only, or is a single one; the output has the channels of the other operand.
    """
    if op.kind != "MUL" or graph.tensors[op.id].dtype != "float32" or not graph.tensors[op.id].shape:
        return None
    constants = [i for i, name in enumerate(op.inputs) if graph.is_constant(str(name))]
    if len(constants) != 1:
        return None
    data, source = graph.tensors[str(op.inputs[constants[0]])], graph.tensors[str(op.inputs[1 - constants[0]])]
    channels = graph.tensors[op.id].shape[-1]
    whole = not source.shape or source.shape[-1] != channels or len(data.shape) > len(source.shape)
    if whole or channel_vector(data.data, source.shape) is None:
        return None
    return constants[0]


class ChannelTies:
    """Channels are the indices of a float activation's last axis. Each has a slot; tied ones share a root.

    A pinned channel keeps its scale: inputs and outputs of the graph, and what operators without this symmetry touch.
    """

    def __init__(self, graph: TfGraph) -> None:
        self._graph = graph
        names = (*graph.inputs, *(name for op in graph.ops for name in op.outputs))
        self._start: dict[str, int] = {}
        self.size = 0
        for name in names:
            tensor = graph.tensors[name]
            if tensor.dtype == "float32" and tensor.shape:
                self._start[name] = self.size
                self.size += tensor.shape[-1]
        self._parent: Int64 = np.arange(self.size)
        self._fixed: set[int] = set()
        for name in (*graph.inputs, *graph.outputs):
            self.pin(name)
        for op in graph.ops:
            self._tie_operator(op)

    def slots(self, name: str) -> Int64:
        """int64 (C,)."""
        start = self._start[name]
        return np.arange(start, start + self._graph.tensors[name].shape[-1])

    def groups(self, name: str) -> Int64:
        """Roots of a tensor's channels; int64 (C,)."""
        return self.roots()[self.slots(name)]

    def members(self) -> Iterator[tuple[str, Int64]]:
        """Every tensor with its slots."""
        for name in self._start:
            yield name, self.slots(name)

    def roots(self) -> Int64:
        while True:
            higher = self._parent[self._parent]
            if np.array_equal(higher, self._parent):
                return self._parent
            self._parent = higher

    def pinned(self) -> Int64:
        """Roots of groups with a pinned channel."""
        return np.unique(self.roots()[sorted(self._fixed)]) if self._fixed else np.zeros(0, np.int64)

    def pin(self, name: str) -> None:
        if name in self._start:
            self._fixed.update(self.slots(name).tolist())

    def _tie(self, left: Int64, right: Int64) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            one, two = self._root(a), self._root(b)
            if one != two:
                self._parent[max(one, two)] = min(one, two)

    def _root(self, slot: int) -> int:
        while self._parent[slot] != slot:
            self._parent[slot] = self._parent[self._parent[slot]]
            slot = int(self._parent[slot])
        return slot

    def _tie_operator(self, op: TfOp) -> None:
        if op.options.get("fusedActivationFunction", 0) not in _HOMOGENEOUS:
            self.pin(op.id)
        if scales_weights(self._graph, op) or gains(self._graph, op) is not None:
            return
        if not self._carries(op):
            for name in (*op.inputs, *op.outputs):
                if name is not None:
                    self.pin(name)

    def _carries(self, op: TfOp) -> bool:
        """Tie the channels that ``op`` carries through; False where it has no such symmetry, or none that is known."""
        shape = self._shape
        data = [str(name) for name in op.inputs if name in self._start]
        if op.kind == "SPLIT":
            return self._split(op)
        if len(op.outputs) != 1 or op.id not in self._start or not data:
            return False
        rank, last = len(shape(op.id)), shape(op.id)[-1]
        match op.kind:
            case kind if kind in _ALONG:
                pass
            case "ADD" | "SUB":
                others = [name for name in op.inputs if name is not None and name not in self._start]
                if any(shape(name)[-1] != last for name in data) or len(others) > 1:
                    return False
            case "MAXIMUM" | "MINIMUM":
                if len(data) != len(op.inputs):
                    return False
            case "CONCATENATION":
                if cast(int, op.options.get("axis", 0)) % rank == rank - 1:
                    if len(data) != len(op.inputs):
                        return False
                    self._tie(np.concatenate([self.slots(name) for name in data]), self.slots(op.id))
                    return True
            case "PAD":
                pads = self._graph.tensors[str(op.inputs[1])].data
                if pads is None or pads[-1].any():
                    return False
            case "MEAN" | "SUM":
                axes = self._graph.tensors[str(op.inputs[1])].data
                whole = len(shape(data[0]))
                if axes is None or whole - 1 in {int(axis) % whole for axis in axes.reshape(-1)}:
                    return False
            case "TRANSPOSE":
                order = self._graph.tensors[str(op.inputs[1])].data
                if order is None or int(order.reshape(-1)[-1]) != rank - 1:
                    return False
            case "RESHAPE":
                if shape(data[0])[-1] != last:
                    return False
            case "SLICE":
                begin = self._graph.tensors[str(op.inputs[1])].data
                if begin is None:
                    return False
                first = int(begin.reshape(-1)[-1])
                self._tie(self.slots(data[0])[first : first + last], self.slots(op.id))
                return True
            case "DEPTH_TO_SPACE":
                block = cast(int, op.options["blockSize"])
                self._tie(self.slots(data[0]), np.tile(self.slots(op.id), block * block))
                return True
            case _:
                return False
        if any(shape(name)[-1] != last for name in data):
            return False
        for name in data:
            self._tie(self.slots(name), self.slots(op.id))
        return True

    def _split(self, op: TfOp) -> bool:
        axis, source = self._graph.tensors[str(op.inputs[0])].data, str(op.inputs[1])
        if axis is None or source not in self._start:
            return False
        rank = len(self._shape(source))
        parts = [self.slots(name) for name in op.outputs]
        along = int(axis.reshape(-1)[0]) % rank == rank - 1
        for left, right in [(np.concatenate(parts), self.slots(source))] if along else [(p, self.slots(source)) for p in parts]:
            self._tie(left, right)
        return True

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._graph.tensors[name].shape
