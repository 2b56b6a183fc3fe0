"""Normalisations."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import NHWC, identity, normal_axis, permuted
from edgeseg.lower.ops_elementwise import apply
from edgeseg.lower.source import Node


@lowers("BatchNormalization")
def batch_norm(ctx: Lowering, node: Node) -> None:
    """MUL and ADD with constants per channel; one that follows a convolution is folded into it before."""
    source = node.inputs[0]
    scale, shift = batch_norm_terms(
        ctx.known(node.inputs[1], "scale"),
        ctx.known(node.inputs[2], "bias"),
        ctx.known(node.inputs[3], "mean"),
        ctx.known(node.inputs[4], "variance"),
        node.real("epsilon", 1e-5),
    )
    _affine(ctx, ctx.read(source, ctx.order(source)), scale, shift, 1, node)


def batch_norm_terms(
    scale: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    bias: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    mean: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    variance: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    epsilon: float,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """A batch norm as ``x * factor + shift``, per channel, in double precision."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias.astype(np.float64) - mean.astype(np.float64) * factor


def _affine(
    ctx: Lowering,
    tensor: str,
    scale: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    shift: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None,
    axis: int,
    node: Node,
) -> None:
    """Multiply and add per channel ``axis``; defines the output in the order of its input."""
    source, out = node.inputs[0], node.outputs[0]
    perm = ctx.order(source)
    shape = [1] * (len(perm) - perm.index(axis))
    shape[0] = scale.size
    factor = ctx.value(scale.astype(np.float32).reshape(shape), node.input(1) or f"{out}/scale")
    if shift is None or not np.any(shift):
        ctx.finish("MUL", (tensor, factor), out, perm, "MulOptions", fusedActivationFunction=0)
        return
    made = apply(ctx, "MUL", (tensor, factor), out)
    addend = ctx.value(shift.astype(np.float32).reshape(shape), node.input(2) or f"{out}/shift")
    ctx.finish("ADD", (made, addend), out, perm, "AddOptions", fusedActivationFunction=0)


def standardize(ctx: Lowering, tensor: str, axes: list[int], epsilon: float, near: str) -> str:
    """(x - mean) / sqrt(variance + epsilon) of a stored tensor over stored axes; the variance is that of the population."""
    held = ctx.graph.tensors[tensor].shape
    shape = [1 if axis in axes else size for axis, size in enumerate(held)]
    over = ctx.index(axes)
    mean = ctx.step("MEAN", (tensor, over), near, shape, "ReducerOptions", keepDims=True)
    centred = apply(ctx, "SUB", (tensor, mean), near)
    spread = apply(ctx, "SQUARE", (centred,), near)
    spread = ctx.step("MEAN", (spread, over), near, shape, "ReducerOptions", keepDims=True)
    spread = apply(ctx, "RSQRT", (apply(ctx, "ADD", (spread, ctx.number(epsilon)), near),), near)
    return apply(ctx, "MUL", (centred, spread), near)


@lowers("LayerNormalization")
def layer_norm(ctx: Lowering, node: Node) -> None:
    """Over the axes from ``axis`` on, then a factor and an addend (Ba et al. 2016, arXiv:1607.06450)."""
    source, out = node.inputs[0], node.outputs[0]
    if any(node.outputs[1:]):
        raise Refused("its mean or deviation is read")
    perm = ctx.order(source)
    rank = len(perm)
    axis = normal_axis(node.integer("axis", -1), rank)
    over = sorted(perm.index(item) for item in range(axis, rank))
    tensor = standardize(ctx, ctx.read(source, perm), over, node.real("epsilon", 1e-5), out)
    terms = [("MUL", node.input(1)), ("ADD", node.input(2))]
    terms = [(kind, name) for kind, name in terms if name]
    for _, name in terms:
        ctx.known(name, "scale or bias")
    for kind, name in terms[:-1]:
        tensor = apply(ctx, kind, (tensor, ctx.read_broadcast(name, perm)), out)
    if terms:
        kind, name = terms[-1]
        inputs = (tensor, ctx.read_broadcast(name, perm))
        ctx.finish(kind, inputs, out, perm, f"{kind.title()}Options", fusedActivationFunction=0)
    else:
        ctx.bind(out, perm, tensor)


@lowers("InstanceNormalization")
def instance_norm(ctx: Lowering, node: Node) -> None:
    """Over the spatial axes of every channel."""
    source, out = node.inputs[0], node.outputs[0]
    perm = ctx.order(source)
    over = sorted(perm.index(axis) for axis in range(2, len(perm)))
    tensor = standardize(ctx, ctx.read(source, perm), over, node.real("epsilon", 1e-5), out)
    scale = ctx.known(node.inputs[1], "scale").astype(np.float64)
    shift = ctx.known(node.inputs[2], "bias").astype(np.float64)
    if np.all(scale == 1) and not np.any(shift):
        ctx.bind(out, perm, tensor)
    else:
        _affine(ctx, tensor, scale, shift, 1, node)


@lowers("GroupNormalization")
def group_norm(ctx: Lowering, node: Node) -> None:
    """Over the spatial axes and the channels of every group (Wu and He 2018, arXiv:1803.08494)."""
    source, out = node.inputs[0], node.outputs[0]
    shape, rank = ctx.shape(source), ctx.rank(source)
    groups = node.integer("num_groups", 1)
    perm = NHWC if rank == 4 else identity(rank)
    position = perm.index(1)
    stored = list(permuted(shape, perm))
    split = [*stored[:position], groups, shape[1] // groups, *stored[position + 1 :]]
    tensor = ctx.reshape(ctx.read(source, perm), split, out)
    over = [axis for axis in range(1, len(split)) if axis != position]
    tensor = ctx.reshape(standardize(ctx, tensor, over, node.real("epsilon", 1e-5), out), stored, out)
    # Opset 18 gives scale and bias per group, opset 21 per channel.
    scale, shift = (ctx.known(name, "scale or bias").astype(np.float64) for name in node.inputs[1:3])
    if scale.size == groups != shape[1]:
        scale, shift = (np.repeat(item, shape[1] // groups) for item in (scale, shift))
    factor = ctx.value(scale.astype(np.float32).reshape(-1, *[1] * (rank - 1 - position)), f"{out}/scale")
    addend = ctx.value(shift.astype(np.float32).reshape(-1, *[1] * (rank - 1 - position)), f"{out}/shift")
    tensor = apply(ctx, "MUL", (tensor, factor), out)
    ctx.finish("ADD", (tensor, addend), out, perm, "AddOptions", fusedActivationFunction=0)
