"""What TensorRT made of a network: every layer's precision, the share of the work in int8, reformats, and why a layer is not int8.

TensorRT's engine inspector writes JSON that differs between versions (a layer may be a name only; the tensors' element type
may be told in a sentence, as ``Thirty-two wide channel vectorized row major Int8 format``, or as ``Int8``). What it does not tell
is reported as unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeseg.errors import ModelError
from edgeseg.onnxgraph.view import WEIGHTED, GraphView

if TYPE_CHECKING:
    import onnx

__all__ = ["EngineReport", "LayerFacts", "read_layers", "report_engine"]

UNKNOWN = "unknown"

_PRECISIONS = (
    ("int8", ("int8", "i8")),
    ("fp16", ("fp16", "half")),
    ("bf16", ("bf16", "bfloat16")),
    ("fp32", ("fp32", "float")),
    ("int32", ("int32",)),
)
_REFORMAT = ("reformat", "nochange")
# ONNX node names that TensorRT's own graph optimizer ("Myelin") swallows are told as a range only.
_RANGE = re.compile(r"\{ForeignNode\[")


class LayerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer of an engine.

    Attributes:
        kind: TensorRT's layer type; empty where the engine tells names only.
        precision: of the arithmetic: what weights and input are in; "unknown" where it is not told.
        inputs, outputs: the tensors' element types, in order.
        nodes: names of the ONNX nodes inside.
        multiply_adds: of the weighted nodes inside.
        why: for a layer with weighted nodes that is not int8: the reason as far as the Q/DQ file tells it.
    """

    name: str
    kind: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]
    multiply_adds: int = 0
    reformat: bool = False
    why: str = ""


class EngineReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``unplaced``: multiply-adds of nodes that no layer names (fused regions); they count in ``multiply_adds``."""

    layers: tuple[LayerFacts, ...]
    multiply_adds: int
    multiply_adds_by_precision: dict[str, int]
    unplaced: int
    reformats: int

    @property
    def int8_share(self) -> float:
        """Share of all multiply-adds that are known to run in int8, 0..1."""
        return self.multiply_adds_by_precision.get("int8", 0) / self.multiply_adds if self.multiply_adds else 0.0


class _Tensor(msgspec.Struct, frozen=True):
    format_type: str = msgspec.field(name="Format/Datatype", default="")
    datatype: str = msgspec.field(name="Datatype", default="")
    data_type: str = msgspec.field(name="DataType", default="")
    format: str = msgspec.field(name="Format", default="")

    @property
    def precision(self) -> str:
        return _precision(self.datatype or self.data_type or self.format_type or self.format)


class _Weights(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="Type", default="")
    count: int = msgspec.field(name="Count", default=0)


class _Layer(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name", default="")
    kind: str = msgspec.field(name="LayerType", default="")
    inputs: tuple[_Tensor, ...] = msgspec.field(name="Inputs", default=())
    outputs: tuple[_Tensor, ...] = msgspec.field(name="Outputs", default=())
    weights: _Weights = msgspec.field(name="Weights", default=_Weights())
    metadata: str = msgspec.field(name="Metadata", default="")
    tactic: str = msgspec.field(name="TacticName", default="")


class _Engine(msgspec.Struct, frozen=True):
    layers: tuple[_Layer | str, ...] = msgspec.field(name="Layers", default=())


def read_layers(path: Path) -> tuple[LayerFacts, ...]:
    """The layers in the inspector's JSON, without what only the ONNX file knows.

    Raises:
        ModelError: it is not the engine inspector's JSON.
    """
    try:
        engine = msgspec.json.decode(path.read_bytes(), type=_Engine, strict=False)
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path} is not the engine inspector's JSON: {error}.", hint="Build the engine again.") from error
    return tuple(_facts(layer if isinstance(layer, _Layer) else _Layer(name=layer)) for layer in engine.layers)


def report_engine(path: Path, model: onnx.ModelProto) -> EngineReport:
    """Join the inspector's JSON with the ONNX graph that was built, by node name.

    Raises:
        ModelError: it is not the engine inspector's JSON.
    """
    view = GraphView(model)
    work = {node.name: view.multiply_adds(node) for node in view.nodes if node.op_type in WEIGHTED}
    nodes = {node.name: node for node in view.nodes}
    layers, placed = [], set[str]()
    totals: Counter[str] = Counter()
    for layer in read_layers(path):
        inside = tuple(name for name in layer.nodes if name in nodes)
        fresh = [name for name in inside if name in work and name not in placed]
        placed.update(fresh)
        amount = sum(work[name] for name in fresh)
        totals[layer.precision] += amount
        why = _why(view, [nodes[name] for name in fresh]) if fresh and layer.precision not in {"int8", UNKNOWN} else ""
        layers.append(msgspec.structs.replace(layer, nodes=inside, multiply_adds=amount, why=why))
    unplaced = sum(amount for name, amount in work.items() if name not in placed)
    return EngineReport(
        layers=tuple(layers),
        multiply_adds=sum(work.values()),
        multiply_adds_by_precision={name: count for name, count in totals.items() if count},
        unplaced=unplaced,
        reformats=sum(layer.reformat for layer in layers),
    )


def _facts(layer: _Layer) -> LayerFacts:
    inputs = tuple(tensor.precision for tensor in layer.inputs)
    outputs = tuple(tensor.precision for tensor in layer.outputs)
    arithmetic = _precision(layer.weights.type) if layer.weights.count else (inputs[0] if inputs else UNKNOWN)
    # int8 weights on a float input are dequantized first: the arithmetic is the input's.
    if arithmetic == "int8" and inputs and inputs[0] != "int8":
        arithmetic = inputs[0]
    label = f"{layer.kind} {layer.name}".lower()
    return LayerFacts(
        name=layer.name,
        kind=layer.kind,
        precision=UNKNOWN if _RANGE.search(layer.name) else arithmetic,
        inputs=inputs,
        outputs=outputs,
        nodes=tuple(dict.fromkeys(_onnx_names(layer))),
        reformat=any(sign in label for sign in _REFORMAT),
    )


def _onnx_names(layer: _Layer) -> Iterator[str]:
    """Names of the ONNX nodes: from the metadata where there are any (8.6 and later), else from the fused name."""
    found = re.findall(r"\[ONNX Layer: ([^\]]+)\]", layer.metadata)
    if found:
        yield from found
        return
    for part in re.split(r" \+ | \|\| ", layer.name):
        yield part.strip()


def _precision(text: str) -> str:
    lowered = text.lower()
    for name, signs in _PRECISIONS:
        if any(re.search(rf"(?<![a-z0-9]){sign}", lowered) for sign in signs):
            return name
    return UNKNOWN


def _why(view: GraphView, nodes: list[onnx.NodeProto]) -> str:
    """Why a weighted layer is not int8, from the file it was built of."""
    for node in nodes:
        makers = [view.producers.get(name) for name in node.input[:2]]
        if any(maker is None or maker.op_type != "DequantizeLinear" for maker in makers):
            return f"{node.op_type} '{node.name}' has no Q/DQ pairs on both operands: the plan keeps it in float"
    return "it has Q/DQ pairs; TensorRT has no int8 kernel for this shape, or found a float one faster"
