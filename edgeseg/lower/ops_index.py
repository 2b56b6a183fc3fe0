"""Operators that pick, join and pad: slice, gather, split, concat, pad, depth to space."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import NHWC, identity, normal_axis, permuted
from edgeseg.lower.source import Node


@lowers("Concat")
def concat(ctx: Lowering, node: Node) -> None:
    """CONCATENATION along the stored position of the axis."""
    out = node.outputs[0]
    perm = ctx.common_order(node.inputs, ctx.rank(out))
    tensors = [ctx.read(name, perm) for name in node.inputs]
    axis = ctx.position(perm, node.integer("axis", 0))
    ctx.finish("CONCATENATION", tensors, out, perm, "ConcatenationOptions", axis=axis, fusedActivationFunction=0)


@lowers("Split")
def split(ctx: Lowering, node: Node) -> None:
    """One SLICE an output; a part that nobody reads costs nothing."""
    source = node.inputs[0]
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    axis = normal_axis(node.integer("axis", 0), ctx.rank(source))
    start = 0
    for name in node.outputs:
        if not name:
            raise Refused("a part without a name")
        size = ctx.shape(name)[axis]
        begin = [start if item == axis else 0 for item in perm]
        shape = permuted(ctx.shape(name), perm)
        ctx.finish("SLICE", (tensor, ctx.index(begin), ctx.index(shape)), name, perm, "SliceOptions")
        start += size


@lowers("Slice")
def slice_op(ctx: Lowering, node: Node) -> None:
    """SLICE, or STRIDED_SLICE where a step is not 1."""
    source, out = node.inputs[0], node.outputs[0]
    shape, rank = ctx.shape(source), ctx.rank(source)
    starts, ends = ctx.setting(node, "starts", 1) or (), ctx.setting(node, "ends", 2) or ()
    axes = ctx.setting(node, "axes", 3) or tuple(range(len(starts)))
    steps = ctx.setting(node, "steps", 4) or (1,) * len(starts)
    cuts = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[normal_axis(axis, rank)] = slice(start, end, step)
    spans = [range(*cut.indices(shape[axis])) for axis, cut in enumerate(cuts)]
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    if all(len(span) == shape[axis] and span.step == 1 for axis, span in enumerate(spans)):
        ctx.bind(out, perm, tensor)
        return
    begin = ctx.index([spans[axis].start for axis in perm])
    if all(span.step == 1 for span in spans):
        size = ctx.index([len(spans[axis]) for axis in perm])
        ctx.finish("SLICE", (tensor, begin, size), out, perm, "SliceOptions")
        return
    # An end before the first element cannot be said as an index: the end mask stands for it.
    mask = sum(1 << position for position, axis in enumerate(perm) if spans[axis].stop < 0)
    stop = ctx.index([max(spans[axis].stop, 0) for axis in perm])
    stride = ctx.index([spans[axis].step for axis in perm])
    ctx.finish(
        "STRIDED_SLICE", (tensor, begin, stop, stride), out, perm, "StridedSliceOptions",
        beginMask=0, endMask=mask, ellipsisMask=0, newAxisMask=0, shrinkAxisMask=0,
    )  # fmt: skip


@lowers("Gather")
def gather(ctx: Lowering, node: Node) -> None:
    """A SLICE where the indices are a run, else GATHER."""
    source, out = node.inputs[0], node.outputs[0]
    shape = ctx.shape(source)
    axis = normal_axis(node.integer("axis", 0), len(shape))
    indices = ctx.known(node.inputs[1], "indices").astype(np.int64)
    indices = np.where(indices < 0, indices + shape[axis], indices)
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    flat = indices.reshape(-1)
    stored = [len(flat) if item == axis else shape[item] for item in perm]
    if np.all(np.diff(flat) == 1):
        begin = ctx.index([int(flat[0]) if item == axis else 0 for item in perm])
        made = ctx.step("SLICE", (tensor, begin, ctx.index(stored)), out, stored, "SliceOptions", ctx.dtype(out))
    else:
        inputs = (tensor, ctx.index(flat.tolist()))
        options = {"axis": perm.index(axis), "batchDims": 0}
        made = ctx.step("GATHER", inputs, out, stored, "GatherOptions", ctx.dtype(out), **options)
    # The axis gives way to those of the indices, none of them for a single index.
    extra = indices.ndim - 1
    result = tuple(
        new
        for item in perm
        for new in (range(axis, axis + extra + 1) if item == axis else [item + (extra if item > axis else 0)])
    )
    ctx.bind(out, result, ctx.reshape(made, permuted(ctx.shape(out), result), out))


@lowers("GatherND")
def gather_nd(ctx: Lowering, node: Node) -> None:
    """GATHER over the leading axes that the indices address, taken as one axis."""
    source, out = node.inputs[0], node.outputs[0]
    if node.integer("batch_dims", 0):
        raise Refused("batch dimensions")
    indices = ctx.known(node.inputs[1], "indices").astype(np.int64)
    shape, count = ctx.shape(source), indices.shape[-1]
    leading, rest = shape[:count], shape[count:]
    flat = np.ravel_multi_index(tuple(np.moveaxis(indices % np.asarray(leading), -1, 0)), leading).reshape(-1)
    tensor = ctx.read(source, identity(len(shape)))
    tensor = ctx.reshape(tensor, (int(np.prod(leading)), *rest), out)
    picked = (flat.size, *rest)
    inputs = (tensor, ctx.index(flat.tolist()))
    made = ctx.step("GATHER", inputs, out, picked, "GatherOptions", ctx.dtype(out), axis=0, batchDims=0)
    ctx.bind(out, identity(ctx.rank(out)), ctx.reshape(made, ctx.shape(out), out))


@lowers("Pad")
def pad(ctx: Lowering, node: Node) -> None:
    """PAD, PADV2 or MIRROR_PAD; ``edge`` repeats the border slices; negative paddings cut."""
    source, out = node.inputs[0], node.outputs[0]
    shape, rank = ctx.shape(source), ctx.rank(source)
    given = ctx.setting(node, "pads", 1) or ()
    axes = ctx.setting(node, "axes", 3) if node.input(3) else None
    amounts = [(0, 0)] * rank
    for i, axis in enumerate(axes or range(rank)):
        amounts[normal_axis(axis, rank)] = (given[i], given[i + len(given) // 2])
    mode = node.text("mode", "constant")
    perm = ctx.order(source)
    tensor = ctx.read(source, perm)
    stored = [amounts[axis] for axis in perm]
    if any(min(pair) < 0 for pair in stored):
        if mode != "constant" and any(max(pair) > 0 for pair in stored):
            raise Refused(f"negative paddings in mode {mode}")
        begin = [max(-first, 0) for first, _ in stored]
        size = [shape[axis] + min(0, a) + min(0, b) for axis, (a, b) in zip(perm, stored, strict=True)]
        tensor = ctx.step("SLICE", (tensor, ctx.index(begin), ctx.index(size)), out, size, "SliceOptions", ctx.dtype(source))
        stored = [(max(a, 0), max(b, 0)) for a, b in stored]
    if not any(max(pair) for pair in stored):
        ctx.bind(out, perm, tensor)
    elif mode == "constant":
        value = ctx.source.scalar(node.input(2)) if node.input(2) else node.real("value", 0.0)
        if value is None:
            raise Refused("a padding value that is not constant")
        if value == 0.0:
            ctx.finish("PAD", (tensor, ctx.index(stored)), out, perm, "PadOptions")
        else:
            fill = ctx.value(np.asarray(value, ctx.dtype(source)), f"const/{value:.9g}")
            ctx.finish("PADV2", (tensor, ctx.index(stored), fill), out, perm, "PadV2Options")
    elif mode == "reflect":
        ctx.finish("MIRROR_PAD", (tensor, ctx.index(stored)), out, perm, "MirrorPadOptions", mode=0)
    elif mode in {"edge", "wrap"}:
        ctx.bind(out, perm, _pad_with_slices(ctx, tensor, stored, out, wrap=mode == "wrap"))
    else:
        raise Refused(f"padding mode {mode}")


def _pad_with_slices(ctx: Lowering, tensor: str, stored: list[tuple[int, int]], near: str, *, wrap: bool) -> str:
    """Repeats the outermost slices (or takes those of the other end), one axis after another."""
    for axis, (first, last) in enumerate(stored):
        if not first and not last:
            continue
        held = ctx.graph.tensors[tensor]
        size = held.shape[axis]
        if wrap and max(first, last) > size:
            raise Refused("wrapping more than once around")
        runs = [(size - first, first), (0, last)] if wrap else [(0, 1)] * first + [(size - 1, 1)] * last
        cut = len(runs) // 2 if wrap else first
        parts = [_slab(ctx, tensor, axis, start, count, near) if count else "" for start, count in runs]
        joined = [name for name in (*parts[:cut], tensor, *parts[cut:]) if name]
        shape = tuple(item + first + last if i == axis else item for i, item in enumerate(held.shape))
        tensor = ctx.step(
            "CONCATENATION", joined, near, shape, "ConcatenationOptions", held.dtype,
            axis=axis, fusedActivationFunction=0,
        )  # fmt: skip
    return tensor


def _slab(ctx: Lowering, tensor: str, axis: int, start: int, count: int, near: str) -> str:
    held = ctx.graph.tensors[tensor]
    begin = [start if i == axis else 0 for i in range(len(held.shape))]
    shape = [count if i == axis else item for i, item in enumerate(held.shape)]
    return ctx.step("SLICE", (tensor, ctx.index(begin), ctx.index(shape)), near, shape, "SliceOptions", held.dtype)


@lowers("DepthToSpace")
def depth_to_space(ctx: Lowering, node: Node) -> None:
    """DEPTH_TO_SPACE, whose channel order is ONNX's DCR; for CRD (pixel shuffle) the channels are reordered first."""
    block = node.integer("blocksize", 1)
    source, out = node.inputs[0], node.outputs[0]
    tensor = ctx.read(source, NHWC)
    channels = ctx.shape(source)[1]
    if node.text("mode", "DCR") == "CRD" and channels != block * block:
        order = np.arange(channels).reshape(channels // block**2, block * block).T.reshape(-1)
        shape = ctx.graph.tensors[tensor].shape
        inputs = (tensor, ctx.index(order.tolist()))
        tensor = ctx.step("GATHER", inputs, out, shape, "GatherOptions", axis=3, batchDims=0)
    ctx.finish("DEPTH_TO_SPACE", (tensor,), out, NHWC, "DepthToSpaceOptions", blockSize=block)


@lowers("SpaceToDepth")
def space_to_depth(ctx: Lowering, node: Node) -> None:
    """SPACE_TO_DEPTH: both put the position within the block before the channel."""
    tensor = ctx.read(node.inputs[0], NHWC)
    block = node.integer("blocksize", 1)
    ctx.finish("SPACE_TO_DEPTH", (tensor,), node.outputs[0], NHWC, "SpaceToDepthOptions", blockSize=block)
