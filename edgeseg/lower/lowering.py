"""From an ONNX model to a TFLite graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import ModelError, StageError
from edgeseg.graph import Format, Graph
from edgeseg.lower import rules  # noqa: F401 - registers the rules
from edgeseg.lower.context import RULES, Lowering, Refused
from edgeseg.lower.layout import NHWC, Perm, identity, tag
from edgeseg.lower.patterns import rewrite
from edgeseg.lower.peephole import tidy
from edgeseg.lower.source import STAGE, Node, read_model
from edgeseg.tflite.graph import TfGraph, TfTensor

if TYPE_CHECKING:
    import onnx

__all__ = ["LowerResult", "Unsupported", "UnsupportedNode", "lower_direct", "lower_model"]

_TO_NHWC: Perm = (0, 2, 3, 1)
_TO_NCHW: Perm = (0, 3, 1, 2)


@dataclass(frozen=True)
class UnsupportedNode:
    """An ONNX node that has no exact TFLite form here, and why."""

    name: str
    op: str
    why: str


class Unsupported(StageError):
    """The graph holds nodes that cannot be lowered exactly; ``nodes`` lists all of them."""

    def __init__(self, nodes: tuple[UnsupportedNode, ...]) -> None:
        listed = "; ".join(f"{node.op} '{node.name}': {node.why}" for node in nodes)
        super().__init__(
            f"{len(nodes)} ONNX node(s) have no exact TFLite form here: {listed}.",
            hint="Replace them in the model, or lower with the onnx2tf route.",
            stage=STAGE,
        )
        self.nodes = nodes


@dataclass(frozen=True)
class LowerResult:
    """``graph``: the float TFLite file; ``ops``: its operators; ``transposes``: how many of them are TRANSPOSE."""

    graph: Graph
    ops: int
    transposes: int


def lower_direct(graph: Graph, out: Path) -> LowerResult:
    """Lower an ONNX file (static shapes, batch 1, simplified) to a float TFLite file.

    The file takes and gives channels last: an NCHW input of the model is (1, H, W, C) in the file, and so is a
    4-dimensional output. Tensors keep their ONNX names.

    Raises:
        Unsupported: nodes that have no exact form, all of them; nothing is written.
        StageError: shapes are not static.
        ModelError: the file is not ONNX.
        OutputError: ``out`` cannot be written.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from edgeseg.tflite.flatbuffer import write

    try:
        model = onnx.load(graph.path)
    except (DecodeError, OSError) as error:
        raise ModelError(f"{graph.path} cannot be read as ONNX: {error}.", hint="Export the model again.") from error
    if not model.graph.output:
        raise ModelError(f"{graph.path} is not an ONNX model: it has no outputs.", hint="Export the model again.")
    lowered = lower_model(model)
    write(lowered, out)
    kinds = [op.kind for op in lowered.ops]
    return LowerResult(Graph.of(out, Format.TFLITE, pixels=graph.pixels), len(kinds), kinds.count("TRANSPOSE"))


def lower_model(model: onnx.ModelProto) -> TfGraph:
    """Lower an ONNX model to a TFLite graph in memory. Raises as ``lower_direct``."""
    source = read_model(model)
    rewrite(source)
    lowering = Lowering(source)
    _open_inputs(lowering)
    failed: list[UnsupportedNode] = []
    for node in source.nodes:
        try:
            rule = RULES.get(node.op)
            if rule is None:
                raise Refused("no rule for this operator")
            rule(lowering, node)
        except Refused as refusal:
            failed.append(UnsupportedNode(node.name, node.op, str(refusal)))
            _stand_in(lowering, node)
    if failed:
        raise Unsupported(tuple(failed))
    _close_outputs(lowering)
    tidy(lowering.graph)
    return lowering.graph


def _open_inputs(lowering: Lowering) -> None:
    source = lowering.source
    names: list[str] = []
    for name in source.inputs:
        channels_first = lowering.rank(name) == 4 and not _only_transposed(lowering.consumers.get(name, []), _TO_NCHW)
        perm = NHWC if channels_first else identity(lowering.rank(name))
        try:
            names.append(lowering.define(name, perm))
        except Refused as refusal:
            raise Unsupported((UnsupportedNode(name, "input", str(refusal)),)) from refusal
    lowering.graph.inputs = tuple(names)


def _only_transposed(nodes: list[Node], perm: Perm) -> bool:
    """Whether a tensor is in channels-last order in the model itself: all that happens to it is a transpose."""
    return bool(nodes) and all(node.op == "Transpose" and node.integers("perm") == perm for node in nodes)


def _stand_in(lowering: Lowering, node: Node) -> None:
    """Declares a refused node's outputs, so that the nodes behind it are judged too."""
    for name in filter(None, node.outputs):
        if not lowering.orders(name):
            rank = lowering.rank(name)
            lowering.bind(name, NHWC if rank == 4 else identity(rank), name)
            lowering.graph.tensors.setdefault(name, TfTensor(name, lowering.shape(name), "float32"))


def _close_outputs(lowering: Lowering) -> None:
    """Gives every graph output a tensor of its own, channels last, under its own name."""
    graph, source = lowering.graph, lowering.source
    producers = source.producers()
    tensors: list[str] = []
    for name in source.outputs:
        rank = lowering.rank(name)
        made_by = producers.get(name)
        as_is = rank != 4 or (made_by is not None and _only_transposed([made_by], _TO_NHWC))
        tensor = lowering.read(name, identity(rank) if as_is else NHWC)
        if tensor in graph.inputs or tensor in tensors or graph.is_constant(tensor):
            shape, dtype = graph.tensors[tensor].shape, lowering.dtype(name)
            inputs = (tensor, lowering.index(shape))
            tensor = lowering.step("RESHAPE", inputs, name, shape, "ReshapeOptions", dtype, newShape=shape)
        tensors.append(tensor)
    renamed: dict[str, str] = {}
    for tensor, name in zip(tensors, source.outputs, strict=True):
        if tensor != name:
            if name in graph.tensors:
                renamed.setdefault(name, lowering.unique(f"{name}:{tag(lowering.order(name))}"))
            renamed[tensor] = name
    _rename(graph, renamed)
    graph.outputs = source.outputs


def _rename(graph: TfGraph, renamed: dict[str, str]) -> None:
    def new(name: str) -> str:
        return renamed.get(name, name)

    graph.tensors = {new(old): replace(tensor, name=new(old)) for old, tensor in graph.tensors.items()}
    graph.inputs = tuple(map(new, graph.inputs))
    graph.ops = [
        replace(
            op,
            inputs=tuple(None if name is None else new(name) for name in op.inputs),
            outputs=tuple(map(new, op.outputs)),
        )
        for op in graph.ops
    ]
