"""Which operators of an ONNX graph run in int8, and with which scales: the plan to start from.

onnxruntime has integer kernels for weighted operators, which carry the multiply-adds, and for some that join or reshape.
The first are nearly always worth it; the others only where they keep neighbours in int8, because between two float
operators they cost two conversions and a rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from edgeseg.errors import UsageError
from edgeseg.onnxgraph.qdq import QdqStyle, residual_branch
from edgeseg.onnxgraph.view import WEIGHTED, GraphView, attribute, text_attribute
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant
from edgeseg.quantize.ranges import ESTIMATORS, choose

if TYPE_CHECKING:
    import onnx

__all__ = [
    "FUSED",
    "JOINING",
    "SAME_SCALE",
    "end_operators",
    "initial_plan",
    "int8_operators",
    "quantized_tensors",
    "scale_source",
    "tensor_options",
    "with_float",
    "without_kinds",
]

FUSED = frozenset({"Relu", "Clip"})
"""Absorbed by the quantization of their output when they follow a weighted operator."""

SAME_SCALE = frozenset({"MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace", "Flatten"})
"""Move or pick numbers: in int8 their output has the scale of their input."""

JOINING = frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool", "Mul"})
"""Compute in int8 with a scale of their own for every input and the output."""

_TRANSPOSED = {
    QdqStyle.ONNXRUNTIME: "onnxruntime has no integer ConvTranspose",
    QdqStyle.TENSORRT: "TensorRT's guide keeps transposed convolutions in float",
}

Reasons = dict[str, tuple[Domain, str]]


def initial_plan(
    model: onnx.ModelProto,
    observers: Mapping[str, Observer],
    *,
    style: QdqStyle = QdqStyle.ONNXRUNTIME,
    estimator: str = "mse",
    keep_float: Mapping[str, str] | None = None,
) -> QuantPlan:
    """Every operator's domain with the reason, and a scale for each tensor that an int8 operator reads or writes.

    Args:
        observers: of all tensors in ``quantized_tensors(model)``; from ``statistics.collect``.
        estimator: of the ranges, a key of ``ranges.ESTIMATORS``.
        keep_float: weighted operators (first outputs) that stay float, and why.
    """
    view = GraphView(model)
    decided = int8_operators(view, style, keep_float=keep_float)
    ops = tuple(
        OpPlan(op=node.output[0], kind=node.op_type, domain=decided[node.output[0]][0], why=decided[node.output[0]][1])
        for node in view.nodes
        if node.op_type != "Constant"
    )
    tensors = {
        name: choose(
            observers[scale_source(view, decided, name)],
            estimator=estimator,
            symmetric=style is QdqStyle.TENSORRT,
            dtype=_dtype(style),
        )
        for name in _tensors(view, decided, style)
    }
    return QuantPlan(target="tensorrt-int8" if style is QdqStyle.TENSORRT else "onnx-int8", tensors=tensors, ops=ops)


def tensor_options(
    model: onnx.ModelProto,
    plan: QuantPlan,
    observers: Mapping[str, Observer],
    *,
    style: QdqStyle = QdqStyle.ONNXRUNTIME,
    estimators: Collection[str] = tuple(ESTIMATORS),
) -> dict[str, dict[str, TensorQuant]]:
    """For each tensor of the plan, its quantization by each estimator. Tensors that share a scale have equal entries."""
    view = GraphView(model)
    decided: Reasons = {entry.op: (entry.domain, entry.why) for entry in plan.ops}
    symmetric = style is QdqStyle.TENSORRT
    made: dict[str, dict[str, TensorQuant]] = {}
    for name in plan.tensors:
        source = scale_source(view, decided, name)
        if source not in made:
            made[source] = {
                estimator: choose(observers[source], estimator=estimator, symmetric=symmetric, dtype=_dtype(style))
                for estimator in estimators
            }
    return {name: made[scale_source(view, decided, name)] for name in plan.tensors}


def quantized_tensors(model: onnx.ModelProto, *, style: QdqStyle = QdqStyle.ONNXRUNTIME) -> tuple[str, ...]:
    """The activations that any plan of ours for this graph may quantize: what to observe."""
    view = GraphView(model)
    needed = _tensors(view, int8_operators(view, style), style)
    return tuple(name for name in view.activations() if name in needed)


def end_operators(model: onnx.ModelProto, plan: QuantPlan, *, share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The int8 weighted operators nearest to the graph's inputs, and those nearest to its outputs, if together they do at most
    this share of the multiply-adds; else none. Between them and the end is no other weighted operator and nothing that joins."""
    view = GraphView(model)
    limit = share * sum(view.multiply_adds(node) for node in view.nodes)

    def reached(starts: Collection[str], step: Callable[[str], Iterable[onnx.NodeProto]], forward: bool) -> tuple[str, ...]:
        waiting, seen, ends = list(starts), set(starts), {}
        while waiting:
            for node in step(waiting.pop()):
                if node.op_type in WEIGHTED:
                    ends[node.output[0]] = view.multiply_adds(node)
                    continue
                if sum(not view.is_constant(name) for name in node.input if name) > 1:
                    continue
                fresh = [name for name in (node.output if forward else node.input) if name and name not in seen]
                waiting += fresh
                seen.update(fresh)
        int8 = [name for name in ends if plan.domain_of(name) is Domain.INT8]
        return tuple(int8) if sum(ends.values()) <= limit else ()

    first = reached(view.inputs, lambda name: view.consumers.get(name, []), forward=True)
    last = reached(view.outputs, lambda name: [view.producers[name]] if name in view.producers else [], forward=False)
    return first, last


def with_float(model: onnx.ModelProto, plan: QuantPlan, reasons: Mapping[str, str], *, style: QdqStyle) -> QuantPlan:
    """The plan with these weighted operators (first outputs) in float, and what joins or moves decided anew around them.

    Args:
        reasons: why, by operator.
    """
    view = GraphView(model)
    floats = {entry.op: entry.why for entry in plan.ops if entry.domain is Domain.FLOAT and entry.kind in WEIGHTED}
    decided = int8_operators(view, style, keep_float={**floats, **reasons})
    while True:
        int8 = _int8_of(decided)
        touched = {op: set(_touched(view, decided, view.producers[op], int8, style)) for op in int8}
        # What has to read something that the plan has no scale for: an addition whose other branch takes it now.
        unknown = [op for op, names in touched.items() if not names <= plan.tensors.keys()]
        if not unknown:
            break
        for op in unknown:
            decided[op] = (Domain.FLOAT, "the plan has no scale for what it would read")
    ops = tuple(
        msgspec.structs.replace(entry, domain=decided[entry.op][0], why=decided[entry.op][1])
        if decided[entry.op][0] is not entry.domain or entry.op in reasons
        else entry
        for entry in plan.ops
    )
    needed = set().union(*touched.values())
    return msgspec.structs.replace(plan, ops=ops, tensors={name: q for name, q in plan.tensors.items() if name in needed})


def int8_operators(view: GraphView, style: QdqStyle, *, keep_float: Mapping[str, str] | None = None) -> Reasons:
    """Each operator's domain and why, by its first output."""
    wished = keep_float or {}
    decided: Reasons = {}
    for node in view.nodes:
        obstacle = wished.get(node.output[0]) or _obstacle(view, node, style)
        if not obstacle:
            decided[node.output[0]] = (Domain.INT8, "integer kernel, weights int8 per output channel")
        else:
            decided[node.output[0]] = (Domain.FLOAT, obstacle)
    if style is QdqStyle.TENSORRT:
        _add_residuals(view, decided)
        return decided
    for node in view.nodes:
        producer = view.producers.get(node.input[0]) if node.input else None
        if node.op_type in FUSED and producer is not None and _is_int8(decided, producer) and _alone(view, producer):
            decided[node.output[0]] = (Domain.INT8, f"part of {producer.op_type} '{producer.output[0]}'")
    _add_neighbours(view, decided)
    return decided


def scale_source(view: GraphView, decided: Reasons, name: str) -> str:
    """The tensor whose range a tensor has: itself, or where an int8 operator of SAME_SCALE made it, that one's input's."""
    producer = view.producers.get(name)
    while producer is not None and producer.op_type in SAME_SCALE and _is_int8(decided, producer):
        name = producer.input[0]
        producer = view.producers.get(name)
    return name


def _add_neighbours(view: GraphView, decided: Reasons) -> None:
    """Add the largest set of joining and moving operators whose inputs all come from int8 and outputs all go to int8."""
    kinds = JOINING | SAME_SCALE
    added = {node.output[0] for node in view.nodes if node.op_type in kinds and _can_join(view, node)}
    while True:
        int8 = added | _int8_of(decided)
        lost = {op for op in added if not _surrounded(view, view.producers[op], int8)}
        if not lost:
            break
        added -= lost
    for op in added:
        decided[op] = (Domain.INT8, "all its neighbours run in int8")


def _can_join(view: GraphView, node: onnx.NodeProto) -> bool:
    data = node.input if node.op_type in JOINING else node.input[:1]
    if node.op_type == "Resize" and text_attribute(node, "mode", "nearest") != "nearest":
        return False  # onnxruntime interpolates in float
    return len(node.output) == 1 and all(view.is_float(name) and not view.is_constant(name) for name in data)


def _surrounded(view: GraphView, node: onnx.NodeProto, int8: Collection[str]) -> bool:
    data = node.input if node.op_type in JOINING else node.input[:1]
    makers = [view.producers.get(name) for name in data]
    readers = view.consumers.get(node.output[0], [])
    return (
        all(maker is not None and maker.output[0] in int8 for maker in makers)
        and bool(readers)
        and node.output[0] not in view.outputs
        and all(reader.output[0] in int8 for reader in readers)
    )


def _add_residuals(view: GraphView, decided: Reasons) -> None:
    """TensorRT runs a convolution and the addition behind it as one int8 kernel if the other branch comes quantized."""
    int8 = _int8_of(decided)
    for node in view.nodes:
        branch = residual_branch(view, node, int8)
        if branch is not None:
            taker = node.input[1 - branch]
            decided[node.output[0]] = (Domain.INT8, f"part of Conv '{taker}', with its other input quantized")


def _obstacle(view: GraphView, node: onnx.NodeProto, style: QdqStyle) -> str:
    """Why an operator is not by itself worth int8; empty where it is."""
    if node.op_type not in WEIGHTED:
        return "float by default: no multiply-adds to save"
    if node.op_type == "ConvTranspose":
        return _TRANSPOSED[style]
    weights = view.constant(node.input[1])
    if weights is None:
        return "both factors are activations"
    if not view.is_float(node.input[0]) or not view.is_float(node.input[1]):
        return "its operands are not float32"
    if node.op_type == "MatMul" and weights.ndim != 2:
        return f"its weights have {weights.ndim} dimensions, an integer kernel takes 2"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or not _unit_factors(node)):
        return "Gemm with transA, alpha or beta has no integer kernel"
    if len(node.input) > 2 and node.input[2]:
        bias = view.constant(node.input[2])
        if bias is None or bias.squeeze().ndim > 1:
            return "its bias is not one constant per output channel"
    return ""


def _unit_factors(node: onnx.NodeProto) -> bool:
    return all(a.f == 1.0 for a in node.attribute if a.name in {"alpha", "beta"})


def _tensors(view: GraphView, decided: Reasons, style: QdqStyle) -> dict[str, None]:
    """Names of the activations that need a scale, in execution order."""
    int8 = _int8_of(decided)
    return dict.fromkeys(
        name for node in view.nodes if _is_int8(decided, node) for name in _touched(view, decided, node, int8, style)
    )


def _touched(view: GraphView, decided: Reasons, node: onnx.NodeProto, int8: Collection[str], style: QdqStyle) -> Iterator[str]:
    """The activations that an int8 operator reads and, for onnxruntime, writes through pairs."""
    if style is QdqStyle.TENSORRT:
        branch = residual_branch(view, node, int8)
        names = list(node.input) if branch is None else [node.input[branch]]
    else:
        # Convolutions store int8 only; matrix products can store float32, and then their output needs no rounding.
        stays = node.op_type in {"Gemm", "MatMul"} or _absorbed(view, decided, node)
        names = [*([] if node.op_type in FUSED else node.input), *([] if stays else [node.output[0]])]
    yield from (name for name in names if name and view.is_float(name) and not view.is_constant(name))


def _absorbed(view: GraphView, decided: Reasons, node: onnx.NodeProto) -> bool:
    """Whether the activation behind an operator is part of it, so that its own output is never stored."""
    readers = view.consumers.get(node.output[0], [])
    return _alone(view, node) and readers[0].op_type in FUSED and _is_int8(decided, readers[0])


def _alone(view: GraphView, node: onnx.NodeProto) -> bool:
    return len(view.consumers.get(node.output[0], [])) == 1 and node.output[0] not in view.outputs


def _int8_of(decided: Reasons) -> set[str]:
    return {op for op, (domain, _) in decided.items() if domain is Domain.INT8}


def _is_int8(decided: Reasons, node: onnx.NodeProto) -> bool:
    return decided[node.output[0]][0] is Domain.INT8


def _dtype(style: QdqStyle) -> str:
    # onnxruntime's x86 kernels multiply uint8 by int8; int8 activations cost it a conversion of every tensor.
    return "int8" if style is QdqStyle.TENSORRT else "uint8"


def without_kinds(
    model: onnx.ModelProto, plan: QuantPlan, kinds: Collection[str], *, style: QdqStyle = QdqStyle.ONNXRUNTIME
) -> QuantPlan:
    """The plan with all weighted operators of these kinds in float; the plan itself where there are none.

    Raises:
        UsageError: a kind that is not weighted (those are float already), or not in the graph.
    """
    if not kinds:
        return plan
    present = {entry.kind for entry in plan.ops if entry.kind in WEIGHTED}
    if set(kinds) - present:
        raise UsageError(
            f"The graph has no weighted operator {', '.join(sorted(set(kinds) - present))}.",
            hint=f"It has {', '.join(sorted(present))}.",
        )
    named = {entry.op: "its kind was named to stay float" for entry in plan.ops if entry.kind in kinds}
    return with_float(model, plan, named, style=style)
