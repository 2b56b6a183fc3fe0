"""Which stored order the consumers of a tensor would like, where its producer may choose."""

from __future__ import annotations

from edgeseg.lower.context import Lowering
from edgeseg.lower.layout import NHWC, Perm, identity

__all__ = ["preferred_orders"]

_CHANNELS_LAST = {
    "AveragePool",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "MaxPool",
    "Resize",
    "SpaceToDepth",
    "Upsample",
}
_LAST_AXIS = {"Gemm", "MatMul"}
_REACH = 12  # nodes looked at; enough to see through a normalisation or an activation


def preferred_orders(ctx: Lowering, name: str) -> tuple[Perm, ...]:
    """Orders to try first for a tensor that a reshape or a matrix product makes."""
    rank = ctx.rank(name)
    natural = identity(rank)
    if rank != 4:
        return (natural,)
    return (NHWC, natural) if _wants_channels_last(ctx, name) else (natural, NHWC)


def _wants_channels_last(ctx: Lowering, name: str) -> bool:
    """The first consumer that cares decides; elementwise operators and the like pass the question on."""
    queue, seen = [(name, NHWC)], 0
    while queue and seen < _REACH:
        current, order = queue.pop(0)
        if current in ctx.source.outputs:
            return order == NHWC
        for node in ctx.consumers.get(current, []):
            seen += 1
            if node.op in _CHANNELS_LAST:
                return order == NHWC
            if node.op in _LAST_AXIS:
                return order != NHWC
            if node.op == "Transpose":
                axes = node.integers("perm") or ()
                if len(axes) == 4:
                    queue.append((node.outputs[0], tuple(axes.index(axis) for axis in order)))
            elif ctx.shape(node.outputs[0]) == ctx.shape(current):
                queue.append((node.outputs[0], order))
    return True
