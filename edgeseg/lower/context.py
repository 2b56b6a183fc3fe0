"""The state of one lowering, and the registry of rules.

A rule lowers one ONNX operator: it reads its inputs in the stored order it needs, and defines its outputs in the order it
makes. An order that does not exist yet is made on demand (a TRANSPOSE, or a RESHAPE where only axes of size 1 move) and
kept, so nothing is transposed that nobody asked for, and nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from edgeseg.lower.layout import NHWC, Perm, identity, merged_runs, normal_axis, permuted, signature, tag
from edgeseg.lower.source import Node, Shape, Source
from edgeseg.tflite.graph import Array, OptionValue, TfGraph, TfOp, TfTensor

__all__ = ["RULES", "Lowering", "Refused", "Rule", "lowers", "trailing"]

_TYPES = {"float32", "int8", "uint8", "int16", "int32", "int64", "bool"}

_SHARED = 4096
"""Elements of a constant that is compared with others; the file holds equal bytes once in any case."""

_MOST_AXES = 6
"""Of a TRANSPOSE."""

_FIRST_VERSION = {"BROADCAST_TO": 2}
"""Operators whose version 1 no runtime registers."""


class Refused(Exception):
    """A rule cannot express its node exactly; the message says why."""


Rule: TypeAlias = Callable[["Lowering", Node], None]

RULES: dict[str, Rule] = {}


def lowers(*ops: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of ONNX operators (``Domain.Op`` outside the default domain)."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            RULES[op] = rule
        return rule

    return register


class Lowering:
    """One ONNX graph on its way to TFLite."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.graph = TfGraph({}, [], (), ())
        self.consumers = source.consumers()
        self._stored: dict[str, dict[Perm, str]] = {}
        self._steps: set[str] = set()
        self._constants: dict[tuple[str, Shape, bytes], str] = {}

    # -- what is known about ONNX tensors

    def shape(self, name: str) -> Shape:
        return self.source.shapes[name]

    def rank(self, name: str) -> int:
        return len(self.source.shapes[name])

    def dtype(self, name: str) -> str:
        return self.source.dtypes[name]

    def constant(self, name: str) -> Array | None:
        """The value of a constant in ONNX order, None for an activation or an absent input."""
        return self.source.constants.get(name)

    def known(self, name: str, what: str) -> Array:
        """The value of an input that must be constant."""
        value = self.constant(name)
        if value is None:
            raise Refused(f"its {what} is not constant")
        return value

    def setting(self, node: Node, attr: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that older opsets keep in an attribute and newer ones in an input."""
        if attr in node.attrs:
            single = node.attrs[attr]
            return (int(single),) if isinstance(single, int) else node.integers(attr)
        name = node.input(index)
        return tuple(int(item) for item in self.known(name, attr).reshape(-1)) if name else None

    def order(self, name: str) -> Perm:
        """The order a tensor is primarily stored in."""
        orders = self._stored.get(name)
        return next(iter(orders)) if orders else identity(self.rank(name))

    def orders(self, name: str) -> tuple[Perm, ...]:
        return tuple(self._stored.get(name, ()))

    def lies_as(self, name: str, perm: Perm) -> bool:
        """Whether the bytes of ``name`` exist in the order ``perm``: reading it so transposes nothing."""
        wanted = signature(self.shape(name), perm)
        return any(signature(self.shape(name), other) == wanted for other in self.orders(name))

    def position(self, perm: Perm, axis: int) -> int:
        """Where an ONNX axis (counted from either end) is stored."""
        return perm.index(normal_axis(axis, len(perm)))

    # -- tensors

    def unique(self, name: str) -> str:
        if name not in self.graph.tensors:
            return name
        count = 1
        while f"{name}:{count}" in self.graph.tensors:
            count += 1
        return f"{name}:{count}"

    def _add(self, name: str, shape: Sequence[int], dtype: str, data: Array | None = None) -> str:
        if dtype not in _TYPES:
            raise Refused(f"element type {dtype} has no kernels")
        tensor = TfTensor(self.unique(name), tuple(shape), dtype, data)
        self.graph.tensors[tensor.name] = tensor
        return tensor.name

    def value(self, array: Array, name: str) -> str:
        """A constant tensor; equal small constants of one name are made once."""
        array = np.asarray(array, order="C")
        if array.size > _SHARED:
            return self._add(name, array.shape, array.dtype.name, array)
        key = (name, array.shape, array.dtype.str.encode() + array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._add(name, array.shape, array.dtype.name, array)
        return self._constants[key]

    def index(self, values: Sequence[int] | Sequence[Sequence[int]]) -> str:
        """A constant int32 tensor for shapes, axes and paddings."""
        array = np.asarray(values, np.int32)
        return self.value(array, "const/" + "x".join(map(str, array.reshape(-1).tolist()))[:60])

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.value(np.asarray(value, np.float32), f"const/{value:.9g}")

    def define(self, name: str, perm: Perm) -> str:
        """Declares the TFLite tensor that holds the ONNX tensor ``name`` in the order ``perm``."""
        shape = permuted(self.shape(name), perm)
        orders = self._stored.setdefault(name, {})
        orders[perm] = self._add(f"{name}:{tag(perm)}" if orders else name, shape, self.dtype(name))
        return orders[perm]

    def bind(self, name: str, perm: Perm, tensor: str) -> None:
        """States that the ONNX tensor ``name`` in the order ``perm`` is the existing TFLite tensor ``tensor``.

        An intermediate that the last operator made (``step``) takes the ONNX tensor's name.
        """
        last = self.graph.ops[-1] if self.graph.ops else None
        if last is not None and last.outputs == (tensor,) and tensor in self._steps:
            self._steps.discard(tensor)
            made = self.graph.tensors.pop(tensor)
            tensor = self._add(name, made.shape, made.dtype)
            self.graph.ops[-1] = replace(last, outputs=(tensor,))
        self._stored.setdefault(name, {}).setdefault(perm, tensor)

    def view(self, name: str, of: str, axes: Sequence[int]) -> None:
        """``name`` is ``of`` transposed (axis i is axis ``axes[i]`` of it): another view of the same stored tensors."""
        if of in self.source.constants:
            self.source.constants[name] = np.transpose(self.source.constants[of], axes)
        for perm, tensor in self._stored.get(of, {}).items():
            self.bind(name, tuple(list(axes).index(axis) for axis in perm), tensor)

    def read(self, name: str, perm: Perm) -> str:
        """The TFLite tensor that holds ``name`` in the order ``perm``, made where it does not exist."""
        orders = self._stored.setdefault(name, {})
        if perm in orders:
            return orders[perm]
        constant = self.constant(name)
        if constant is not None:
            orders[perm] = self.value(np.transpose(constant, perm), name)
            return orders[perm]
        if not orders:
            raise Refused(f"its input '{name}' could not be lowered")
        shape = self.shape(name)
        stored = permuted(shape, perm)
        wanted = signature(shape, perm)
        same = [(other, tensor) for other, tensor in orders.items() if signature(shape, other) == wanted]
        for other, tensor in same:
            if permuted(shape, other) == stored:
                orders[perm] = tensor
                return tensor
        if same:
            made = self._add(f"{name}:{tag(perm)}", stored, self.dtype(name))
            self.emit("RESHAPE", (same[0][1], self.index(stored)), (made,), "ReshapeOptions", newShape=stored)
        else:
            other, tensor = next(iter(orders.items()))
            made = self._transpose(name, other, perm, tensor)
        orders[perm] = made
        return made

    def _transpose(self, name: str, other: Perm, perm: Perm, tensor: str) -> str:
        """A TRANSPOSE from one stored order to another; beyond the kernel's dimensions, of the axes that part company alone."""
        shape = self.shape(name)
        stored, label = permuted(shape, perm), f"{name}:{tag(perm)}"
        if len(perm) <= _MOST_AXES:
            made = self._add(label, stored, self.dtype(name))
            axes = [other.index(axis) for axis in perm]
            self.emit("TRANSPOSE", (tensor, self.index(axes)), (made,), "TransposeOptions")
            return made
        runs = merged_runs(signature(shape, other), signature(shape, perm))
        if len(runs) > _MOST_AXES:
            raise Refused(f"a transpose of {len(runs)} axes")
        sizes = [math.prod(shape[axis] for axis in run) for run in runs]
        order = sorted(range(len(runs)), key=lambda i: perm.index(runs[i][0]))
        tensor = self.reshape(tensor, sizes, name)
        inputs = (tensor, self.index(order))
        moved = self.step("TRANSPOSE", inputs, name, [sizes[i] for i in order], "TransposeOptions", self.dtype(name))
        return self.reshape(moved, stored, name)

    # -- operators

    def emit(
        self,
        kind: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        table: str = "",
        **options: OptionValue,
    ) -> None:
        version = _FIRST_VERSION.get(kind, 1)
        self.graph.ops.append(TfOp(kind, tuple(inputs), tuple(outputs), options, table, version))

    def step(
        self,
        kind: str,
        inputs: Sequence[str | None],
        near: str,
        shape: Sequence[int],
        table: str = "",
        dtype: str = "float32",
        **options: OptionValue,
    ) -> str:
        """An operator whose output is an intermediate of its own, named after the ONNX tensor ``near``."""
        made = self._add(f"{near}/{kind.lower()}", shape, dtype)
        self._steps.add(made)
        self.emit(kind, inputs, (made,), table, **options)
        return made

    def finish(
        self,
        kind: str,
        inputs: Sequence[str | None],
        name: str,
        perm: Perm,
        table: str = "",
        **options: OptionValue,
    ) -> None:
        """The operator that makes the ONNX tensor ``name`` in the order ``perm``."""
        self.emit(kind, inputs, (self.define(name, perm),), table, **options)

    def reshape(self, tensor: str, shape: Sequence[int], near: str) -> str:
        """A TFLite tensor in another shape; itself where the shape is the same already."""
        held = self.graph.tensors[tensor]
        if held.shape == tuple(shape):
            return tensor
        options: Mapping[str, OptionValue] = {"newShape": tuple(shape)}
        return self.step("RESHAPE", (tensor, self.index(tuple(shape))), near, shape, "ReshapeOptions", held.dtype, **options)

    # -- broadcasting

    def common_order(self, names: Sequence[str], rank: int) -> Perm:
        """The order in which operands of one elementwise operator meet: the one that transposes the fewest elements."""
        moving = [name for name in names if self.constant(name) is None]
        full = [name for name in moving if self.rank(name) == rank]
        candidates = list(dict.fromkeys(perm for name in full for perm in self.orders(name)[:1]))
        if not candidates:
            return identity(rank)
        if len(candidates) == 1:
            return candidates[0]

        def cost(perm: Perm) -> tuple[int, bool]:
            return sum(self._moved(name, perm) for name in moving), perm != (NHWC if rank == 4 else identity(rank))

        return min(candidates, key=cost)

    def _moved(self, name: str, perm: Perm) -> int:
        shape = self.shape(name)
        return 0 if self.lies_as(name, trailing(perm, len(shape))) else math.prod(shape)

    def read_broadcast(self, name: str, perm: Perm) -> str:
        """``name`` for use beside operands stored in ``perm`` (of the same or a higher rank), aligned as ONNX broadcasts."""
        rank, shape = len(perm), self.shape(name)
        lead = rank - len(shape)
        constant = self.constant(name)
        if constant is not None:
            array = np.transpose(constant.reshape((1,) * lead + constant.shape), perm)
            while array.ndim and array.shape[0] == 1:
                array = array.reshape(array.shape[1:])
            return self.value(array, name)
        tensor = self.read(name, trailing(perm, len(shape)))
        full = permuted((1,) * lead + shape, perm)
        if full[lead:] == self.graph.tensors[tensor].shape:
            return tensor
        return self.reshape(tensor, full, name)


def trailing(perm: Perm, rank: int) -> Perm:
    """The order that a tensor of a lower rank has beside one stored in ``perm``.

    >>> trailing((0, 2, 3, 1), 3)
    (1, 2, 0)
    """
    lead = len(perm) - rank
    return tuple(axis - lead for axis in perm if axis >= lead)
