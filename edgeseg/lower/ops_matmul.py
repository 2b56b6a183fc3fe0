"""Matrix products."""

from __future__ import annotations

import math

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers, trailing
from edgeseg.lower.layout import Perm, identity, permuted
from edgeseg.lower.source import Node
from edgeseg.tflite.graph import Array


@lowers("MatMul")
def matmul(ctx: Lowering, node: Node) -> None:
    """FULLY_CONNECTED where one side is a constant matrix, else BATCH_MATMUL."""
    left, right = node.inputs
    out = node.outputs[0]
    weights = ctx.constant(right)
    if weights is not None and weights.ndim == 2 and ctx.rank(left) >= 2:
        connect(ctx, left, np.ascontiguousarray(weights.T), None, right, out)
        return
    weights = ctx.constant(left)
    if weights is not None and weights.ndim == 2 and ctx.rank(right) == 2:
        # (A B)^T = B^T A^T: the same operator on views.
        flipped = f"{out}^T"
        ctx.source.shapes[flipped], ctx.source.dtypes[flipped] = ctx.shape(out)[::-1], ctx.dtype(out)
        connect(ctx, _flipped(ctx, right), np.ascontiguousarray(weights), None, left, flipped)
        ctx.view(out, flipped, (1, 0))
        return
    if min(ctx.rank(left), ctx.rank(right)) < 2:
        raise Refused("a product with a vector")
    _batch_matmul(ctx, left, right, out)


def connect(ctx: Lowering, source: str, weights: Array, bias: str | None, name: str, out: str) -> None:
    """``source`` times the transpose of ``weights`` (outputs, inputs) over its last axis, in any order that stores it last."""
    last = ctx.rank(source) - 1
    perm = next((item for item in ctx.orders(source) if item[-1] == last), identity(last + 1))
    zeros = ctx.value(np.zeros(weights.shape[0], np.float32), f"{name}/bias")
    inputs = (ctx.read(source, perm), ctx.value(weights, name), bias if bias is not None else zeros)
    ctx.finish(
        "FULLY_CONNECTED", inputs, out, perm, "FullyConnectedOptions",
        fusedActivationFunction=0, weightsFormat=0, keepNumDims=True,
    )  # fmt: skip


def _batch_matmul(ctx: Lowering, left: str, right: str, out: str) -> None:
    rank = ctx.rank(out)
    if rank > 5:
        raise Refused(f"a product of {rank} dimensions")
    perm = identity(rank)
    first = _read_matrix(ctx, left, rank, perm)
    flipped = (*perm[:-2], perm[-1], perm[-2])
    # The right side may be stored transposed, which the kernel takes as it is; and if it must be moved anyway, its last axis
    # had better stay where it is.
    transposed = ctx.constant(right) is None and not ctx.lies_as(right, trailing(perm, ctx.rank(right)))
    turned = trailing(flipped, ctx.rank(right))
    transposed = transposed and (ctx.lies_as(right, turned) or ctx.order(right)[-1] == turned[-1])
    second = _read_matrix(ctx, right, rank, flipped if transposed else perm)
    ctx.finish("BATCH_MATMUL", (first, second), out, perm, "BatchMatMulOptions", adjX=False, adjY=transposed)


def _read_matrix(ctx: Lowering, name: str, rank: int, perm: Perm) -> str:
    lead, own = rank - ctx.rank(name), trailing(perm, ctx.rank(name))
    tensor = ctx.read(name, own)
    return ctx.reshape(tensor, (1,) * lead + permuted(ctx.shape(name), own), name)


@lowers("Gemm")
def gemm(ctx: Lowering, node: Node) -> None:
    """alpha A' B' + beta C, with a constant B' as FULLY_CONNECTED."""
    left, right, out = node.inputs[0], node.inputs[1], node.outputs[0]
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.integer("transA", 0):
        left = _flipped(ctx, left)
    weights = ctx.constant(right)
    addend = ctx.constant(node.input(2)) if node.input(2) else None
    if weights is None:
        if alpha != 1.0 or node.input(2):
            raise Refused("scaling or bias on a product of two activations")
        _batch_matmul(ctx, left, _flipped(ctx, right) if node.integer("transB", 0) else right, out)
        return
    if node.input(2) and addend is None:
        raise Refused("a bias that is not constant")
    weights = weights if node.integer("transB", 0) else weights.T
    weights = np.ascontiguousarray(weights.astype(np.float32) * np.float32(alpha))
    bias = None
    if addend is not None:
        if addend.ndim > 1 and math.prod(addend.shape[:-1]) != 1:
            raise Refused("a bias of two dimensions")
        vector = np.broadcast_to(
            addend.reshape(addend.shape[-1:] or (1,)).astype(np.float32) * np.float32(beta), weights.shape[:1]
        )
        bias = ctx.value(np.ascontiguousarray(vector, np.float32), node.inputs[2])
    connect(ctx, left, weights, bias, right, out)


def _flipped(ctx: Lowering, name: str) -> str:
    """A view of a matrix with its axes exchanged."""
    view = f"{name}^T"
    if view not in ctx.source.shapes:
        ctx.source.shapes[view], ctx.source.dtypes[view] = ctx.shape(name)[::-1], ctx.dtype(name)
    ctx.view(view, name, (1, 0))
    return view
