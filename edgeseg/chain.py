"""Which stages make which target. Each stage is a thin frozen object over the function that does the work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.bench.interleave import interleaved_medians
from edgeseg.data.calibration import CalibrationSet
from edgeseg.graph import Format, Graph
from edgeseg.model import Model
from edgeseg.pipeline import Outcome, Stage
from edgeseg.spec import Head, IoType, ModelSpec, Target, TuneFor
from edgeseg.stages.check import DECISIONS, FP16, INT8, RESIZED, Floor
from edgeseg.stages.verdict import speed_notes
from edgeseg.trt.build import BuildSettings

if TYPE_CHECKING:
    from edgeseg.stages.build_engine import Precision
    from edgeseg.stages.qdq_options import QdqOptions

__all__ = ["ChainOptions", "build_chain", "floors", "repeatable"]

_OPSET = 18
"""What PyTorch's exporter writes by itself; every ONNX Runtime since 1.14 and both TFLite routes read it."""

log = logging.getLogger("edgeseg")


@dataclass(frozen=True)
class ChainOptions:
    """What the stages need to know beyond the graph they are given."""

    target: Target
    model: Model
    spec: ModelSpec
    calibration: CalibrationSet
    io: IoType
    lowering: str = "auto"
    lowering_limit_s: float = 900.0
    plan: Path | None = None
    policy: str = "auto"
    effort: str = "normal"
    budget: float = 0.3
    search_limit_s: float = 600.0
    tune_for: TuneFor = TuneFor.HERE
    resumes: bool = True
    head: Head = Head.LOGITS
    engine: BuildSettings = field(default_factory=BuildSettings)
    progress: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class _Export:
    options: ChainOptions
    name: str = "export"
    takes: Format | None = None
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        del graph
        from edgeseg.stages.export_onnx import export_onnx

        result = export_onnx(self.options.model, self.options.spec, work / "export.onnx", opset=_OPSET)
        for note in result.notes:
            log.info("export: %s", note)
        return Outcome(result.graph, (f"route {result.route}, opset {result.opset}", *self.options.model.notes))


@dataclass(frozen=True)
class _Simplify:
    options: ChainOptions
    name: str = "simplify"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.simplify_onnx import simplify

        assert graph is not None
        result = simplify(graph, work / "simplified.onnx")
        return Outcome(result.graph, (f"{result.nodes_before} nodes to {result.nodes_after}",))


@dataclass(frozen=True)
class _Lower:
    options: ChainOptions
    name: str = "lower"
    takes: Format | None = Format.ONNX
    gives: Format = Format.TFLITE

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.lower_tflite import lower_tflite

        assert graph is not None
        return lower_tflite(
            graph, work / "float.tflite", route=self.options.lowering, work=work, time_limit_s=self.options.lowering_limit_s
        )


@dataclass(frozen=True)
class _Rewrite:
    options: ChainOptions
    name: str = "rewrite"
    takes: Format | None = Format.TFLITE
    gives: Format = Format.TFLITE

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.rewrite_tflite import rewrite_tflite

        assert graph is not None
        return rewrite_tflite(graph, work / "rewritten.tflite")


@dataclass(frozen=True)
class _Half:
    options: ChainOptions
    name: str = "half"
    takes: Format | None = Format.TFLITE
    gives: Format = Format.TFLITE

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.half_tflite import half_tflite

        assert graph is not None
        return half_tflite(graph, work / "half.tflite")


@dataclass(frozen=True)
class _QuantizeTflite:
    options: ChainOptions
    name: str = "quantize"
    takes: Format | None = Format.TFLITE
    gives: Format = Format.TFLITE

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.quantize_tflite import BEST_FLOAT, QuantizeOptions, quantize_tflite

        assert graph is not None
        options = QuantizeOptions(
            io=self.options.io,
            plan=self.options.plan,
            policy=self.options.policy,
            effort=self.options.effort,
            budget=self.options.budget,
            time_limit_s=self.options.search_limit_s,
            tune_for=self.options.tune_for,
            resumes=self.options.resumes,
            progress=self.options.progress,
        )
        outcome = quantize_tflite(graph, self.options.calibration, self.options.spec, work, options)
        if self.options.tune_for in {TuneFor.X86_VNNI, TuneFor.ARM_DOTPROD}:
            return outcome  # meant for another processor: its time here tells nothing
        self.options.progress("INT8 against float")
        return _raced(self.options, Graph.of(work / BEST_FLOAT, Format.TFLITE), outcome)


@dataclass(frozen=True)
class _QuantizeOnnx:
    options: ChainOptions
    name: str = "quantize"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.quantize_onnx import quantize_onnx_stage

        assert graph is not None
        outcome = quantize_onnx_stage(graph, self.options.calibration, self.options.spec, work, _qdq_options(self.options))
        return _raced(self.options, graph, outcome)


@dataclass(frozen=True)
class _QuantizeTrt:
    options: ChainOptions
    name: str = "quantize"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.quantize_trt import quantize_trt_stage

        assert graph is not None
        return quantize_trt_stage(graph, self.options.calibration, self.options.spec, work, _qdq_options(self.options))


def _raced(options: ChainOptions, before: Graph, outcome: Outcome) -> Outcome:
    """With the verdict on its speed, which is never left out."""
    from edgeseg.race import race

    speed = race(before, outcome.graph, next(iter(options.calibration)))
    return replace(outcome, notes=(*outcome.notes, *speed_notes(speed)), speed=speed)


def _qdq_options(options: ChainOptions) -> QdqOptions:
    from edgeseg.stages.qdq_options import QdqOptions

    return QdqOptions(
        plan=options.plan,
        policy=options.policy,
        effort=options.effort,
        budget=options.budget,
        time_limit_s=options.search_limit_s,
        resumes=options.resumes,
        progress=options.progress,
    )


@dataclass(frozen=True)
class _PrepareTrt:
    options: ChainOptions
    name: str = "prepare"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.quantize_trt import prepare_trt_stage

        assert graph is not None
        return prepare_trt_stage(graph, work)


@dataclass(frozen=True)
class _HalfTrt:
    options: ChainOptions
    name: str = "half"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.quantize_trt import half_trt_stage

        assert graph is not None
        return half_trt_stage(graph, self.options.calibration, work)


@dataclass(frozen=True)
class _AnyBatch:
    options: ChainOptions
    name: str = "batch"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        del work  # the files to ship are rewritten where they are
        from edgeseg.stages.build_engine import any_batch_stage

        assert graph is not None
        return any_batch_stage(graph, _precision(self.options.target))


@dataclass(frozen=True)
class _AnySize:
    options: ChainOptions
    name: str = "size"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        del work  # the files to ship are rewritten where they are
        from edgeseg.stages.build_engine import any_size_stage

        assert graph is not None
        assert self.options.engine.sizes is not None
        return any_size_stage(graph, _precision(self.options.target), self.options.engine.sizes)


@dataclass(frozen=True)
class _BuildEngine:
    """Gives the graph it takes where this machine can build no engine; ``build_engine.engine_status`` says so."""

    options: ChainOptions
    name: str = "build"
    takes: Format | None = Format.ONNX
    gives: Format = Format.ENGINE

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.build_engine import build_engine_stage

        assert graph is not None
        return build_engine_stage(graph, _precision(self.options.target), work, self.options.engine)


def _precision(target: Target) -> Precision:
    """Of a TensorRT target."""
    from edgeseg.stages.build_engine import Precision

    return Precision(target.value.partition("-")[2])


@dataclass(frozen=True)
class _Head:
    options: ChainOptions
    form: Format
    name: str = "head"

    @property
    def takes(self) -> Format | None:
        return self.form

    @property
    def gives(self) -> Format:
        return self.form

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        from edgeseg.stages.head import change_head

        assert graph is not None
        outcome = change_head(graph, work, self.options.head, self.options.spec)
        return replace(outcome, notes=(*outcome.notes, *self._saved(graph, outcome.graph)))

    def _saved(self, before: Graph, after: Graph) -> tuple[str, str]:
        """What the other head saves: bytes of the output, and time, measured in turn with one thread."""
        from edgeseg.targets.onnx import open_onnx
        from edgeseg.targets.tflite import open_tflite

        opener = open_tflite if before.format is Format.TFLITE else open_onnx
        labels = self.options.head is Head.LABELS
        image = next(iter(self.options.calibration))
        with (
            opener(before.path, pixels=before.pixels) as full,
            opener(after.path, pixels=after.pixels, labels=labels) as short,
        ):
            times = interleaved_medians([full, short], image, rounds=15, warmup=2)
            sizes = [prod(one.shape) * np.dtype(one.dtype).itemsize for one in (full.info.outputs[0], short.info.outputs[0])]
        return (
            f"output of {sizes[1] / 1e6:.2f} MB in place of {sizes[0] / 1e6:.2f} MB an image",
            f"{times[1] / times[0]:.2f} of the time with all logits, one thread",
        )


def build_chain(options: ChainOptions) -> list[Stage]:
    """The stages for ``options.target``, in order."""
    stages: list[Stage] = [_Export(options), _Simplify(options)]
    free: list[Stage] = [_AnyBatch(options)] if options.engine.dynamic else []
    build: list[Stage] = [*free, *([_AnySize(options)] if options.engine.sizes else []), _BuildEngine(options)]
    match options.target:
        case Target.ONNX_FP32:
            pass
        case Target.ONNX_INT8:
            stages.append(_QuantizeOnnx(options))
        case Target.TFLITE_FP32:
            stages += [_Lower(options), _Rewrite(options)]
        case Target.TFLITE_FP16:
            stages += [_Lower(options), _Rewrite(options), _Half(options)]
        case Target.TFLITE_INT8:
            stages += [_Lower(options), _QuantizeTflite(options)]
        case Target.TENSORRT_FP32:
            stages += [_PrepareTrt(options), *build]
        case Target.TENSORRT_FP16:
            stages += [_PrepareTrt(options), _HalfTrt(options), *build]
        case Target.TENSORRT_INT8:
            stages += [_QuantizeTrt(options), *build]
    if options.head is not Head.LOGITS:
        stages.append(_Head(options, stages[-1].gives))
    return stages


def repeatable(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The leading stages, never the last, that need no calibration images: what can be run again from an artifact alone."""
    calibrated = (_QuantizeTflite, _QuantizeOnnx, _QuantizeTrt, _HalfTrt)
    first = next((place for place, stage in enumerate(stages) if isinstance(stage, calibrated)), len(stages))
    return stages[: min(first, len(stages) - 1)]


def floors(target: Target, head: Head) -> dict[str, Floor]:
    """The least agreement by stage name; stages not named here must be exact."""
    named = {"half": FP16, "quantize": INT8, "build": INT8, "batch": FP16}
    if head is Head.LABELS:
        named["head"] = DECISIONS
    elif target.is_int8:
        named["head"] = RESIZED
    return named
