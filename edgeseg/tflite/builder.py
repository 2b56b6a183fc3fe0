"""Adds tensors and operators to a TfGraph under names that are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeseg.tflite.graph import Array, OptionValue, Quant, TfGraph, TfOp, TfTensor

__all__ = ["OPTIONS_TYPES", "GraphBuilder"]

OPTIONS_TYPES: Mapping[str, str] = {
    "ABS": "AbsOptions",
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "DIV": "DivOptions",
    "EXPAND_DIMS": "ExpandDimsOptions",
    "EXP": "ExpOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "GREATER": "GreaterOptions",
    "HARD_SWISH": "HardSwishOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "LOG_SOFTMAX": "LogSoftmaxOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "NEG": "NegOptions",
    "PACK": "PackOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "POW": "PowOptions",
    "QUANTIZE": "QuantizeOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "SLICE": "SliceOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "SQUARE": "SquareOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "TILE": "TileOptions",
    "TRANSPOSE": "TransposeOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "UNPACK": "UnpackOptions",
}
"""The schema's options table of each operator kind; kinds that are not named have none."""


class GraphBuilder:
    """Grows ``graph`` in place.

    >>> builder = GraphBuilder(TfGraph({}, [], (), ()))
    >>> x = builder.input("x", (1, 4))
    >>> y = builder.op("RELU", (x,), (1, 4), name="y")
    >>> builder.graph.outputs = (y,)
    >>> builder.constant("x", np.zeros(3, np.float32))
    'x_1'
    """

    def __init__(self, graph: TfGraph) -> None:
        self.graph = graph

    def fresh(self, base: str) -> str:
        """``base`` where it is free, otherwise with the first free number behind it."""
        name, number = base, 0
        while name in self.graph.tensors:
            number += 1
            name = f"{base}_{number}"
        return name

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """A further graph input."""
        name = self.tensor(name, shape, dtype)
        self.graph.inputs = (*self.graph.inputs, name)
        return name

    def tensor(self, base: str, shape: Sequence[int], dtype: str = "float32", quant: Quant | None = None) -> str:
        """An activation that some operator will compute."""
        name = self.fresh(base)
        self.graph.tensors[name] = TfTensor(name, tuple(int(n) for n in shape), dtype, None, quant)
        return name

    def constant(self, base: str, data: Array, quant: Quant | None = None) -> str:
        """A constant; its type and shape are those of ``data``."""
        name = self.fresh(base)
        self.graph.tensors[name] = TfTensor(name, data.shape, data.dtype.name, data, quant)
        return name

    def ints(self, base: str, values: Sequence[int] | Array) -> str:
        """An int32 constant: shapes, paddings, axes."""
        return self.constant(base, np.asarray(values, np.int32))

    def op(
        self,
        kind: str,
        inputs: Sequence[str | None],
        shape: Sequence[int],
        *,
        name: str | None = None,
        dtype: str = "float32",
        quant: Quant | None = None,
        options: Mapping[str, OptionValue] | None = None,
    ) -> str:
        """Append an operator with one new output of ``shape``; gives the output's name."""
        output = self.tensor(name or f"{inputs[0]}/{kind.lower()}", shape, dtype, quant)
        self.graph.ops.append(TfOp(kind, tuple(inputs), (output,), options or {}, OPTIONS_TYPES.get(kind, "")))
        return output
