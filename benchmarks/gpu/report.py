"""What a run gives: JSON with the raw times, and a Markdown table made from it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.statistics import Ratio, Summary
from edgeseg.trt.build import BuildRecord

NOT_MEASURED = "not measured on a GPU"
SIMULATION = "simulation on onnxruntime CPU"


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to run one network. Times are the GPU's, for a whole batch; ``absent`` says why there are none."""

    runner: str
    batch: int
    graph: bool
    device: Summary | None = None
    samples_ns: tuple[int, ...] = ()
    joules_per_image: float | None = None
    absent: str = ""


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """mIoU of a file and its loss against ``against``, in points. ``label``: what ran it."""

    runner: str
    against: str
    images: int
    miou: float
    drop: float
    label: str


class CaseReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``ratios``: time of a candidate / time of TensorRT int8 with graph, by batch and name, from the same rounds."""

    name: str
    weights: str
    size: tuple[int, int]
    rows: tuple[Row, ...] = ()
    ratios: dict[str, Ratio] = {}
    drifts: tuple[Drift, ...] = ()
    builds: tuple[BuildRecord, ...] = ()
    int8_share: float | None = None
    failed: str = ""


class GpuReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``label`` is "not measured on a GPU" for a rehearsal, whose rows hold no time."""

    label: str
    machine: MachineFacts
    environment: str
    energy: str
    cases: tuple[CaseReport, ...]
    schema: int = 1


def write_report(report: GpuReport, path: Path) -> Path:
    """JSON at ``path``, Markdown beside it. Returns the Markdown file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    text = path.with_suffix(".md")
    text.write_text(markdown(report), encoding="utf-8")
    return text


_CLOCKS = (
    "Times are the GPU's, by CUDA events around a run; onnxruntime-cuda's are the host's, around a run that is waited for."
)


def markdown(report: GpuReport) -> str:
    lines = [f"# GPU: {report.label}", "", f"{report.environment}. Energy: {report.energy}.", _CLOCKS, ""]
    for case in report.cases:
        height, width = case.size
        lines += [f"## {case.name}", "", f"{width}x{height}, {case.weights} weights.", ""]
        if case.failed:
            lines += [f"Not run: {case.failed}", ""]
            continue
        lines += ["| runner | batch | CUDA graph | median ms | p90 ms | J/image |", "|---|---|---|---|---|---|"]
        lines += [_row(row) for row in case.rows]
        lines += [""]
        lines += [
            f"- {name}: {ratio.value.estimate:.2f}x the time of int8 ({ratio.value.low:.2f} to {ratio.value.high:.2f})"
            for name, ratio in case.ratios.items()
        ]
        lines += [
            f"- {drift.runner}: mIoU {drift.miou:.2f}, drop {drift.drop:+.2f} points against {drift.against} on "
            f"{drift.images} images ({drift.label})"
            for drift in case.drifts
        ]
        lines += [verdict(case), ""]
    return "\n".join(lines)


def _row(row: Row) -> str:
    graph = "yes" if row.graph else "no"
    if row.device is None:
        return f"| {row.runner} | {row.batch} | {graph} | {row.absent} | | |"
    joules = "" if row.joules_per_image is None else f"{row.joules_per_image:.4f}"
    return f"| {row.runner} | {row.batch} | {graph} | {row.device.median / 1e6:.3f} | {row.device.p90 / 1e6:.3f} | {joules} |"


def verdict(case: CaseReport) -> str:
    """Which file to ship: int8 only where it is faster than fp16 and loses at most 0.3 points."""
    ratio = case.ratios.get("tensorrt-fp16 batch 1")
    if ratio is None:
        return f"Verdict: {NOT_MEASURED}."
    if ratio.value.low <= 1.0:
        return "Verdict: ship fp16; int8 is not faster than it beyond the noise."
    lost = [drift.drop for drift in case.drifts if drift.runner == "tensorrt-int8"]
    if lost and lost[0] > 0.3:
        return f"Verdict: ship fp16; int8 loses {lost[0]:.2f} points."
    full = case.ratios.get("tensorrt-fp32 batch 1")
    against = f" and {full.value.estimate:.2f}x that of fp32" if full else ""
    return f"Verdict: ship int8; {ratio.value.estimate:.2f}x the speed of fp16{against}."
