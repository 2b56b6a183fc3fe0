"""What the runtime makes of a file: how many delegate partitions, and which operators are left to the reference kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgeseg.tflite.runtime import open_interpreter

__all__ = ["PartitionFacts", "partitions"]


@dataclass(frozen=True)
class PartitionFacts:
    """Attributes:
    partitions: how many pieces the delegate runs; each boundary between them costs a hand-over.
    operators: operators in the file.
    outside: kind and output name of each operator that the delegate leaves out, in execution order.
    """

    partitions: int
    operators: int
    outside: tuple[tuple[str, str], ...]

    @property
    def outside_kinds(self) -> Mapping[str, int]:
        """How many operators of each kind are left out."""
        kinds = [kind for kind, _ in self.outside]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def partitions(model: Path | bytes, *, threads: int = 1) -> PartitionFacts:
    """Read from the interpreter what the delegate took of a .tflite file (a path or its bytes)."""
    interpreter = open_interpreter(model, threads=threads)
    nodes = [_Node.of(raw) for raw in interpreter._get_ops_details()]
    own = [node for node in nodes if node.kind != "DELEGATE"]
    delegates = [node for node in nodes if node.kind == "DELEGATE"]
    producer = {tensor: i for i, node in enumerate(own) for tensor in node.outputs}
    inside: set[int] = set()
    for delegate in delegates:
        inside.update(_within(delegate, own, producer))
    names = {int(cast(int, raw["index"])): str(raw["name"]) for raw in interpreter.get_tensor_details()}
    left = tuple((node.kind, names.get(node.outputs[0], "")) for i, node in enumerate(own) if i not in inside)
    return PartitionFacts(len(delegates), len(own), left)


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> _Node:
        def indices(key: str) -> tuple[int, ...]:
            return tuple(int(index) for index in cast("list[int]", raw[key]) if index >= 0)

        return cls(str(raw["op_name"]), indices("inputs"), indices("outputs"))


def _within(delegate: _Node, own: list[_Node], producer: Mapping[int, int]) -> Iterator[int]:
    """The operators a delegate node stands for: what its outputs are computed by, back to its inputs."""
    edge, waiting, seen = set(delegate.inputs), list(delegate.outputs), set[int]()
    while waiting:
        index = producer.get(waiting.pop())
        if index is None or index in seen:
            continue
        seen.add(index)
        yield index
        waiting.extend(tensor for tensor in own[index].inputs if tensor not in edge)
