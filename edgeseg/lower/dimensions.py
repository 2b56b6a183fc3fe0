"""Windows along one or three axes as windows along two, and running sums as products: what TFLite's kernels lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeseg.lower.source import AttrValue, Node, Shape, Source

__all__ = ["spell_out_running_sums", "window_two_axes"]

_WEIGHTED = {"Conv", "ConvTranspose"}
_WINDOWED = {*_WEIGHTED, "AveragePool", "MaxPool", "LpPool"}
_PER_AXIS = ("kernel_shape", "strides", "dilations", "output_padding", "output_shape")


def window_two_axes(source: Source) -> None:
    """A window along one axis gets a second axis of length 1 before it (the 1-D convolution of efficient channel attention,
    arXiv:1910.03151); of three axes two neighbours are merged where the window covers single elements of both (the
    average across channels of local response normalization)."""
    for node in [node for node in source.nodes if node.op in _WINDOWED and len(node.outputs) == 1]:
        before, after = source.shapes[node.inputs[0]], source.shapes[node.outputs[0]]
        if node.op in _WEIGHTED and node.inputs[1] not in source.constants:
            continue
        kernel = node.integers("kernel_shape") or source.shapes[node.inputs[1]][2:]
        if len(before) == 3:
            _reshaped(source, node, _with_new_axis(source, node, kernel), _unit(before), _unit(after))
        elif len(before) == 5 and node.text("auto_pad", "NOTSET") == "NOTSET":
            first = next((i for i in (1, 0) if _single(node, kernel, i) and _single(node, kernel, i + 1)), None)
            if first is not None and before[first + 2 : first + 4] == after[first + 2 : first + 4]:
                changed = _with_merged_axes(source, node, kernel, first)
                _reshaped(source, node, changed, _merged(before, first), _merged(after, first))


def _unit(shape: Shape) -> Shape:
    return (*shape[:2], 1, shape[2])


def _merged(shape: Shape, first: int) -> Shape:
    start = first + 2
    return (*shape[:start], shape[start] * shape[start + 1], *shape[start + 2 :])


def _single(node: Node, kernel: tuple[int, ...], axis: int) -> bool:
    pads = node.integers("pads") or (0,) * (2 * len(kernel))
    stride = (node.integers("strides") or (1,) * len(kernel))[axis]
    return (kernel[axis], stride, pads[axis], pads[axis + len(kernel)]) == (1, 1, 0, 0)


def _with_new_axis(source: Source, node: Node, kernel: tuple[int, ...]) -> Node:
    neutral = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}
    attrs: dict[str, AttrValue] = dict(node.attrs) | {"kernel_shape": kernel}
    for key in _PER_AXIS:
        values = kernel if key == "kernel_shape" else node.integers(key)
        if values is not None:
            attrs[key] = (neutral[key], *values)
    pads = node.integers("pads")
    if pads is not None:
        attrs["pads"] = (0, pads[0], 0, pads[1])
    return _with_weights(source, replace(node, attrs=attrs), _unit)


def _with_merged_axes(source: Source, node: Node, kernel: tuple[int, ...], first: int) -> Node:
    attrs: dict[str, AttrValue] = dict(node.attrs) | {"kernel_shape": kernel}
    for key in _PER_AXIS:
        values = kernel if key == "kernel_shape" else node.integers(key)
        if values is not None:
            attrs[key] = (*values[:first], *values[first + 1 :])
    pads = node.integers("pads")
    if pads is not None:
        attrs["pads"] = tuple(pad for index, pad in enumerate(pads) if index % 3 != first)
    return _with_weights(source, replace(node, attrs=attrs), lambda shape: _merged(shape, first))


def _with_weights(source: Source, node: Node, reshape: Callable[[Shape], Shape]) -> Node:
    if node.op not in _WEIGHTED:
        return node
    weights = source.constants[node.inputs[1]]
    name = source.add_constant(node.inputs[1], weights.reshape(reshape(weights.shape)))
    return replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))


def _reshaped(source: Source, old: Node, new: Node, before: Shape, after: Shape) -> None:
    """``old`` becomes ``new`` on an input reshaped to ``before``, whose output of shape ``after`` is reshaped back."""
    out = old.outputs[0]
    names = (f"{out}/input", f"{out}/window")
    for name, shape in zip(names, (before, after), strict=True):
        source.shapes[name], source.dtypes[name] = shape, source.dtypes[out]
    there, back = (source.add_constant(f"{out}/shape", np.asarray(shape, np.int64)) for shape in (before, source.shapes[out]))
    position = source.nodes.index(old)
    source.nodes[position : position + 1] = [
        Node("Reshape", names[0], (old.inputs[0], there), names[:1]),
        replace(new, inputs=(names[0], *new.inputs[1:]), outputs=names[1:]),
        Node("Reshape", f"{old.name}/back", (names[1], back), (out,)),
    ]


def spell_out_running_sums(source: Source) -> None:
    """CumSum along an axis is a product with a triangle of ones; the axis goes last for it."""
    for node in [node for node in source.nodes if node.op == "CumSum"]:
        shape, out = source.shapes[node.inputs[0]], node.outputs[0]
        axis = source.scalar(node.inputs[1])
        if axis is None or len(shape) < 2 or source.dtypes[out] != "float32":
            continue
        place = int(axis) % len(shape)
        triangle = np.triu(np.ones((shape[place], shape[place]), np.float32), node.integer("exclusive", 0))
        triangle = triangle.T if node.integer("reverse", 0) else triangle
        order = list(range(len(shape)))
        order[place], order[-1] = order[-1], order[place]
        perm, turned = tuple(order), tuple(shape[index] for index in order)
        names = (f"{out}/turned", f"{out}/summed")
        for name in names:
            source.shapes[name], source.dtypes[name] = turned, "float32"
        ones = source.add_constant(f"{out}/ones", triangle)
        position = source.nodes.index(node)
        source.nodes[position : position + 1] = [
            Node("Transpose", names[0], (node.inputs[0],), names[:1], {"perm": perm}),
            Node("MatMul", names[1], (names[0], ones), names[1:]),
            Node("Transpose", f"{node.name}/back", (names[1],), (out,), {"perm": perm}),
        ]
