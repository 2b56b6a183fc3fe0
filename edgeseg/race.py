"""INT8 against float on this machine's runtime, and, where INT8 loses, what costs it the time.

An INT8 file that is not faster than the best float file of the same runtime is never shipped in silence: the verdict is part of
the manifest, and names its causes by the operators' own times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeseg.artifact import SpeedRecord
from edgeseg.bench.interleave import interleaved_medians
from edgeseg.bench.profile import OperatorTime, Placement, Profile
from edgeseg.graph import Format, Graph
from edgeseg.profiling import placement_of, profile_of
from edgeseg.session import ModelInput, Session

__all__ = ["causes_of", "race"]

_ROUNDS = 15
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})
_PRODUCTS = (
    "CONV", "DEPTHWISE", "FULLY_CONNECTED", "BATCH_MATMUL", "Conv", "MatMul", "Gemm", "Attention", "NchwcConv",
)  # fmt: skip
_BETTER = {"tflite": "tflite-fp16", "onnx": "onnx-fp32"}
_WORTH_NAMING = 0.05  # of the time
_MUCH = 0.3


@dataclass(frozen=True)
class _Seen:
    profile: Profile
    placement: Placement | None

    def share(self, wanted: Callable[[OperatorTime], bool]) -> float:
        """Of the operators' time, 0..1."""
        total = self.profile.total_us
        return sum(one.microseconds or 0.0 for one in self.profile.operators if wanted(one)) / total if total else 0.0

    def milliseconds(self, wanted: Callable[[OperatorTime], bool]) -> float:
        return sum(one.microseconds or 0.0 for one in self.profile.operators if wanted(one)) / 1e3


def race(before: Graph, after: Graph, image: ModelInput) -> SpeedRecord:
    """Time an INT8 file and the float file it was made from, in turn, with one thread and with two.

    Args:
        before: the best float file of the same runtime.
        after: in INT8.
        image: what both are fed.
    """
    runtime = after.format.value
    counts = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
    ratios = tuple(round(_ratio(before, after, image, threads), 3) for threads in counts)
    lost = max(ratios) >= 1.0
    return SpeedRecord(
        against=f"{runtime}-fp32",
        ratios=ratios,
        vetoed=lost,
        causes=_causes(before, after, image, counts[ratios.index(max(ratios))]) if lost else (),
        better=_BETTER[runtime] if lost else None,
    )


def _ratio(before: Graph, after: Graph, image: ModelInput, threads: int) -> float:
    with _open(before, threads) as float_session, _open(after, threads) as int8_session:
        times = interleaved_medians([float_session, int8_session], image, rounds=_ROUNDS, warmup=2)
    return times[1] / times[0]


def _open(graph: Graph, threads: int) -> Session:
    if graph.format is Format.TFLITE:
        from edgeseg.targets.tflite import open_tflite

        return open_tflite(graph.path, threads=threads, pixels=graph.pixels)
    from edgeseg.targets.onnx import open_onnx

    return open_onnx(graph.path, threads=threads, pixels=graph.pixels)


def _causes(before: Graph, after: Graph, image: ModelInput, threads: int) -> tuple[str, ...]:
    seen = []
    for graph in (before, after):

        def opened(count: int, graph: Graph = graph) -> Session:
            return _open(graph, count)

        profile = profile_of(opened, graph.path, image, threads)
        assert profile is not None
        seen.append(_Seen(profile, placement_of(opened, graph.path, image, threads)))
    return causes_of(seen[0].profile, seen[1].profile, [one.placement for one in seen])


def causes_of(before: Profile, after: Profile, placements: Sequence[Placement | None] = (None, None)) -> tuple[str, ...]:
    """What keeps an INT8 file from being faster, the dearest first; never empty.

    Args:
        before, after: operator times of the float and of the INT8 file.
        placements: of both, where the runtime tells.
    """
    floats, ints = (_Seen(profile, place) for profile, place in zip((before, after), placements, strict=True))
    found: list[tuple[float, str]] = []
    converting = ints.share(_is_conversion)
    if converting >= _WORTH_NAMING:
        count = sum(1 for one in after.operators if _is_conversion(one))
        found.append(
            (converting, f"float islands: {count} conversions between int8 and float take {converting:.0%} of its time")
        )
    parts = [None if one.placement is None else one.placement.partitions for one in (floats, ints)]
    if parts[0] is not None and parts[1] is not None and parts[1] > parts[0]:
        assert ints.placement is not None
        left = ", ".join(f"{count} {kind}" for kind, count in ints.placement.outside.items())
        taken = ints.share(lambda one: one.kind in set(ints.placement.outside) if ints.placement else False)
        found.append(
            (
                max(taken, _WORTH_NAMING),
                f"partition count: the delegate runs it in {parts[1]} parts, the float file in {parts[0]}; outside it: "
                f"{left}, {taken:.0%} of its time",
            )
        )
    products = [one.milliseconds(_multiplies) for one in (floats, ints)]
    if products[1] >= 0.8 * products[0] > 0.0:
        found.append(
            (
                ints.share(_multiplies),
                f"kernels: convolutions and matrix products take {products[1]:.2f} ms in int8 and {products[0]:.2f} ms in float",
            )
        )
    others = [one.share(lambda op: not _multiplies(op) and not _is_conversion(op)) for one in (floats, ints)]
    if others[1] >= _MUCH or not found:
        slowest = _slowest_kind(after)
        found.append(
            (
                others[1],
                f"memory-bound: operators without multiply-adds take {others[1]:.0%} of its time and {others[0]:.0%} of the float "
                "file's" + (f", the most of it {slowest}" if slowest else ""),
            )
        )
    return tuple(text for _, text in sorted(found, reverse=True))


def _slowest_kind(profile: Profile) -> str:
    times: dict[str, float] = {}
    for one in profile.operators:
        if not _multiplies(one) and not _is_conversion(one):
            times[one.kind] = times.get(one.kind, 0.0) + (one.microseconds or 0.0)
    return max(times, key=lambda kind: times[kind]) if times else ""


def _is_conversion(op: OperatorTime) -> bool:
    return op.kind in _CONVERSIONS


def _multiplies(op: OperatorTime) -> bool:
    """Whether an operator is made of multiply-adds: convolutions, matrix products and their fused forms."""
    return any(part in op.kind for part in _PRODUCTS)
