"""Operators that move no values or only views: reshape and its kin, transpose, expand, tile."""

from __future__ import annotations

import math

from edgeseg.lower.context import Lowering, lowers
from edgeseg.lower.layout import Perm, permuted, regroup, restore, signature
from edgeseg.lower.preference import preferred_orders
from edgeseg.lower.source import Node


@lowers("Identity", "Dropout")
def identity_op(ctx: Lowering, node: Node) -> None:
    """Another name of the same tensor."""
    ctx.view(node.outputs[0], node.inputs[0], range(ctx.rank(node.inputs[0])))


@lowers("Transpose")
def transpose(ctx: Lowering, node: Node) -> None:
    """A view; whoever needs another stored order asks for it."""
    rank = ctx.rank(node.inputs[0])
    ctx.view(node.outputs[0], node.inputs[0], node.integers("perm") or tuple(reversed(range(rank))))


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(ctx: Lowering, node: Node) -> None:
    """A RESHAPE of the stored tensor wherever the axes that are merged lie side by side in their ONNX order, whatever the
    order of the others; else of the order that consumers want."""
    source, out = node.inputs[0], node.outputs[0]
    before, after = ctx.shape(source), ctx.shape(out)
    groups = regroup(before, after)
    preferred = preferred_orders(ctx, out)
    for perm in ctx.orders(source):
        order = _carried(signature(before, perm), groups)
        if order is not None:
            _emit_reshape(ctx, source, perm, out, restore(after, order, preferred))
            return
    # Bytes must move: at once into the order that consumers want.
    for target in (*preferred, tuple(range(len(after)))):
        ordered = _order_groups(groups, signature(after, target))
        if ordered is not None:
            wanted = tuple(axis for group, _ in ordered for axis in group)
            _emit_reshape(ctx, source, restore(before, wanted, ctx.orders(source)), out, target)
            return


def _carried(order: Perm, groups: list[tuple[Perm, Perm]]) -> Perm | None:
    """The order of the new axes if the old ones are stored in ``order``; None where a group is torn."""
    result: list[int] = []
    left = list(order)
    starts = {first[0]: (first, second) for first, second in groups}
    while left:
        group = starts.get(left[0])
        if group is None or tuple(left[: len(group[0])]) != group[0]:
            return None
        result.extend(group[1])
        del left[: len(group[0])]
    return tuple(result)


def _order_groups(groups: list[tuple[Perm, Perm]], order: Perm) -> list[tuple[Perm, Perm]] | None:
    """The groups as the new axes come in ``order``; None where that order tears one."""
    ordered: list[tuple[Perm, Perm]] = []
    left = list(order)
    starts = {second[0]: (first, second) for first, second in groups}
    while left:
        group = starts.get(left[0])
        if group is None or tuple(left[: len(group[1])]) != group[1]:
            return None
        ordered.append(group)
        del left[: len(group[1])]
    return ordered


def _emit_reshape(ctx: Lowering, source: str, perm: Perm, out: str, target: Perm) -> None:
    tensor = ctx.read(source, perm)
    shape = permuted(ctx.shape(out), target)
    if ctx.graph.tensors[tensor].shape == shape:
        ctx.bind(out, target, tensor)
        return
    ctx.finish("RESHAPE", (tensor, ctx.index(shape)), out, target, "ReshapeOptions", newShape=shape)


@lowers("Expand")
def expand(ctx: Lowering, node: Node) -> None:
    """BROADCAST_TO; nothing where the shape is the same."""
    source, out = node.inputs[0], node.outputs[0]
    rank, perm = ctx.rank(out), ctx.common_order(node.inputs[:1], ctx.rank(out))
    tensor = ctx.read_broadcast(source, perm)
    shape = permuted(ctx.shape(out), perm)
    if math.prod(ctx.shape(source)) == math.prod(shape):
        made = ctx.reshape(tensor, shape, out)
        ctx.bind(out, perm, made)
        return
    tensor = ctx.reshape(tensor, permuted((1,) * (rank - ctx.rank(source)) + ctx.shape(source), perm), out)
    ctx.finish("BROADCAST_TO", (tensor, ctx.index(shape)), out, perm, "BroadcastToOptions")


@lowers("Tile")
def tile(ctx: Lowering, node: Node) -> None:
    """TILE with the repeats in stored order."""
    source = node.inputs[0]
    repeats = [int(item) for item in ctx.known(node.inputs[1], "repeats")]
    perm = ctx.order(source)
    amounts = ctx.index([repeats[axis] for axis in perm])
    ctx.finish("TILE", (ctx.read(source, perm), amounts), node.outputs[0], perm, "TileOptions")
