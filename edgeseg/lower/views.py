"""Chains of reshapes and transposes as one: split the axes, permute, merge them.

MobileViT's unfolding, say, is three reshapes around two transposes. Lowered one by one each may have to move bytes; as one
split, permutation and merge they move them once at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeseg.lower.source import Node, Shape, Source

__all__ = ["compose_views"]

_RESHAPES = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_SHORTEST = 4  # nodes; reshape, transpose, reshape is what a chain becomes


@dataclass
class _Atom:
    """A factor of an axis; ``parts`` where it had to be split (outermost first)."""

    size: int
    parts: list[_Atom] | None = None

    def leaves(self) -> list[_Atom]:
        return [self] if self.parts is None else [leaf for part in self.parts for leaf in part.leaves()]


def compose_views(source: Source) -> None:
    """Replace every chain of four or more view nodes by at most three."""
    producers, consumers = source.producers(), source.consumers()
    for last in list(source.nodes):
        name = last.outputs[0]
        inner = [node for node in consumers.get(name, []) if _is_view(node)]
        if not _is_view(last) or (len(inner) == len(consumers.get(name, [])) and name not in source.outputs):
            continue
        chain = [last]
        while (before := producers.get(chain[0].inputs[0])) is not None and _is_view(before):
            chain.insert(0, before)
        if len(chain) >= _SHORTEST:
            _compose(source, chain)


def _is_view(node: Node) -> bool:
    return node.op == "Transpose" or node.op in _RESHAPES


def _compose(source: Source, chain: list[Node]) -> None:
    origin, last = chain[0].inputs[0], chain[-1]
    first = [_Atom(size) for size in source.shapes[origin]]
    axes: list[list[_Atom]] = [[atom] for atom in first]
    for node in chain:
        if node.op == "Transpose":
            order = node.integers("perm") or tuple(reversed(range(len(axes))))
            axes = [axes[axis] for axis in order]
            continue
        flat = [leaf for axis in axes for atom in axis for leaf in atom.leaves() if leaf.size != 1]
        regrouped = _regroup(flat, source.shapes[node.outputs[0]])
        if regrouped is None:
            return
        axes = regrouped
    atoms = [leaf for atom in first for leaf in atom.leaves() if leaf.size != 1]
    wanted = [leaf for axis in axes for atom in axis for leaf in atom.leaves() if leaf.size != 1]
    order = tuple(next(i for i, atom in enumerate(atoms) if atom is leaf) for leaf in wanted)
    name = last.outputs[0]
    split, permuted = f"{name}/split", f"{name}/permuted"
    sizes = tuple(atom.size for atom in atoms)
    for made, shape in ((split, sizes), (permuted, tuple(sizes[axis] for axis in order))):
        source.shapes[made], source.dtypes[made] = shape, source.dtypes[origin]
    position = source.nodes.index(last)
    source.nodes[position : position + 1] = [
        Node("Reshape", split, (origin, _target(source, split, sizes)), (split,)),
        Node("Transpose", permuted, (split,), (permuted,), {"perm": order}),
        Node("Reshape", last.name, (permuted, _target(source, name, source.shapes[name])), (name,)),
    ]


def _target(source: Source, name: str, shape: Shape) -> str:
    return source.add_constant(f"{name}/shape", np.asarray(shape, np.int64))


def _regroup(flat: list[_Atom], shape: Shape) -> list[list[_Atom]] | None:
    """Deals factors, split where needed, to the axes of ``shape``; None where a factor straddles two axes indivisibly."""
    left = list(flat)
    result: list[list[_Atom]] = []
    for size in shape:
        taken: list[_Atom] = []
        missing = size
        while missing != 1:
            atom = left.pop(0)
            if missing % atom.size == 0:
                taken.append(atom)
                missing //= atom.size
            elif atom.size % missing == 0:
                atom.parts = [_Atom(missing), _Atom(atom.size // missing)]
                taken.append(atom.parts[0])
                left.insert(0, atom.parts[1])
                missing = 1
            else:
                return None
        result.append(taken)
    return result if math.prod(atom.size for atom in left) == 1 else None
