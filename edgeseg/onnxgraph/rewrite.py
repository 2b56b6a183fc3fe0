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

__all__ = ["fuse_gelu", "rewrite"]

_GELU_OPSET = 20
_TOLERANCE = 1e-5  # between a constant in the file and the formula's, both float32


def rewrite(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A copy of ``model`` with every pass applied, and what was done."""
    copy = type(model)()
    copy.CopyFrom(model)
    done: list[str] = []
    passes: dict[str, Callable[[onnx.ModelProto], int]] = {"GELU written out in several operators": fuse_gelu}
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


def fuse_gelu(model: onnx.ModelProto) -> int:
    """``x * (1 + erf(x / sqrt(2))) / 2``, however the factors are grouped, becomes ``Gelu`` (ONNX opset 20).

    TFLite has GELU but no erf. Source of the formula: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    import onnx

    if not _gelus(model.graph):
        return 0
    _raise_opset(model, _GELU_OPSET)
    found = _gelus(model.graph)
    for index, node in enumerate(model.graph.node):
        if node.output[0] in found:
            gelu = onnx.helper.make_node("Gelu", [found[node.output[0]]], [node.output[0]], name=node.name)
            model.graph.node[index].CopyFrom(gelu)
    _drop_unread(model.graph)
    return len(found)


def _gelus(graph: onnx.GraphProto) -> dict[str, str]:
    """For each GELU, the tensor it gives and the tensor it takes."""
    links = _Links(graph)
    matches = [_match_gelu(links, node) for node in graph.node if node.op_type == "Erf"]
    return {result: x for x, result in filter(None, matches)}


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


def _drop_unread(graph: onnx.GraphProto) -> None:
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


def _raise_opset(model: onnx.ModelProto, opset: int) -> None:
    import onnx

    current = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if current < opset:
        model.CopyFrom(onnx.version_converter.convert_version(model, opset))
