"""Activation functions. Forms: ONNX operator specification; x stands for the input."""

from __future__ import annotations

import math

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import identity
from edgeseg.lower.ops_elementwise import apply, table_of, unary
from edgeseg.lower.source import Node

_LARGEST = float(np.finfo(np.float32).max)


@lowers("Relu")
def relu(ctx: Lowering, node: Node) -> None:
    """max(x, 0)."""
    unary(ctx, node, "RELU")


@lowers("HardSwish")
def hard_swish(ctx: Lowering, node: Node) -> None:
    """x * relu6(x + 3) / 6."""
    unary(ctx, node, "HARD_SWISH")


@lowers("Clip")
def clip(ctx: Lowering, node: Node) -> None:
    """The bounds that have an operator of their own, else MINIMUM(MAXIMUM(x, low), high)."""
    low, high = _bound(ctx, node, "min", 1, -math.inf), _bound(ctx, node, "max", 2, math.inf)
    low, high = (-math.inf if low <= -_LARGEST else low), (math.inf if high >= _LARGEST else high)
    named = {(0.0, 6.0): "RELU6", (0.0, math.inf): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}
    source, out = node.inputs[0], node.outputs[0]
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    floats = ctx.dtype(source) == "float32"
    if floats and (low, high) in named:
        ctx.finish(named[low, high], (tensor,), out, perm)
        return
    kinds = [("MAXIMUM", low)] if low > -math.inf else []
    kinds += [("MINIMUM", high)] if high < math.inf else []
    if not kinds:
        ctx.bind(out, perm, tensor)
        return
    for kind, bound in kinds[:-1]:
        tensor = apply(ctx, kind, (tensor, _number(ctx, bound, ctx.dtype(source))), out)
    kind, bound = kinds[-1]
    ctx.finish(kind, (tensor, _number(ctx, bound, ctx.dtype(source))), out, perm, table_of(kind)[0])


def _number(ctx: Lowering, value: float, dtype: str) -> str:
    return ctx.value(np.asarray(value, dtype), f"const/{value:.9g}")


def _bound(ctx: Lowering, node: Node, attr: str, index: int, default: float) -> float:
    if node.input(index):
        return float(ctx.known(node.inputs[index], attr).reshape(-1)[0])
    return node.real(attr, default)


@lowers("LeakyRelu")
def leaky_relu(ctx: Lowering, node: Node) -> None:
    """max(x, 0) + alpha min(x, 0)."""
    _leaky(ctx, node, node.real("alpha", 0.01))


def _leaky(ctx: Lowering, node: Node, alpha: float) -> None:
    perm = ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    ctx.finish("LEAKY_RELU", (tensor,), node.outputs[0], perm, "LeakyReluOptions", alpha=alpha)


@lowers("PRelu")
def prelu(ctx: Lowering, node: Node) -> None:
    """PRELU; one slope for the whole tensor is LEAKY_RELU."""
    source, slope = node.inputs[0], ctx.known(node.inputs[1], "slope")
    if slope.size == 1:
        _leaky(ctx, node, float(slope.reshape(-1)[0]))
        return
    rank, perm = ctx.rank(source), ctx.order(source)
    full = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
    # The kernel wants one dimension less than the input has: the batch is left out.
    stored = np.transpose(full, perm)
    alpha = ctx.value(stored.reshape(stored.shape[1:]) if stored.shape[0] == 1 else stored, node.inputs[1])
    ctx.finish("PRELU", (ctx.read(source, perm), alpha), node.outputs[0], perm)


@lowers("Elu", "Celu")
def elu(ctx: Lowering, node: Node) -> None:
    """max(x, 0) + alpha (exp(min(x, 0) / c) - 1); ELU itself has alpha = c = 1, CELU alpha = c."""
    alpha = node.real("alpha", 1.0)
    if alpha == 1.0:
        unary(ctx, node, "ELU")
        return
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    low = apply(ctx, "MINIMUM", (tensor, ctx.number(0.0)), out)
    if node.op == "Celu":
        low = apply(ctx, "MUL", (low, ctx.number(1.0 / alpha)), out)
    low = apply(ctx, "MUL", (apply(ctx, "ELU", (low,), out), ctx.number(alpha)), out)
    ctx.finish("ADD", (apply(ctx, "RELU", (tensor,), out), low), out, perm, "AddOptions", fusedActivationFunction=0)


@lowers("Selu")
def selu(ctx: Lowering, node: Node) -> None:
    """gamma (max(x, 0) + alpha (exp(min(x, 0)) - 1))."""
    alpha, gamma = node.real("alpha", 1.67326319217681884765625), node.real("gamma", 1.05070102214813232421875)
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    low = apply(ctx, "ELU", (apply(ctx, "MINIMUM", (tensor, ctx.number(0.0)), out),), out)
    low = apply(ctx, "MUL", (low, ctx.number(alpha * gamma)), out)
    high = apply(ctx, "MUL", (apply(ctx, "RELU", (tensor,), out), ctx.number(gamma)), out)
    ctx.finish("ADD", (high, low), out, perm, "AddOptions", fusedActivationFunction=0)


@lowers("HardSigmoid")
def hard_sigmoid(ctx: Lowering, node: Node) -> None:
    """clip(alpha x + beta, 0, 1), as relu6(6 alpha x + 6 beta) / 6: RELU6 fuses into the addition."""
    alpha, beta = 6.0 * node.real("alpha", 0.2), 6.0 * node.real("beta", 0.5)
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    if not math.isclose(alpha, 1.0, rel_tol=1e-6):
        tensor = apply(ctx, "MUL", (tensor, ctx.number(alpha)), out)
    tensor = apply(ctx, "ADD", (tensor, ctx.number(beta)), out)
    tensor = apply(ctx, "RELU6", (tensor,), out)
    ctx.finish("MUL", (tensor, ctx.number(1.0 / 6.0)), out, perm, "MulOptions", fusedActivationFunction=0)


@lowers("Swish")
def swish(ctx: Lowering, node: Node) -> None:
    """x sigmoid(alpha x)."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = gate = ctx.read(node.inputs[0], perm)
    if node.real("alpha", 1.0) != 1.0:
        gate = apply(ctx, "MUL", (tensor, ctx.number(node.real("alpha", 1.0))), out)
    gate = apply(ctx, "LOGISTIC", (gate,), out)
    ctx.finish("MUL", (tensor, gate), out, perm, "MulOptions", fusedActivationFunction=0)


@lowers("Gelu")
def gelu(ctx: Lowering, node: Node) -> None:
    """GELU, exact or in its tanh form."""
    perm = ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    approximate = node.text("approximate", "none") == "tanh"
    ctx.finish("GELU", (tensor,), node.outputs[0], perm, "GeluOptions", approximate=approximate)


def _softplus(ctx: Lowering, tensor: str, near: str) -> tuple[str, str]:
    """The two terms of log(1 + exp(x)) = max(x, 0) + log(1 + exp(-abs(x))), the form that does not overflow."""
    small = apply(ctx, "EXP", (apply(ctx, "NEG", (apply(ctx, "ABS", (tensor,), near),), near),), near)
    small = apply(ctx, "LOG", (apply(ctx, "ADD", (small, ctx.number(1.0)), near),), near)
    return apply(ctx, "RELU", (tensor,), near), small


@lowers("Softplus")
def softplus(ctx: Lowering, node: Node) -> None:
    """log(1 + exp(x))."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    terms = _softplus(ctx, ctx.read(node.inputs[0], perm), out)
    ctx.finish("ADD", terms, out, perm, "AddOptions", fusedActivationFunction=0)


@lowers("Mish")
def mish(ctx: Lowering, node: Node) -> None:
    """x tanh(softplus(x))."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    gate = apply(ctx, "TANH", (apply(ctx, "ADD", _softplus(ctx, tensor, out), out),), out)
    ctx.finish("MUL", (tensor, gate), out, perm, "MulOptions", fusedActivationFunction=0)


@lowers("Softsign")
def softsign(ctx: Lowering, node: Node) -> None:
    """x / (1 + abs(x))."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    below = apply(ctx, "ADD", (apply(ctx, "ABS", (tensor,), out), ctx.number(1.0)), out)
    ctx.finish("DIV", (tensor, below), out, perm, "DivOptions", fusedActivationFunction=0)


_ERF_P = 0.3275911
_ERF_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


@lowers("Erf")
def erf(ctx: Lowering, node: Node) -> None:
    """sign(x) (1 - t (a1 + ... + a5 t^4) exp(-x^2)), t = 1 / (1 + p abs(x)): at most 1.5e-7 off (Abramowitz and Stegun 1964,
    7.1.26). GELU does not come here: its pattern becomes one operator."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    below = apply(ctx, "ABS", (tensor,), out)
    below = apply(ctx, "ADD", (apply(ctx, "MUL", (below, ctx.number(_ERF_P)), out), ctx.number(1.0)), out)
    shape = ctx.graph.tensors[tensor].shape
    t = ctx.step("DIV", (ctx.number(1.0), below), out, shape, "DivOptions", fusedActivationFunction=0)
    total = apply(ctx, "MUL", (t, ctx.number(_ERF_A[0])), out)
    for factor in _ERF_A[1:]:
        total = apply(ctx, "ADD", (total, ctx.number(factor)), out)
        total = apply(ctx, "MUL", (total, t), out)
    falling = apply(ctx, "EXP", (apply(ctx, "NEG", (apply(ctx, "SQUARE", (tensor,), out),), out),), out)
    total = apply(ctx, "MUL", (total, falling), out)
    size = ctx.step("SUB", (ctx.number(1.0), total), out, shape, "SubOptions", fusedActivationFunction=0)
    sign = apply(ctx, "SIGN", (tensor,), out)
    ctx.finish("MUL", (size, sign), out, perm, "MulOptions", fusedActivationFunction=0)


@lowers("Softmax", "LogSoftmax")
def softmax(ctx: Lowering, node: Node) -> None:
    """Over one axis, which the kernel wants last; before opset 13 over all axes from ``axis`` on."""
    source, out = node.inputs[0], node.outputs[0]
    rank = ctx.rank(source)
    old = ctx.source.opset < 13
    axis = node.integer("axis", 1 if old else -1) % rank
    if old and math.prod(ctx.shape(source)[axis + 1 :]) != 1:
        raise Refused("softmax over several axes at once")
    perm = ctx.order(source)
    if perm[-1] != axis:
        rest = tuple(item for item in perm if item != axis)
        perm = (*rest, axis)
    natural = identity(rank)
    if natural in ctx.orders(source) and natural[-1] == axis:
        perm = natural
    tensor = ctx.read(source, perm)
    if node.op == "Softmax":
        ctx.finish("SOFTMAX", (tensor,), out, perm, "SoftmaxOptions", beta=1.0)
    else:
        ctx.finish("LOG_SOFTMAX", (tensor,), out, perm, "LogSoftmaxOptions")


@lowers("ThresholdedRelu")
def thresholded_relu(ctx: Lowering, node: Node) -> None:
    """x where x > alpha, else 0."""
    out, perm = node.outputs[0], ctx.order(node.inputs[0])
    tensor = ctx.read(node.inputs[0], perm)
    shape = ctx.graph.tensors[tensor].shape
    alpha = ctx.number(node.real("alpha", 1.0))
    over = ctx.step("GREATER", (tensor, alpha), out, shape, "GreaterOptions", dtype="bool")
    ctx.finish("SELECT_V2", (over, tensor, ctx.number(0.0)), out, perm, "SelectV2Options")
