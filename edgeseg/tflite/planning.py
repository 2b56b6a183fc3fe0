"""The plan a search starts from: every operator in int8 that gains by it, every tensor with its estimated range."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgeseg.errors import StageError
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant
from edgeseg.tflite.graph import Quant, TfGraph, TfOp
from edgeseg.tflite.support import RELU_LIMITS, RULES, Scales, delegated, fixed_output, obstacle, saturates_alike

__all__ = ["Policy", "align_scales", "initial_plan"]

_WORTH_SHARING = 0.5  # a tensor at least this share as wide as the output's range loses at most one bit to it
_COVERED = 0.9  # of a tensor's own range must lie within the range it is given


class Policy(StrEnum):
    """AUTO: int8 where the runtime's delegate has the kernel, or has none in float either. FULL: wherever a kernel exists.
    INTEGER_ONLY: as FULL, and an operator that must stay float is an error."""

    AUTO = "auto"
    FULL = "full"
    INTEGER_ONLY = "integer-only"


def initial_plan(
    graph: TfGraph,
    ranges: Mapping[str, TensorQuant],
    *,
    policy: Policy = Policy.AUTO,
    float_kinds: Collection[str] = (),
    float_ops: Collection[str] = (),
) -> QuantPlan:
    """A plan by rule, without measuring.

    Args:
        graph: float.
        ranges: int8 quantization of every float activation, inputs included.
        policy: see Policy.
        float_kinds: operator kinds that stay float.
        float_ops: operators (by first output) that stay float.

    Returns:
        A plan whose entry for each operator says why it is float where it is. Scales are those of ``ranges``, with
        kernels' fixed outputs put in and same-scale operators' tensors aligned (``align_scales``).

    Raises:
        StageError: INTEGER_ONLY, and an operator cannot run in integers.
    """
    reasons = {op.id: _why_float(op, graph, policy, float_kinds, float_ops) for op in graph.ops}
    if policy is Policy.AUTO:
        _drop_lonely_moves(graph, reasons)
    if policy is Policy.INTEGER_ONLY:
        _refuse_floats(graph, reasons)
    ops = tuple(
        OpPlan(op=op.id, kind=op.kind, domain=Domain.FLOAT if reasons[op.id] else Domain.INT8, why=reasons[op.id])
        for op in graph.ops
    )
    return QuantPlan(target="tflite", tensors=align_scales(graph, ranges, ops), ops=ops)


def _why_float(op: TfOp, graph: TfGraph, policy: Policy, float_kinds: Collection[str], float_ops: Collection[str]) -> str:
    """The reason why an operator starts in float; empty for int8."""
    why = obstacle(op, graph)
    if why:
        return why
    if op.kind in float_kinds or op.id in float_ops:
        return "asked to stay float"
    if policy is Policy.AUTO and not delegated(op, graph, Domain.INT8) and delegated(op, graph, Domain.FLOAT):
        return f"XNNPACK has no int8 kernel for this {op.kind}; in float it stays inside the delegate"
    return ""


def _refuse_floats(graph: TfGraph, reasons: Mapping[str, str]) -> None:
    """Operators on indices and shapes are no floats: only those that make or read float values count."""
    left = [
        f"'{op.id}' ({reasons[op.id]})"
        for op in graph.ops
        if reasons[op.id] and any(graph.tensors[name].dtype == "float32" for name in (*op.inputs, *op.outputs) if name)
    ]
    if left:
        raise StageError(
            f"{len(left)} operator(s) cannot run in integers: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}.",
            hint="Choose another policy, or replace these operators in the model.",
            stage="quantize_tflite",
        )


def _drop_lonely_moves(graph: TfGraph, reasons: dict[str, str]) -> None:
    """Data movement between float operators stays float: nothing is computed that int8 would make cheaper."""
    producers, consumers = graph.producers(), graph.consumers()

    def is_float(op: TfOp) -> bool:
        return bool(reasons[op.id])

    changed = True
    while changed:
        changed = False
        for op in graph.ops:
            rule = RULES.get(op.kind)
            if is_float(op) or rule is None or rule.scales is not Scales.SAME:
                continue
            before = [producers[name] for i in rule.operands(op) if (name := str(op.inputs[i])) in producers]
            after = [reader for name in op.outputs for reader in consumers.get(name, [])]
            if before and after and all(map(is_float, before)) and all(map(is_float, after)):
                reasons[op.id] = f"{op.kind} lies between float operators"
                changed = True


def align_scales(graph: TfGraph, ranges: Mapping[str, TensorQuant], ops: Collection[OpPlan]) -> dict[str, TensorQuant]:
    """Scales with which no requantization is needed where one can be saved at no loss worth naming.

    - A kernel's fixed output has that scale.
    - The output of an integer operator that copies values of one input has the input's scale.
    - An input of an integer concatenation (maximum, minimum) whose range is at least half as wide as the output's has
      the output's scale; narrower ones, and ones that the output's range would clip, keep their own and are requantized.
    - An input that a maximum or minimum alone reads has the output's scale whatever its range: what that clips, the other
      input decides, or the output's range would have clipped.
    """
    integer = {entry.op for entry in ops if entry.domain is not Domain.FLOAT}
    groups = _Groups(ranges)
    for op in graph.ops:
        fixed = fixed_output(op.kind, Domain.INT8) if op.id in integer else None
        if fixed is not None:
            groups.pin(op.id, TensorQuant(scale=fixed.scale, zero_point=fixed.zero_point, estimator="kernel"))
        elif op.id in integer and op.kind in RELU_LIMITS:
            groups.keep_clipping(op.id, op.kind)
    joins: list[TfOp] = []
    for op in graph.ops:
        rule = RULES.get(op.kind)
        if op.id not in integer or rule is None or rule.scales is not Scales.SAME:
            continue
        sources = [str(op.inputs[i]) for i in rule.operands(op)]
        if len(sources) == 1:
            for name in op.outputs:
                groups.join(sources[0], name)
        else:
            joins.append(op)
    consumers = graph.consumers()
    for op in reversed(joins):
        for i in RULES[op.kind].operands(op):
            name = str(op.inputs[i])
            if not graph.is_constant(name):
                alone = consumers[name] == [op] and name not in (*graph.inputs, *graph.outputs)
                groups.widen(name, op.id, clip=alone and op.kind in {"MAXIMUM", "MINIMUM"})
    return groups.result()


@dataclass
class _Group:
    """Tensors of one scale; ``own`` is the quantization of the first of them, ``given`` what it has in the end."""

    own: TensorQuant
    given: TensorQuant
    pinned: bool = False
    clips: str = ""  # the RELU kind whose clipping this quantization does


class _Groups:
    def __init__(self, ranges: Mapping[str, TensorQuant]) -> None:
        self._of = {name: _Group(quant, quant) for name, quant in ranges.items()}

    def pin(self, name: str, quant: TensorQuant) -> None:
        self._of[name] = _Group(quant, quant, pinned=True)

    def keep_clipping(self, name: str, kind: str) -> None:
        """Only scales at which saturation clips as ``kind`` does may be given to this tensor."""
        if name in self._of:
            self._of[name].clips = kind

    def join(self, source: str, name: str) -> None:
        """Give ``name`` the scale of ``source``, now and later."""
        if source in self._of:
            self._of[name] = self._of[source]

    def widen(self, name: str, output: str, *, clip: bool = False) -> None:
        """Give a join's input the output's scale, where its own range is wide enough, or with ``clip`` always."""
        if name not in self._of or output not in self._of:
            return
        group, target = self._of[name], self._of[output].given
        if group.pinned or (group.clips and not saturates_alike(group.clips, Quant(target.scale, target.zero_point))):
            return
        (low, high), (target_low, target_high) = _ends(group.own), _ends(target)
        covered = min(high, target_high) - max(low, target_low)
        wide = high - low >= _WORTH_SHARING * (target_high - target_low) and covered >= _COVERED * (high - low)
        if clip or wide:
            group.given = target

    def result(self) -> dict[str, TensorQuant]:
        return {name: group.given for name, group in self._of.items()}


def _ends(quant: TensorQuant) -> tuple[float, float]:
    """The least and largest real value of an int8 quantization."""
    scale, zero = quant.scale[0], quant.zero_point[0]
    return (-128 - zero) * scale, (127 - zero) * scale
