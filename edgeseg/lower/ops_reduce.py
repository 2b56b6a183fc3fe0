"""Reductions."""

from __future__ import annotations

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import drop_axes, normal_axis, permuted
from edgeseg.lower.ops_elementwise import apply
from edgeseg.lower.source import Node

_KINDS = {
    "ReduceMax": "REDUCE_MAX",
    "ReduceMean": "MEAN",
    "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
    "ReduceSum": "SUM",
    "ReduceL1": "SUM",
    "ReduceL2": "SUM",
    "ReduceSumSquare": "SUM",
    "ReduceLogSum": "SUM",
}
_BEFORE = {"ReduceL1": "ABS", "ReduceL2": "SQUARE", "ReduceSumSquare": "SQUARE"}
_AFTER = {"ReduceL2": "SQRT", "ReduceLogSum": "LOG"}


@lowers(*_KINDS)
def reduce(ctx: Lowering, node: Node) -> None:
    """SUM, MEAN and their kin over the stored positions of the ONNX axes."""
    source, out = node.inputs[0], node.outputs[0]
    given = ctx.setting(node, "axes", 1)
    if not given and node.integer("noop_with_empty_axes", 0):
        raise Refused("a reduction of no axes")
    axes = sorted({normal_axis(axis, ctx.rank(source)) for axis in given or range(ctx.rank(source))})
    keep = bool(node.integer("keepdims", 1))
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    if node.op in _BEFORE:
        tensor = apply(ctx, _BEFORE[node.op], (tensor,), out)
    positions = ctx.index(sorted(perm.index(axis) for axis in axes))
    result = perm if keep else drop_axes(perm, axes)
    kind = _KINDS[node.op]
    if node.op not in _AFTER:
        ctx.finish(kind, (tensor, positions), out, result, "ReducerOptions", keepDims=keep)
        return
    shape = permuted(ctx.shape(out), result)
    tensor = ctx.step(kind, (tensor, positions), out, shape, "ReducerOptions", keepDims=keep)
    ctx.finish(_AFTER[node.op], (tensor,), out, result)


@lowers("ArgMax", "ArgMin")
def arg_extreme(ctx: Lowering, node: Node) -> None:
    """ARG_MAX; the axis it removes is put back where ONNX keeps it."""
    source, out = node.inputs[0], node.outputs[0]
    if node.integer("select_last_index", 0):
        raise Refused("the last of several equal maxima")
    axis = normal_axis(node.integer("axis", 0), ctx.rank(source))
    perm = ctx.order(source)
    inputs = (ctx.read(source, perm), ctx.index([perm.index(axis)]))
    kind = "ARG_MAX" if node.op == "ArgMax" else "ARG_MIN"
    table = "ArgMaxOptions" if node.op == "ArgMax" else "ArgMinOptions"
    int64 = 4
    left = drop_axes(perm, (axis,))
    if not node.integer("keepdims", 1):
        ctx.finish(kind, inputs, out, left, table, outputType=int64)
        return
    shape = tuple(size for position, size in enumerate(permuted(ctx.shape(source), perm)) if perm[position] != axis)
    made = ctx.step(kind, inputs, out, shape, table, ctx.dtype(out), outputType=int64)
    full = permuted(ctx.shape(out), perm)
    ctx.finish("RESHAPE", (made, ctx.index(full)), out, perm, "ReshapeOptions", newShape=full)


@lowers("LpNormalization")
def lp_normalization(ctx: Lowering, node: Node) -> None:
    """x divided by its norm along one axis."""
    source, out = node.inputs[0], node.outputs[0]
    order = node.integer("p", 2)
    perm = ctx.order(source)
    position = ctx.position(perm, node.integer("axis", -1))
    tensor = ctx.read(source, perm)
    shape = list(permuted(ctx.shape(source), perm))
    shape[position] = 1
    below = apply(ctx, "SQUARE" if order == 2 else "ABS", (tensor,), out)
    below = ctx.step("SUM", (below, ctx.index([position])), out, shape, "ReducerOptions", keepDims=True)
    if order == 2:
        below = apply(ctx, "SQRT", (below,), out)
    ctx.finish("DIV", (tensor, below), out, perm, "DivOptions", fusedActivationFunction=0)
