"""Moves factors to where they cost least. Exact but for rounding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeseg.lower.source import Node, Source

__all__ = ["fold_scales", "scale_operands"]

_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def _factor(source: Source, node: Node) -> tuple[str, float] | None:
    """The activation and the constant scalar of a multiplication or division."""
    if node.op not in {"Mul", "Div"}:
        return None
    for data, other in (node.inputs, node.inputs[::-1]):
        value = source.scalar(other)
        if value is None or data in source.constants or len(source.shapes[other]) > len(source.shapes[data]):
            continue
        if node.op == "Mul":
            return data, value
        return (data, 1.0 / value) if other == node.inputs[1] and value else None
    return None


def scale_operands(source: Source) -> None:
    """The product of two activations times a scalar (attention scores): the factor goes to the operand with fewer elements."""
    producers, consumers = source.producers(), source.consumers()
    for node in list(source.nodes):
        found = _factor(source, node)
        product = producers.get(found[0]) if found else None
        if found is None or product is None or product.op != "MatMul" or source.constants.keys() & set(product.inputs):
            continue
        name = product.outputs[0]
        if len(consumers[name]) > 1 or name in source.outputs:
            continue
        sizes = [math.prod(source.shapes[item]) for item in product.inputs]
        if min(sizes) >= math.prod(source.shapes[name]):
            continue
        small = product.inputs[sizes.index(min(sizes))]
        scaled = f"{node.outputs[0]}/operand"
        source.shapes[scaled], source.dtypes[scaled] = source.shapes[small], source.dtypes[small]
        scalar = source.add_constant(f"{node.outputs[0]}/factor", np.asarray(found[1], np.float32))
        inputs = tuple(scaled if item == small else item for item in product.inputs)
        if product.inputs[0] == product.inputs[1]:
            inputs = (scaled, small)
        position = source.nodes.index(product)
        source.nodes[position] = Node("Mul", f"{node.name}/operand", (small, scalar), (scaled,))
        moved = replace(product, inputs=inputs, outputs=node.outputs)
        source.nodes[source.nodes.index(node)] = moved
        producers[node.outputs[0]] = moved
        consumers = source.consumers()


def fold_scales(source: Source) -> None:
    """A scalar factor behind a linear operator with constant weights, views between them allowed, goes into the weights."""
    for node in list(source.nodes):
        found = _factor(source, node)
        if found is None:
            continue
        producers, consumers = source.producers(), source.consumers()
        chain, linear = [], producers.get(found[0])
        while linear is not None and linear.op in _VIEWS:
            chain.append(linear)
            linear = producers.get(linear.inputs[0])
        addition = linear if linear is not None and linear.op == "Add" else None
        linear = _product_below(source, producers, addition) if addition is not None else linear
        links = [item for item in (linear, addition, *chain) if item is not None]
        private = all(len(consumers[item.outputs[0]]) == 1 and item.outputs[0] not in source.outputs for item in links)
        if linear is None or not private or source.shapes[node.outputs[0]] != source.shapes[found[0]]:
            continue
        weights = [name for name in linear.inputs[1:] if name]
        bias = [name for name in addition.inputs if name in source.constants] if addition is not None else []
        known = all(name in source.constants for name in (*weights, *bias))
        if linear.op not in {"Gemm", "MatMul", "Conv"} or not known or len(weights) != len(linear.inputs) - 1:
            continue
        factor = np.float32(found[1])
        _scale_constants(source, linear, weights, factor)
        if addition is not None:
            _scale_constants(source, addition, bias, factor)
        source.nodes[source.nodes.index(node)] = replace(node, op="Identity", inputs=(found[0],), attrs={})


def _product_below(source: Source, producers: dict[str, Node], addition: Node) -> Node | None:
    """The linear operator whose bias an addition of a constant is."""
    data = [name for name in addition.inputs if name not in source.constants]
    return producers.get(data[0]) if len(data) == 1 else None


def _scale_constants(source: Source, node: Node, names: list[str], factor: np.float32) -> None:
    fresh = {name: source.add_constant(f"{name}/scaled", source.constants[name].astype(np.float32) * factor) for name in names}
    source.nodes[source.nodes.index(node)] = replace(node, inputs=tuple(fresh.get(name, name) for name in node.inputs))
