"""Stage: quantize an ONNX graph for TensorRT, and hold it against NVIDIA's rules before NVIDIA does.

Two files come out, with the same numbers: ``model.qdq.onnx`` (opset 17, float32 between the pairs) for TensorRT 8, which is given
precision flags, and ``model.qdq.fp16.onnx`` (opset 19, float16 between the pairs) for TensorRT 10 and later, which obey the file.
What onnxruntime makes of them on a CPU is a simulation: the same integers, other kernels.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import StageError
from edgeseg.graph import Format, Graph
from edgeseg.onnxgraph.budget import Budgeted, BudgetSettings, hold_budget
from edgeseg.onnxgraph.planning import without_kinds
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.onnxgraph.statistics import collect, feeds_of, streamed
from edgeseg.onnxgraph.trt_rules import Finding, check_trt
from edgeseg.onnxgraph.view import GraphView, load_model
from edgeseg.pipeline import Outcome
from edgeseg.quantize.estimate import decision_snr
from edgeseg.quantize.plan import QuantPlan, read_plan
from edgeseg.session import Float32, ModelInput
from edgeseg.spec import Layout, ModelSpec
from edgeseg.stages.qdq_options import QdqOptions, budget_notes
from edgeseg.stages.quantize_onnx import ImageSet, QuantizeResult, SearchSettings, quantize_onnx
from edgeseg.stages.search_journal import resumed_notes
from edgeseg.trt.half import LARGEST_HALF, half_tensors, to_half
from edgeseg.trt.opset import HALF_OPSET, WEAK_OPSET, at_opset
from edgeseg.trt.portable import HALF_SUFFIX

if TYPE_CHECKING:
    import onnx

__all__ = [
    "SHIP",
    "TrtQuantized",
    "half_trt_stage",
    "prepare_trt_stage",
    "quantize_trt",
    "quantize_trt_stage",
    "write_half",
]

SHIP = "ship"
"""Folder inside the work folder: everything in it belongs into the artifact."""

_STAGE = "quantize"
_PROBES = 2
_ENDS_GAIN_DB = 0.3
"""Symmetric int8 is coarse on the image itself, and the first convolution is a hundredth of the work: float there took DeepLabV3+
from 0.34 points of mIoU lost to 0.24."""
_LEAST_DB = 25.0
"""Between the float32 and the float16 form of a network; correct ones give 50 dB and more."""

_ENOUGH_DB = 40.0
"""More is not asked for, however little noise int8 makes: float16 has noise of its own."""

_MARGIN_DB = 3.0
"""What a quantized network may lose by it: a scale rounded otherwise turns some integers over, which is as good as they were."""


@dataclass(frozen=True)
class TrtQuantized:
    """``result``: with the file for TensorRT 8; ``budgeted``: what it is expected to cost; ``typed``: the file for 10 and later,
    ``typed_db`` against the float graph; ``advice``: rules that cost speed."""

    result: QuantizeResult
    budgeted: Budgeted
    typed: Path
    typed_db: float
    advice: tuple[Finding, ...]


def quantize_trt_stage(
    graph: Graph, calibration: CalibrationSet, spec: ModelSpec, work: Path, options: QdqOptions | None = None
) -> Outcome:
    """``quantize_trt`` as a stage: both files into ``work/ship``, ``quantization.json`` into ``work``.

    Raises:
        UsageError: policy or effort make no sense.
    """
    options = options or QdqOptions()
    options.check()
    settings = SearchSettings(
        ends_gain_db=_ENDS_GAIN_DB,
        deadline=time.monotonic() + options.time_limit_s,
        journal=options.journal(graph.path.read_bytes(), calibration, spec, style=QdqStyle.TENSORRT),
    )
    done = quantize_trt(
        graph,
        calibration,
        work,
        plan=None if options.plan is None else read_plan(options.plan),
        settings=settings,
        budget=options.settings(
            spec, calibration, partial(streamed, load_model(graph.path), pixels=graph.pixels, layout=Layout.NCHW)
        ),
        judged=options.judged,
        float_kinds=options.float_kinds,
        progress=options.progress,
    )
    (work / "quantization.json").write_bytes(msgspec.json.format(msgspec.json.encode(done.result.plan), indent=1))
    settings.journal.finish((*done.result.notes, *done.budgeted.notes))
    share = done.result.share
    advice = Counter(finding.rule.value for finding in done.advice)
    return Outcome(
        done.result.graph,
        (
            *budget_notes(done.budgeted, options.budget, instead="tensorrt-fp16", where=" (simulation)"),
            *done.result.notes,
            *resumed_notes(settings.journal),
            f"{share.int8.total()} of {share.int8.total() + share.others.total()} operators and {share.share:.1%} of the "
            "multiply-adds in int8, simulated on a CPU",
            f"{done.typed.name}: {done.typed_db:.1f} dB against float on {_PROBES} images",
            *(f"advice {rule}: {count}" for rule, count in advice.most_common()),
            *(f"tried {trial.change}: {trial.score:.1f} dB{', kept' if trial.kept else ''}" for trial in done.result.trials),
        ),
    )


def quantize_trt(
    graph: Graph,
    calibration: ImageSet,
    work: Path,
    *,
    plan: QuantPlan | None = None,
    settings: SearchSettings | None = None,
    budget: BudgetSettings | None = None,
    judged: int = QdqOptions().judged,
    float_kinds: frozenset[str] = frozenset(),
    progress: Callable[[str], None] = lambda _: None,
) -> TrtQuantized:
    """Quantize a float ONNX graph symmetrically, with pairs where TensorRT wants them.

    Args:
        plan: carry out this one; its loss is estimated, and nothing is changed.
        settings: of the search for a plan. Deadline and journal hold for the budget too.
        budget: of mIoU. Where the plan is beyond it, operators return to float by their measured harm.
        judged: calibration images on which that is estimated.
        float_kinds: kinds of weighted operators that stay in float.

    Raises:
        StageError: nothing could be quantized, the graph cannot be written in the opsets, or the result breaks a rule by
            which NVIDIA's parser refuses a file.
        UsageError: the given plan does not fit the graph, or it has no operator of a kind that was named.
    """
    ship = work / SHIP
    ship.mkdir(exist_ok=True)
    searching = settings or SearchSettings(ends_gain_db=_ENDS_GAIN_DB)
    reference = at_opset(load_model(graph.path), WEAK_OPSET, stage=_STAGE)
    lowered = _written(reference, work / "opset17.onnx", graph.pixels)
    out = ship / "model.qdq.onnx"
    result = quantize_onnx(
        lowered,
        calibration,
        out,
        plan=plan,
        style=QdqStyle.TENSORRT,
        settings=searching,
        progress=progress,
    )
    wanted = without_kinds(reference, result.plan, float_kinds, style=QdqStyle.TENSORRT)
    progress("estimating the loss of mIoU")
    judges = list(islice(calibration, judged))
    settled = budget or BudgetSettings()
    budgeted = hold_budget(
        reference,
        wanted,
        judges,
        replace(settled, search=settled.search and plan is None, deadline=searching.deadline, journal=searching.journal),
        style=QdqStyle.TENSORRT,
        pixels=graph.pixels,
        progress=progress,
    )
    if budgeted.plan is not result.plan:
        again = quantize_onnx(lowered, calibration, out, plan=budgeted.plan, style=QdqStyle.TENSORRT)
        result = replace(result, graph=again.graph, plan=again.plan, share=again.share)
    findings = check_trt(load_model(result.graph.path), max_opset=WEAK_OPSET)
    _refuse(findings, result.graph.path.name)
    typed, decibel = write_half(result.graph, calibration, stage=_STAGE, reference=reference)
    _refuse(check_trt(load_model(typed), max_opset=HALF_OPSET), typed.name)
    return TrtQuantized(result, budgeted, typed, decibel, findings)


def prepare_trt_stage(graph: Graph, work: Path) -> Outcome:
    """``model.onnx`` in the opset that every TensorRT reads: what fp32 is built from."""
    ship = work / SHIP
    ship.mkdir(exist_ok=True)
    model = at_opset(load_model(graph.path), WEAK_OPSET, stage="prepare")
    return Outcome(_written(model, ship / "model.onnx", graph.pixels), (f"opset {WEAK_OPSET}",))


def half_trt_stage(graph: Graph, calibration: ImageSet, work: Path) -> Outcome:
    """``model.fp16.onnx`` from ``model.onnx``: what fp16 is built from in TensorRT 10 and later."""
    path, decibel = write_half(graph, calibration, stage="half")
    del work  # it goes beside its source
    return Outcome(Graph.of(path, Format.ONNX, pixels=graph.pixels), (f"{decibel:.1f} dB against float32",))


def write_half(
    source: Graph, images: Iterable[ModelInput], *, stage: str, reference: onnx.ModelProto | None = None
) -> tuple[Path, float]:
    """Write the float16 form of a graph beside its file, proved on a few images.

    onnxruntime computes in float32 between float16 tensors, so the proof has two parts: no activation is beyond float16, and the
    form with rounded weights and scales is as near to ``reference`` as its source is.

    Args:
        reference: the float network that ``source`` was quantized from; ``source`` itself where None.

    Returns:
        The file, and its decision SNR against the reference in dB.

    Raises:
        StageError: the network's values do not fit into half precision.
    """
    model = load_model(source.path)
    pairs = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    half = to_half(at_opset(model, HALF_OPSET, stage=stage) if pairs else model, stage=stage)
    path = source.path.with_name(source.path.name.replace(".onnx", HALF_SUFFIX))
    path.write_bytes(half.SerializeToString())
    probes = list(islice(images, _PROBES))
    _require_range(source, half_tensors(half), probes, stage)
    before = _run(model, probes, source.pixels)
    wanted = before if reference is None else _run(reference, probes, source.pixels)
    decibel = decision_snr(wanted, _run(half, probes, source.pixels))
    least = _LEAST_DB if reference is None else min(decision_snr(wanted, before) - _MARGIN_DB, _ENOUGH_DB)
    if decibel < least:
        raise StageError(
            f"in half precision the network gives other results ({decibel:.1f} dB on {len(probes)} images, at least "
            f"{least:.1f} dB are wanted).",
            hint="Build for tensorrt-fp32, or keep the operators with very small or large weights out of half precision.",
            stage=stage,
        )
    return path, decibel


def _run(model: onnx.ModelProto, probes: Sequence[ModelInput], pixels: bool) -> list[Float32]:
    """Outputs without onnxruntime's graph optimizations: those of 1.31 damage float16 graphs with pairs (a network that
    agrees to 26 dB as it is written came out at 10)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feeds_of(session, x, pixels=pixels, layout=Layout.NCHW))[0] for x in probes]


def _require_range(source: Graph, names: frozenset[str], probes: Sequence[ModelInput], stage: str) -> None:
    """No activation that becomes float16 may be beyond it."""
    known = names & set(GraphView(load_model(source.path)).activations())
    observed = collect(source.path, probes, tensors=known, pixels=source.pixels)
    peaks = {name: max(abs(seen.low), abs(seen.high)) for name, seen in observed.items()}
    worst = max(peaks, key=lambda name: peaks[name], default="")
    if worst and peaks[worst] > LARGEST_HALF:
        raise StageError(
            f"tensor '{worst}' reaches {peaks[worst]:.3g} on {len(probes)} images, beyond {LARGEST_HALF:g}, the largest float16.",
            hint="Build for tensorrt-fp32, or scale the network's features down.",
            stage=stage,
        )


def _written(model: onnx.ModelProto, path: Path, pixels: bool) -> Graph:
    path.write_bytes(model.SerializeToString())
    return Graph.of(path, Format.ONNX, pixels=pixels)


def _refuse(findings: Sequence[Finding], name: str) -> None:
    refused = [finding for finding in findings if finding.refused]
    if refused:
        first = refused[0]
        raise StageError(
            f"{name} breaks {len(refused)} of NVIDIA's rules; the first: {first.node} ({first.rule}): {first.message}",
            hint=f"{first.remedy} 'edgeseg check-trt {name}' lists all.",
            stage=_STAGE,
        )
