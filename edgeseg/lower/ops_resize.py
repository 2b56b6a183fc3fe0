"""Resize and Upsample."""

from __future__ import annotations

import numpy as np

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import NHWC, Perm, identity
from edgeseg.lower.resample import (
    Axis,
    Sampling,
    UnknownMode,
    onnx_indices,
    onnx_matrix,
    tflite_indices,
    tflite_matrix,
)
from edgeseg.lower.source import Node

_FLAGS = ((False, False), (False, True), (True, False))
"""align_corners, half_pixel"""

_CLOSE = 1e-5
"""Weights nearer than this are the same: single precision loses that much in coordinates of some hundred pixels."""


@lowers("Resize", "Upsample")
def resize(ctx: Lowering, node: Node) -> None:
    """RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR where a setting of their flags gives ONNX's numbers, else those numbers
    themselves: GATHER for nearest, a constant matrix for each axis for linear and cubic."""
    source, out = node.inputs[0], node.outputs[0]
    before, after = ctx.shape(source), ctx.shape(out)
    if len(before) != 4:
        raise Refused(f"a tensor of {len(before)} dimensions")
    how, scales = _sampling(ctx, node), _scales(ctx, node)
    moved = [axis for axis in range(4) if before[axis] != after[axis] or scales.get(axis, 1.0) != 1.0]
    if not moved:
        perm = ctx.order(source)
        ctx.bind(out, perm, ctx.read(source, perm))
        return
    if not set(moved) <= {2, 3} and not set(moved) <= {1, 2}:
        raise Refused(f"it resizes axes {moved}")
    perm = NHWC if set(moved) <= {2, 3} else identity(4)
    axes = [Axis(before[i], after[i], scales.get(i, after[i] / before[i])) for i in perm[1:3]]
    try:
        if how.mode == "nearest":
            _nearest(ctx, node, perm, [onnx_indices(axis, how) for axis in axes])
        else:
            _weighted(ctx, node, perm, [onnx_matrix(axis, how) for axis in axes])
    except UnknownMode as error:
        raise Refused(str(error)) from error


def _sampling(ctx: Lowering, node: Node) -> Sampling:
    old = node.op == "Upsample" or ctx.source.opset < 11
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("a policy that keeps the aspect ratio")
    return Sampling(
        mode=node.text("mode", "nearest").replace("bilinear", "linear"),
        coordinates=node.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"),
        nearest=node.text("nearest_mode", "floor" if old else "round_prefer_floor"),
        cubic_a=node.real("cubic_coeff_a", -0.75),
        exclude_outside=bool(node.integer("exclude_outside", 0)),
        antialias=bool(node.integer("antialias", 0)),
    )


def _scales(ctx: Lowering, node: Node) -> dict[int, float]:
    """The scales that the node states, by axis; empty where it states sizes."""
    given = node.reals("scales")
    name = node.input(1 if node.op == "Upsample" or ctx.source.opset < 11 else 2)
    if given is None and name:
        given = tuple(float(item) for item in ctx.known(name, "scales").reshape(-1))
    axes = node.integers("axes") or range(4)
    return dict(zip(axes, given, strict=True)) if given else {}


def _nearest(ctx: Lowering, node: Node, perm: Perm, wanted: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> None:
    source, out = node.inputs[0], node.outputs[0]
    tensor = ctx.read(source, perm)
    shape = ctx.graph.tensors[tensor].shape
    size = (len(wanted[0]), len(wanted[1]))
    for align, half in _FLAGS:
        made = [tflite_indices(shape[i + 1], size[i], align_corners=align, half_pixel=half) for i in range(2)]
        if all(np.array_equal(made[i], wanted[i]) for i in range(2)):
            inputs = (tensor, ctx.index(size))
            ctx.finish(
                "RESIZE_NEAREST_NEIGHBOR", inputs, out, perm, "ResizeNearestNeighborOptions",
                alignCorners=align, halfPixelCenters=half,
            )  # fmt: skip
            return
    middle = (shape[0], size[0], *shape[2:])
    rows = (tensor, ctx.index(wanted[0].tolist()))
    tensor = ctx.step("GATHER", rows, out, middle, "GatherOptions", ctx.dtype(out), axis=1, batchDims=0)
    columns = (tensor, ctx.index(wanted[1].tolist()))
    ctx.finish("GATHER", columns, out, perm, "GatherOptions", axis=2, batchDims=0)


def _weighted(ctx: Lowering, node: Node, perm: Perm, wanted: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]) -> None:
    source, out = node.inputs[0], node.outputs[0]
    tensor = ctx.read(source, perm)
    batch, height, width, channels = ctx.graph.tensors[tensor].shape
    rows, columns = len(wanted[0]), len(wanted[1])
    for align, half in _FLAGS:
        made = [tflite_matrix(a, b, align_corners=align, half_pixel=half) for a, b in ((height, rows), (width, columns))]
        if all(np.abs(made[i] - wanted[i]).max() < _CLOSE for i in range(2)):
            inputs = (tensor, ctx.index((rows, columns)))
            ctx.finish("RESIZE_BILINEAR", inputs, out, perm, "ResizeBilinearOptions", alignCorners=align, halfPixelCenters=half)
            return
    if batch != 1:
        raise Refused(f"a batch of {batch}")
    if rows != height or not np.array_equal(wanted[0], np.eye(rows)):
        matrix = ctx.value(wanted[0].astype(np.float32), f"{out}/rows")
        flat = ctx.reshape(tensor, (height, width * channels), out)
        tensor = ctx.step(
            "BATCH_MATMUL", (matrix, flat), out, (rows, width * channels), "BatchMatMulOptions", adjX=False, adjY=False
        )
    tensor = ctx.reshape(tensor, (rows, width, channels), out)
    if columns != width or not np.array_equal(wanted[1], np.eye(columns)):
        matrix = ctx.value(wanted[1].astype(np.float32)[np.newaxis], f"{out}/columns")
        shape = (rows, columns, channels)
        tensor = ctx.step("BATCH_MATMUL", (matrix, tensor), out, shape, "BatchMatMulOptions", adjX=False, adjY=False)
    full = (1, rows, columns, channels)
    ctx.finish("RESHAPE", (tensor, ctx.index(full)), out, perm, "ReshapeOptions", newShape=full)
