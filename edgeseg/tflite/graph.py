"""The typed TFLite graph that passes and the quantizer work on.

One subgraph, static shapes, batch 1, single-assignment: every tensor is a graph input, a constant, or the output of exactly
one operator, and its name is unique. ``edgeseg.tflite.flatbuffer`` reads it from and writes it to a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "OptionValue", "Quant", "TfGraph", "TfOp", "TfTensor"]

Array: TypeAlias = npt.NDArray[np.generic]
OptionValue: TypeAlias = int | float | bool | str | tuple[int, ...]


@dataclass(frozen=True)
class Quant:
    """``real = scale * (q - zero_point)``; one entry, or one per index of ``axis``."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True)
class TfTensor:
    """``dtype`` is numpy's name (``float32``, ``int8``, ``int32``, ``bool`` ...). ``data`` is set for constants only."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None = field(default=None, compare=False)
    quant: Quant | None = None


@dataclass(frozen=True)
class TfOp:
    """One operator. ``kind`` is the schema's builtin name (``CONV_2D``), or a custom operator's own name.

    ``options`` holds the fields of the schema's options table by their schema names (``strideH``, ``padding``,
    ``fusedActivationFunction`` ...), enumerations as integers; ``options_type`` is the name of that table
    (``Conv2DOptions``), empty where the operator has none. An absent optional input is ``None``.
    """

    kind: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    options_type: str = ""
    version: int = 1
    custom_options: bytes = b""

    @property
    def id(self) -> str:
        """The operator's identity: the name of its first output."""
        return self.outputs[0]

    def with_inputs(self, *inputs: str | None) -> TfOp:
        return replace(self, inputs=tuple(inputs))


@dataclass
class TfGraph:
    """``ops`` are in execution order. Mutable while a pass builds it; stages pass it on by file."""

    tensors: dict[str, TfTensor]
    ops: list[TfOp]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def producers(self) -> dict[str, TfOp]:
        """Tensor name to the operator that computes it."""
        return {name: op for op in self.ops for name in op.outputs}

    def consumers(self) -> dict[str, list[TfOp]]:
        """Tensor name to the operators that read it, in execution order."""
        found: dict[str, list[TfOp]] = {}
        for op in self.ops:
            for name in op.inputs:
                if name is not None:
                    found.setdefault(name, []).append(op)
        return found

    def is_constant(self, name: str) -> bool:
        return self.tensors[name].data is not None

    def copy(self) -> TfGraph:
        return TfGraph(dict(self.tensors), list(self.ops), self.inputs, self.outputs)
