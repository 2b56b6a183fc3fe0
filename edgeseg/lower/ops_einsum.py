"""Einsum of two operands as one BATCH_MATMUL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseg.lower.context import Lowering, Refused, lowers
from edgeseg.lower.layout import permuted
from edgeseg.lower.source import Node


@dataclass(frozen=True)
class _Letters:
    """Every index once: shared and kept, summed, kept from the left, kept from the right."""

    batch: str
    summed: str
    left: str
    right: str


@lowers("Einsum")
def einsum(ctx: Lowering, node: Node) -> None:
    """Both sides become (batch, rows, summed) and (batch, columns, summed); the result (batch, rows, columns) is stored in
    that order of its axes."""
    equation = node.text("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    sides = terms.split(",")
    if not arrow or len(sides) != 2 or "." in equation:
        raise Refused(f"equation '{equation}', two operands without ellipsis are supported")
    if any(len(set(item)) != len(item) for item in (*sides, result)):
        raise Refused(f"equation '{equation}' repeats an index within one operand")
    letters = _sort(sides[0], sides[1], result)
    sizes = {
        letter: size
        for name, side in zip(node.inputs, sides, strict=True)
        for letter, size in zip(side, ctx.shape(name), strict=True)
    }
    first = _matrix(ctx, node.inputs[0], sides[0], letters.left, letters, sizes)
    second = _matrix(ctx, node.inputs[1], sides[1], letters.right, letters, sizes)
    out = node.outputs[0]
    product = (_size(sizes, letters.batch), _size(sizes, letters.left), _size(sizes, letters.right))
    made = ctx.step("BATCH_MATMUL", (first, second), out, product, "BatchMatMulOptions", adjX=False, adjY=True)
    order = tuple(result.index(letter) for letter in letters.batch + letters.left + letters.right)
    ctx.bind(out, order, ctx.reshape(made, permuted(ctx.shape(out), order), out))


def _sort(left: str, right: str, result: str) -> _Letters:
    both = [letter for letter in left if letter in right]
    found = _Letters(
        batch="".join(letter for letter in both if letter in result),
        summed="".join(letter for letter in both if letter not in result),
        left="".join(letter for letter in left if letter not in right),
        right="".join(letter for letter in right if letter not in left),
    )
    if sorted(found.batch + found.left + found.right) != sorted(result):
        raise Refused("an index is summed that only one operand has")
    return found


def _size(sizes: dict[str, int], letters: Sequence[str]) -> int:
    return math.prod(sizes[letter] for letter in letters)


def _matrix(ctx: Lowering, name: str, side: str, own: str, letters: _Letters, sizes: dict[str, int]) -> str:
    """An operand as (batch, own, summed)."""
    perm = tuple(side.index(letter) for letter in letters.batch + own + letters.summed)
    shape = (_size(sizes, letters.batch), _size(sizes, own), _size(sizes, letters.summed))
    constant = ctx.constant(name)
    if constant is not None:
        return ctx.value(constant.transpose(perm).reshape(shape), f"{name}/matrix")
    tensor = ctx.read(name, perm)
    return ctx.reshape(tensor, shape, name)
