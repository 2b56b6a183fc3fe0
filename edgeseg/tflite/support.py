"""What the integer kernels of TensorFlow Lite demand of each operator: one table, read by the emitter and the planner.

The quantization rules (which scales must agree, which outputs are fixed) follow the TensorFlow Lite 8-bit quantization
specification (ai.google.dev/edge/litert/models/quantization_spec). ``delegated`` says what XNNPACK takes in int8; it was
measured on ai-edge-litert 2.3 and a test measures it again on the runtime installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from edgeseg.quantize.plan import Domain
from edgeseg.tflite.graph import Quant, TfGraph, TfOp, TfTensor

__all__ = [
    "RELU_LIMITS",
    "RULES",
    "OpRule",
    "Scales",
    "delegated",
    "fixed_output",
    "obstacle",
    "requantizes",
    "saturates_alike",
    "supported",
]


class Scales(StrEnum):
    """How an operator's output scale relates to its inputs' scales.

    FREE: the kernel rescales. SAME: the kernel copies or compares integers, so every activation operand and output must have
    one scale and zero point. FIXED: the output's are given by the kernel.
    """

    FREE = "free"
    SAME = "same"
    FIXED = "fixed"


@dataclass(frozen=True)
class OpRule:
    """One operator kind in integer arithmetic.

    Attributes:
        scales: see Scales.
        data: positions of the activation operands; empty means all.
        weight: position of the constant weights, which are quantized symmetrically per channel of ``axis``.
        bias: position of the bias, int32 (int64 with int16 activations) with scale input * weight.
        fixed8: output scale and zero point in int8, for FIXED.
        fixed16: the same in int16.
        int16: whether a kernel with int16 activations exists.
        delegated: whether XNNPACK runs the int8 form; otherwise it cuts the delegate and runs in the reference kernels.
        float_delegated: whether XNNPACK runs the float form.
        mixes: a SAME operator whose output is an average of inputs. Clipping before it is not clipping behind it, so it
            must run at its input's scale.
        least_ratio: the smallest input scale over output scale that XNNPACK takes; 0 for no limit that matters.
        least_output: ``(factor, power)``: the kernel takes no output scale below ``factor * input scale ** power``. LiteRT ends the
            process there (ADD, SQUARED_DIFFERENCE) or refuses the file. None for no such limit.
        integer_output: the output is an index or a truth value and has no scale.
    """

    scales: Scales = Scales.FREE
    data: tuple[int, ...] = ()
    weight: int | None = None
    axis: int = 0
    bias: int | None = None
    fixed8: tuple[float, int] | None = None
    fixed16: tuple[float, int] | None = None
    int16: bool = False
    delegated: bool = False
    float_delegated: bool = True
    mixes: bool = False
    least_ratio: float = 0.0
    least_output: tuple[float, int] | None = None
    integer_output: bool = False

    def operands(self, op: TfOp) -> tuple[int, ...]:
        """Positions of the activation operands that ``op`` has."""
        return tuple(i for i in self.data or range(len(op.inputs)) if i < len(op.inputs) and op.inputs[i] is not None)


_HALF = (1.0 / 32768.0, 0)
_SAME = Scales.SAME

RULES: Mapping[str, OpRule] = {
    # multiply-adds
    "CONV_2D": OpRule(data=(0,), weight=1, axis=0, bias=2, int16=True, delegated=True),
    "DEPTHWISE_CONV_2D": OpRule(data=(0,), weight=1, axis=3, bias=2, int16=True, delegated=True),
    "FULLY_CONNECTED": OpRule(data=(0,), weight=1, axis=0, bias=2, int16=True, delegated=True),
    "TRANSPOSE_CONV": OpRule(data=(2,), weight=1, axis=0, bias=3, int16=True, delegated=True),
    "BATCH_MATMUL": OpRule(int16=True),
    # elementwise
    "ADD": OpRule(int16=True, delegated=True, least_ratio=2.0**-10, least_output=(2.0**-13, 1)),
    "SUB": OpRule(int16=True, delegated=True, least_ratio=2.0**-10, least_output=(2.0**-13, 1)),
    "MUL": OpRule(int16=True, delegated=True),
    "SQUARED_DIFFERENCE": OpRule(least_output=(2.0**-11, 2)),
    "MAXIMUM": OpRule(_SAME, int16=True),
    "MINIMUM": OpRule(_SAME, int16=True),
    "ABS": OpRule(int16=True),
    "RSQRT": OpRule(),
    "EXP": OpRule(),
    # activations
    "RELU": OpRule(int16=True, delegated=True),
    "RELU6": OpRule(int16=True, delegated=True),
    "LEAKY_RELU": OpRule(int16=True, delegated=True),
    "PRELU": OpRule(),
    "HARD_SWISH": OpRule(least_output=(2.0**-6, 1)),
    "ELU": OpRule(delegated=True),
    "GELU": OpRule(),
    "LOGISTIC": OpRule(Scales.FIXED, fixed8=(1.0 / 256.0, -128), fixed16=_HALF, int16=True, delegated=True),
    "TANH": OpRule(Scales.FIXED, fixed8=(1.0 / 128.0, 0), fixed16=_HALF, int16=True, delegated=True),
    "SOFTMAX": OpRule(Scales.FIXED, fixed8=(1.0 / 256.0, -128), fixed16=_HALF, int16=True),
    "LOG_SOFTMAX": OpRule(Scales.FIXED, fixed8=(16.0 / 256.0, 127), float_delegated=False),
    "L2_NORMALIZATION": OpRule(Scales.FIXED, fixed8=(1.0 / 128.0, 0), float_delegated=False),
    # reductions and pooling
    "MEAN": OpRule(data=(0,), int16=True, delegated=True),
    "SUM": OpRule(data=(0,), delegated=True),
    "REDUCE_MAX": OpRule(_SAME, data=(0,), delegated=True),
    "AVERAGE_POOL_2D": OpRule(_SAME, int16=True, mixes=True),
    "MAX_POOL_2D": OpRule(_SAME, int16=True, delegated=True),
    "ARG_MAX": OpRule(data=(0,), integer_output=True, float_delegated=False),
    # data movement
    "CONCATENATION": OpRule(_SAME, int16=True, delegated=True),
    "PACK": OpRule(_SAME, int16=True, float_delegated=False),
    "UNPACK": OpRule(_SAME, int16=True, float_delegated=False),
    "PAD": OpRule(_SAME, data=(0,), int16=True, delegated=True),
    "PADV2": OpRule(_SAME, data=(0, 2), int16=True, float_delegated=False),
    "MIRROR_PAD": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "RESHAPE": OpRule(_SAME, data=(0,), int16=True, delegated=True),
    "SQUEEZE": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "EXPAND_DIMS": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "TRANSPOSE": OpRule(_SAME, data=(0,), int16=True, delegated=True),
    "SLICE": OpRule(_SAME, data=(0,), int16=True, delegated=True),
    "STRIDED_SLICE": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "SPLIT": OpRule(_SAME, data=(1,), int16=True, delegated=True),
    "SPLIT_V": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "GATHER": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
    "TILE": OpRule(_SAME, data=(0,), float_delegated=False),
    "SPACE_TO_DEPTH": OpRule(_SAME, data=(0,), delegated=True),
    "DEPTH_TO_SPACE": OpRule(_SAME, data=(0,), delegated=True),
    "RESIZE_BILINEAR": OpRule(_SAME, data=(0,), int16=True, delegated=True, mixes=True),
    "RESIZE_NEAREST_NEIGHBOR": OpRule(_SAME, data=(0,), int16=True, float_delegated=False),
}
"""Operator kind to its rule; a kind that is missing has no integer form here. RELU and RELU6 are delegated in the form of a
QUANTIZE, see ``saturates_alike``."""

_FUSABLE = frozenset({0, 1, 2, 3})  # ActivationFunctionType NONE, RELU, RELU_N1_TO_1, RELU6

RELU_LIMITS: Mapping[str, float] = {"RELU": math.inf, "RELU6": 6.0}
"""Largest value of the operators that do nothing but clip at 0 and above."""


def saturates_alike(kind: str, quant: Quant | None) -> bool:
    """Whether quantizing to ``quant`` in int8 clips as operator ``kind`` does: at 0, and at its limit or below.

    >>> saturates_alike("RELU6", Quant((6 / 255,), (-128,))), saturates_alike("RELU6", Quant((0.1,), (-128,)))
    (True, False)
    """
    limit = RELU_LIMITS.get(kind)
    if limit is None or quant is None or quant.zero_point != (-128,):
        return False
    return quant.scale[0] * 255 <= limit * (1 + 1e-6)


def requantizes(before: TfTensor, dtype: str, after: Quant) -> bool:
    """Whether the delegate converts a quantized tensor's integers to another scale directly.

    Where it does not (int8 to uint8, scales far apart, int16), the way through float is faster than the reference kernel.
    """
    if before.quant is None or before.dtype != "int8" or dtype != "int8":
        return False
    return 2.0**-8 <= before.quant.scale[0] / after.scale[0] <= 2.0**7


def delegated(op: TfOp, graph: TfGraph, domain: Domain) -> bool:
    """Whether XNNPACK runs this operator in ``domain``. A False is a cut: the reference kernel runs it between two partitions.

    A kind without a rule counts as delegated in float, so that nothing is decided on what is not known.
    """
    rule = RULES.get(op.kind)
    if domain is Domain.INT16 or (rule is None and domain is not Domain.FLOAT):
        return False
    if op.options.get("fusedActivationFunction", 0) not in _FUSABLE:
        return False
    match op.kind:
        case "CONCATENATION":
            return len(op.inputs) <= 5
        case "SPLIT":
            return len(op.outputs) <= 4
        case "STRIDED_SLICE":
            strides = graph.tensors[str(op.inputs[3])].data
            return strides is not None and bool((strides == 1).all())
        case "LEAKY_RELU":
            slope = abs(float(cast(float, op.options.get("alpha", 0.0))))
            return slope > 0.0 and (domain is Domain.FLOAT or 2.0**-8 <= slope <= 127.0)
        case _:
            return rule is None or (rule.delegated if domain is Domain.INT8 else rule.float_delegated)


def obstacle(op: TfOp, graph: TfGraph, domain: Domain = Domain.INT8) -> str:
    """Why ``op`` cannot run in an integer domain; empty where it can.

    >>> obstacle(TfOp("ERF", ("x",), ("y",)), TfGraph({}, [], (), ()))
    'ERF has no integer kernel'
    """
    rule = RULES.get(op.kind)
    if rule is None:
        return f"{op.kind} has no integer kernel"
    if domain is Domain.INT16 and not rule.int16:
        return f"{op.kind} has no kernel with int16 activations"
    for position in rule.operands(op):
        name = op.inputs[position]
        if name is not None and graph.tensors[name].dtype != "float32":
            return f"operand '{name}' of {op.kind} is {graph.tensors[name].dtype}, not float32"
    if all(graph.is_constant(name) for i in rule.operands(op) if (name := op.inputs[i]) is not None):
        return f"{op.kind} works on constants only"
    for static in (rule.weight, rule.bias):
        name = op.inputs[static] if static is not None and static < len(op.inputs) else None
        if name is not None and not graph.is_constant(name):
            return f"the weights or bias of {op.kind} are computed, not constant"
    if domain is Domain.INT16 and op.kind == "BATCH_MATMUL" and any(graph.is_constant(str(name)) for name in op.inputs):
        return "BATCH_MATMUL with int16 activations takes no constant"
    return ""


def supported(op: TfOp, graph: TfGraph, domain: Domain = Domain.INT8) -> bool:
    """Whether the emitter can make ``op`` run in ``domain``."""
    return domain is Domain.FLOAT or not obstacle(op, graph, domain)


def fixed_output(kind: str, domain: Domain) -> Quant | None:
    """The output's scale and zero point where the kernel prescribes them."""
    rule = RULES.get(kind)
    fixed = None if rule is None else rule.fixed16 if domain is Domain.INT16 else rule.fixed8
    return None if fixed is None else Quant((fixed[0],), (fixed[1],))
