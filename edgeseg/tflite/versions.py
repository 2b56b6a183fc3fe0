"""The operator version a file must state: the oldest one whose kernel can run the operator on its tensors' types.

A runtime refuses a version newer than it knows, so the smallest sufficient one is written. The numbers are those of the
operator registry of TensorFlow Lite (``tensorflow/compiler/mlir/lite/tools/versioning``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.tflite.graph import TfOp, TfTensor

__all__ = ["required_version"]


@dataclass(frozen=True)
class _Versions:
    """Version by element type, and by rank (``wide``: operands of more than four dimensions)."""

    int8: int = 1
    int16: int = 1
    wide: int = 1


_TABLE: Mapping[str, _Versions] = {
    "ABS": _Versions(int8=2, int16=3),
    "ADD": _Versions(int8=2, int16=3, wide=4),
    "ARG_MAX": _Versions(int8=2),
    "ARG_MIN": _Versions(int8=2),
    "AVERAGE_POOL_2D": _Versions(int8=2, int16=3),
    "BATCH_MATMUL": _Versions(int8=2, int16=3),
    "BATCH_TO_SPACE_ND": _Versions(int8=2, int16=4),
    "CONCATENATION": _Versions(int8=2, int16=3),
    "CONV_2D": _Versions(int8=3, int16=4),
    "DEPTHWISE_CONV_2D": _Versions(int8=3, int16=5),
    "DEPTH_TO_SPACE": _Versions(int8=2),
    "DEQUANTIZE": _Versions(int8=2, int16=3),
    "EQUAL": _Versions(int8=2),
    "EXP": _Versions(int8=2, int16=2),
    "FULLY_CONNECTED": _Versions(int8=4, int16=7),
    "GATHER": _Versions(int8=2, int16=3),
    "GREATER": _Versions(int8=2),
    "L2_NORMALIZATION": _Versions(int8=2),
    "LEAKY_RELU": _Versions(int8=2, int16=2),
    "LESS": _Versions(int8=2),
    "LOGISTIC": _Versions(int8=2, int16=3),
    "LOG_SOFTMAX": _Versions(int8=2),
    "MAXIMUM": _Versions(int8=2, int16=4, wide=4),
    "MAX_POOL_2D": _Versions(int8=2, int16=3),
    "MEAN": _Versions(int8=2, int16=3),
    "MINIMUM": _Versions(int8=2, int16=4, wide=4),
    "MIRROR_PAD": _Versions(int8=2, int16=3),
    "MUL": _Versions(int8=2, int16=4, wide=5),
    "PACK": _Versions(int8=2, int16=3),
    "PAD": _Versions(int8=2, int16=3, wide=4),
    "PADV2": _Versions(int8=2, int16=3, wide=4),
    "QUANTIZE": _Versions(int8=1, int16=2),
    "RELU": _Versions(int8=2, int16=3),
    "RELU6": _Versions(int8=2, int16=3),
    "RESIZE_BILINEAR": _Versions(int8=2, int16=4),
    "RESIZE_NEAREST_NEIGHBOR": _Versions(int8=2, int16=4),
    "RSQRT": _Versions(int8=2, int16=3),
    "SLICE": _Versions(int8=2, int16=4, wide=5),
    "SOFTMAX": _Versions(int8=2, int16=3),
    "SPACE_TO_BATCH_ND": _Versions(int8=2, int16=4),
    "SPACE_TO_DEPTH": _Versions(int8=2),
    "SPLIT": _Versions(int8=2, int16=4),
    "SPLIT_V": _Versions(int8=2),
    "SQUARED_DIFFERENCE": _Versions(int8=2),
    "STRIDED_SLICE": _Versions(int8=2, int16=4, wide=4),
    "SUB": _Versions(int8=3, int16=5, wide=4),
    "SUM": _Versions(int8=2, int16=3),
    "TANH": _Versions(int8=2, int16=3),
    "TRANSPOSE": _Versions(int8=2, int16=5, wide=4),
    "TRANSPOSE_CONV": _Versions(int8=2, int16=4),
    "UNPACK": _Versions(int8=2, int16=3),
}


def required_version(op: TfOp, tensors: Mapping[str, TfTensor]) -> int:
    """The version to state for ``op``; never smaller than ``op.version``."""
    operands = [tensors[name] for name in (*op.inputs, *op.outputs) if name is not None]
    types = {tensor.dtype for tensor in operands}
    row = _TABLE.get(op.kind, _Versions())
    wanted = [op.version]
    # Of a QUANTIZE or DEQUANTIZE it is the integer side that counts, of everything else any integer operand.
    if "int16" in types:
        wanted.append(row.int16)
    elif "int8" in types:
        wanted.append(row.int8)
    if max((len(tensor.shape) for tensor in operands), default=0) > 4:
        wanted.append(row.wide)
    wanted.append(_by_options(op, tensors))
    return max(wanted)


def _by_options(op: TfOp, tensors: Mapping[str, TfTensor]) -> int:
    """What the options and operand forms of single operators ask for."""
    options = op.options
    present = [name for name in op.inputs if name is not None]
    match op.kind:
        case "CONV_2D":
            channels, per_group = tensors[present[0]].shape[-1], tensors[present[1]].shape[-1]
            return 6 if channels != per_group else 1
        case "DEPTHWISE_CONV_2D":
            return 2 if (options.get("dilationWFactor", 1), options.get("dilationHFactor", 1)) != (1, 1) else 1
        case "FULLY_CONNECTED":
            weights = tensors[present[1]]
            if weights.dtype == "int8" and weights.quant is not None and len(weights.quant.scale) > 1:
                return 12
            return 6 if len(present) == 2 else 5 if options.get("keepNumDims") else 1
        case "RESIZE_BILINEAR":
            return 3 if options.get("halfPixelCenters") else 1
        case "RESIZE_NEAREST_NEIGHBOR":
            return 3 if options.get("halfPixelCenters") or options.get("alignCorners") else 1
        case "TRANSPOSE_CONV":
            return 4 if options.get("fusedActivationFunction") else 3 if len(present) == 4 else 1
        case "QUANTIZE":
            return 2 if tensors[present[0]].dtype != "float32" else 1
        case "DEQUANTIZE":
            return 3 if tensors[present[0]].dtype == "float16" else 1
        case "MUL":
            quants = [tensors[name].quant for name in (*present, op.outputs[0])]
            scales = [quant.scale[0] for quant in quants if quant is not None]
            # A rescaling factor of one or more needs the kernel that multiplies beyond one.
            return 3 if len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1.0 else 1
        case _:
            return 1
