"""Rewrites of an ONNX graph that leave its function as it is and spell it in operators that converters know.

Each pass takes a model, changes it in place and says how many places it changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["drop_unread", "lower_opset", "respell_gelu", "rewrite"]

_OPSET = 17
_TOLERANCE = 1e-5  # between a constant in the file and the formula's, both float32


def rewrite(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of ``model`` with every pass applied, and what was done."""
    copy = type(model)()
    copy.CopyFrom(model)
    done: list[str] = []
    passes: dict[str, Callable[[onnx.ModelProto], int]] = {"GELU": respell_gelu, f"form of opset {_OPSET}": lower_opset}
    for what, apply in passes.items():
        count = apply(copy)
        if count:
            done.append(f"{count} x {what}")
    return copy, tuple(done)


class _Links:
    """Who makes and who reads each tensor, and the scalar constants."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        from onnx import numpy_helper

        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self.scalars: dict[str, float] = {}
        for tensor in graph.initializer:
            if math.prod(tensor.dims) == 1 and tensor.data_type == tensor.FLOAT:
                self.scalars[tensor.name] = float(numpy_helper.to_array(tensor).item())
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                value = numpy_helper.to_array(node.attribute[0].t)
                if value.size == 1 and value.dtype == np.float32:
                    self.scalars[node.output[0]] = float(value.item())

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def scaled(self, name: str) -> tuple[str, float]:
        """``name`` as another tensor times a scalar: through one Mul or Div by a constant, if one made it."""
        node = self.makers.get(name)
        if node is not None and node.op_type in ("Mul", "Div"):
            left, right = node.input
            if right in self.scalars:
                return left, self.scalars[right] if node.op_type == "Mul" else 1 / self.scalars[right]
            if left in self.scalars and node.op_type == "Mul":
                return right, self.scalars[left]
        return name, 1.0


def respell_gelu(model: onnx.ModelProto) -> int:
    """``x * (1 + erf(x / sqrt(2))) / 2``, however its factors are grouped, and ``Gelu``, as ``(x * a) * (1 + erf(x * b))``.

    TFLite has no erf; this is the one spelling that TensorFlow's converter turns into TFLite's GELU. The formula: Hendrycks
    and Gimpel 2016, arXiv:1606.08415.
    """
    from onnx import numpy_helper

    found = _gelus(model.graph)
    if not found:
        return 0
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        result = node.output[0]
        if result not in found:
            nodes.append(node)
            continue
        nodes += _written_out_gelu(found[result], result)
        for name, value in (("half", 0.5), ("scale", math.sqrt(0.5)), ("one", 1.0)):
            constant = numpy_helper.from_array(np.array(value, np.float32), f"{result}/gelu/{name}")
            model.graph.initializer.append(constant)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unread(model.graph)
    return len(found)


def _written_out_gelu(x: str, result: str) -> list[onnx.NodeProto]:
    import onnx

    prefix = f"{result}/gelu"
    steps = [
        ("Mul", [x, f"{prefix}/half"], f"{prefix}/halved"),
        ("Mul", [x, f"{prefix}/scale"], f"{prefix}/scaled"),
        ("Erf", [f"{prefix}/scaled"], f"{prefix}/erf"),
        ("Add", [f"{prefix}/erf", f"{prefix}/one"], f"{prefix}/shifted"),
        ("Mul", [f"{prefix}/halved", f"{prefix}/shifted"], result),
    ]
    return [onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}") for kind, inputs, output in steps]


def _gelus(graph: onnx.GraphProto) -> dict[str, str]:
    """For each GELU, the tensor it gives and the tensor it takes."""
    links = _Links(graph)
    matches = [_match_gelu(links, node) for node in graph.node if node.op_type == "Erf"]
    found = {result: x for x, result in filter(None, matches)}
    for node in graph.node:
        if node.op_type == "Gelu" and not any(attribute.s == b"tanh" for attribute in node.attribute):
            found[node.output[0]] = node.input[0]
    return found


def _match_gelu(links: _Links, erf: onnx.NodeProto) -> tuple[str, str] | None:
    x, scale = links.scaled(erf.input[0])
    if abs(scale - math.sqrt(0.5)) > _TOLERANCE:
        return None
    shifted = links.only_reader(erf.output[0])
    if shifted is None or shifted.op_type != "Add":
        return None
    if not any(abs(links.scalars.get(name, 0.0) - 1) < _TOLERANCE for name in shifted.input):
        return None
    # Follow the product in which 1 + erf(..) is a factor until the other factors are x and one half.
    name, factor, has_x = shifted.output[0], 1.0, False
    while True:
        product = links.only_reader(name)
        if product is None or product.op_type not in ("Mul", "Div"):
            return None
        left, right = product.input
        if product.op_type == "Div":
            if right not in links.scalars:
                return None
            factor /= links.scalars[right]
        else:
            other = right if left == name else left
            if other in links.scalars:
                factor *= links.scalars[other]
            else:
                tensor, scale = (other, 1.0) if other == x else links.scaled(other)
                if tensor != x or has_x:
                    return None
                factor, has_x = factor * scale, True
        name = product.output[0]
        if has_x and abs(factor - 0.5) < _TOLERANCE:
            return x, name


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove operators whose outputs nobody reads, and constants likewise."""
    kept = list(graph.node)
    while True:
        read = {name for node in kept for name in node.input} | {value.name for value in graph.output}
        alive = [node for node in kept if any(name in read for name in node.output)]
        if len(alive) == len(kept):
            break
        kept = alive
    made = {name for node in kept for name in node.output} | {value.name for value in graph.input}
    for field, names in ((graph.initializer, read), (graph.value_info, made)):
        remaining = [item for item in field if item.name in names]
        del field[:]
        field.extend(remaining)
    del graph.node[:]
    graph.node.extend(kept)


# Reductions whose axes moved from an attribute to an input with opset 18.
_REDUCTIONS = frozenset(
    f"Reduce{name}" for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
)


def lower_opset(model: onnx.ModelProto) -> int:
    """Write a graph of a later opset as opset 17, where each of its operators has that form; else leave it as it is.

    onnx2tf 1.28 ignores ``align_corners`` and the other ways of placing samples in a Resize of opset 18 and later.
    """
    import onnx
    from onnx import numpy_helper

    current = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if current.version <= _OPSET:
        return 0
    lowered = type(model)()
    lowered.CopyFrom(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in lowered.graph.initializer}
    for node in lowered.graph.node:
        if node.op_type in _REDUCTIONS and len(node.input) > 1:
            axes = constants.get(node.input[1])
            _drop_attributes(node, {"noop_with_empty_axes": 0})
            if axes is not None:
                del node.input[1:]
                node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
        elif node.op_type == "Split":
            _drop_attributes(node, {"num_outputs": len(node.output)})
        elif node.op_type == "Resize":
            _drop_attributes(node, {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"})
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = _OPSET
    drop_unread(lowered.graph)
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return 0
    model.CopyFrom(lowered)
    return 1


def _drop_attributes(node: onnx.NodeProto, defaults: dict[str, int | bytes]) -> None:
    """Remove attributes that opset 17 does not know, where they only say what it does anyway."""
    import onnx

    kept = [item for item in node.attribute if defaults.get(item.name) != onnx.helper.get_attribute_value(item)]
    del node.attribute[:]
    node.attribute.extend(kept)
