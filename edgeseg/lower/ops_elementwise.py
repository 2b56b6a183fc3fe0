"""Arithmetic, comparison and logic, element by element, with ONNX broadcasting."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.source import Node
from edgeseg.tflite.graph import OptionValue

_UNARY = {
    "Abs": "ABS",
    "Ceil": "CEIL",
    "Cos": "COS",
    "Exp": "EXP",
    "Floor": "FLOOR",
    "Log": "LOG",
    "Neg": "NEG",
    "Not": "LOGICAL_NOT",
    "Round": "ROUND",
    "Sigmoid": "LOGISTIC",
    "Sign": "SIGN",
    "Sin": "SIN",
    "Sqrt": "SQRT",
    "Tanh": "TANH",
}
_BINARY = {
    "Add": "ADD",
    "And": "LOGICAL_AND",
    "Div": "DIV",
    "Equal": "EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
    "Mul": "MUL",
    "Or": "LOGICAL_OR",
    "Sub": "SUB",
}
_TABLES = {
    "ABS": "AbsOptions",
    "ADD": "AddOptions",
    "COS": "CosOptions",
    "DIV": "DivOptions",
    "EQUAL": "EqualOptions",
    "EXP": "ExpOptions",
    "GREATER": "GreaterOptions",
    "GREATER_EQUAL": "GreaterEqualOptions",
    "LESS": "LessOptions",
    "LESS_EQUAL": "LessEqualOptions",
    "LOGICAL_AND": "LogicalAndOptions",
    "LOGICAL_NOT": "LogicalNotOptions",
    "LOGICAL_OR": "LogicalOrOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MUL": "MulOptions",
    "NEG": "NegOptions",
    "NOT_EQUAL": "NotEqualOptions",
    "POW": "PowOptions",
    "SELECT_V2": "SelectV2Options",
    "SIGN": "SignOptions",
    "SQUARE": "SquareOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "SUB": "SubOptions",
}
_FUSING = {"ADD", "SUB", "MUL", "DIV"}


def table_of(kind: str) -> tuple[str, dict[str, OptionValue]]:
    """The options table of an elementwise operator and its plain options."""
    return _TABLES.get(kind, ""), {"fusedActivationFunction": 0} if kind in _FUSING else {}


def unary(ctx: Lowering, node: Node, kind: str) -> None:
    """One input, one output, in whatever order the input is stored."""
    perm = ctx.order(node.inputs[0])
    table, options = table_of(kind)
    ctx.finish(kind, (ctx.read(node.inputs[0], perm),), node.outputs[0], perm, table, **options)


def nary(ctx: Lowering, node: Node, kind: str) -> None:
    """Operands with broadcasting, in the order that transposes least."""
    out = node.outputs[0]
    perm = ctx.common_order(node.inputs, ctx.rank(out))
    table, options = table_of(kind)
    ctx.finish(kind, [ctx.read_broadcast(name, perm) for name in node.inputs], out, perm, table, **options)


def apply(ctx: Lowering, kind: str, inputs: tuple[str, ...], near: str) -> str:
    """An elementwise step on stored tensors, whose first input has the shape of the result."""
    first = ctx.graph.tensors[inputs[0]]
    table, options = table_of(kind)
    return ctx.step(kind, inputs, near, first.shape, table, first.dtype, **options)


@lowers(*_UNARY)
def plain_unary(ctx: Lowering, node: Node) -> None:
    """The operators that TFLite has under another name."""
    unary(ctx, node, _UNARY[node.op])


@lowers(*_BINARY)
def plain_binary(ctx: Lowering, node: Node) -> None:
    """Addition and its kin. A division by a constant is a multiplication by its reciprocal."""
    divisor = ctx.constant(node.inputs[1]) if node.op == "Div" else None
    if divisor is not None and divisor.dtype == np.float32 and np.all(divisor != 0):
        out = node.outputs[0]
        perm = ctx.common_order(node.inputs[:1], ctx.rank(out))
        reciprocal = ctx.source.add_constant(f"{node.inputs[1]}/reciprocal", np.float32(1) / divisor.astype(np.float32))
        inputs = [ctx.read_broadcast(name, perm) for name in (node.inputs[0], reciprocal)]
        ctx.finish("MUL", inputs, out, perm, "MulOptions", fusedActivationFunction=0)
        return
    nary(ctx, node, _BINARY[node.op])


@lowers("Max", "Min", "Sum", "Mean")
def variadic(ctx: Lowering, node: Node) -> None:
    """A chain of binary operators."""
    out, names = node.outputs[0], node.inputs
    kind = {"Max": "MAXIMUM", "Min": "MINIMUM"}.get(node.op, "ADD")
    perm = ctx.common_order(names, ctx.rank(out))
    table, options = table_of(kind)
    scaled = node.op == "Mean" and len(names) > 1
    made = ctx.read_broadcast(names[0], perm)
    if len(names) == 1:
        ctx.bind(out, perm, made)
        return
    for name in names[1:-1] if not scaled else names[1:]:
        other = ctx.read_broadcast(name, perm)
        shape = np.broadcast_shapes(ctx.graph.tensors[made].shape, ctx.graph.tensors[other].shape)
        made = ctx.step(kind, (made, other), out, shape, table, ctx.dtype(out), **options)
    if scaled:
        ctx.finish("MUL", (made, ctx.number(1.0 / len(names))), out, perm, "MulOptions", fusedActivationFunction=0)
    else:
        ctx.finish(kind, (made, ctx.read_broadcast(names[-1], perm)), out, perm, table, **options)


@lowers("Pow")
def power(ctx: Lowering, node: Node) -> None:
    """A constant exponent of 2, 1/2, -1/2, 1 or -1 has an operator of its own."""
    exponent = ctx.source.scalar(node.inputs[1])
    simple = {2.0: "SQUARE", 0.5: "SQRT", -0.5: "RSQRT"}
    perm = ctx.order(node.inputs[0])
    if ctx.rank(node.outputs[0]) != ctx.rank(node.inputs[0]) or ctx.dtype(node.inputs[0]) != "float32":
        exponent = None
    if exponent in simple:
        unary(ctx, node, simple[exponent])
    elif exponent == 1.0:
        ctx.bind(node.outputs[0], perm, ctx.read(node.inputs[0], perm))
    elif exponent == -1.0:
        inputs = (ctx.number(1.0), ctx.read(node.inputs[0], perm))
        ctx.finish("DIV", inputs, node.outputs[0], perm, "DivOptions", fusedActivationFunction=0)
    else:
        nary(ctx, node, "POW")


@lowers("Reciprocal")
def reciprocal(ctx: Lowering, node: Node) -> None:
    """1 / x."""
    perm = ctx.order(node.inputs[0])
    inputs = (ctx.number(1.0), ctx.read(node.inputs[0], perm))
    ctx.finish("DIV", inputs, node.outputs[0], perm, "DivOptions", fusedActivationFunction=0)


@lowers("Rsqrt", "Square", "SquaredDifference")
def from_patterns(ctx: Lowering, node: Node) -> None:
    """Operators that only the patterns write."""
    kind = {"Rsqrt": "RSQRT", "Square": "SQUARE", "SquaredDifference": "SQUARED_DIFFERENCE"}[node.op]
    nary(ctx, node, kind)


@lowers("Mod")
def modulo(ctx: Lowering, node: Node) -> None:
    """FLOOR_MOD: the sign follows the divisor."""
    if node.integer("fmod", 0):
        raise Refused("fmod, whose sign follows the dividend")
    nary(ctx, node, "FLOOR_MOD")


@lowers("Where")
def where(ctx: Lowering, node: Node) -> None:
    """SELECT_V2."""
    nary(ctx, node, "SELECT_V2")


@lowers("Cast")
def cast(ctx: Lowering, node: Node) -> None:
    """CAST; between equal types nothing. A float becomes an integer by truncation in both."""
    source, target = node.inputs[0], node.outputs[0]
    perm = ctx.order(source)
    if ctx.dtype(source) == ctx.dtype(target):
        ctx.bind(target, perm, ctx.read(source, perm))
        return
    if ctx.dtype(target) == "bool":
        zero = ctx.value(np.zeros((), ctx.dtype(source)), "const/0")
        ctx.finish("NOT_EQUAL", (ctx.read(source, perm), zero), target, perm, "NotEqualOptions")
        return
    types = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}
    if ctx.dtype(source) not in types or ctx.dtype(target) not in types:
        raise Refused(f"a cast from {ctx.dtype(source)} to {ctx.dtype(target)}")
    options = {"inDataType": types[ctx.dtype(source)], "outDataType": types[ctx.dtype(target)]}
    ctx.finish("CAST", (ctx.read(source, perm),), target, perm, "CastOptions", **options)
