"""One prepared case on one machine: engines built, all ways to run it timed in turn, mIoU of each file.

On a machine without a GPU (a rehearsal) the same path is walked with onnxruntime on the CPU, and no time is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
from cases import Prepared, artifacts
from report import NOT_MEASURED, SIMULATION, CaseReport, Drift, Row

from edgeseg.bench.energy import NvmlMeter
from edgeseg.bench.statistics import Ratio, paired_ratio, summarize
from edgeseg.data.calibration import open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.errors import EdgesegError
from edgeseg.evaluation import evaluate_sessions
from edgeseg.graph import Format, Graph
from edgeseg.model import load_model
from edgeseg.onnxgraph.view import load_model as load_onnx
from edgeseg.session import ModelInput, Session
from edgeseg.spec import ModelSpec
from edgeseg.stages.build_engine import EngineDocument, Precision, build_engine_stage
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.tensorrt import EngineOptions, open_tensorrt
from edgeseg.targets.torch_cuda import CudaMode, CudaOptions, open_onnx_cuda, open_torch_cuda
from edgeseg.trt.build import BuildSettings
from edgeseg.trt.driver import Environment
from edgeseg.trt.opset import with_batch

RUNS_PER_TURN = 10


@dataclass(frozen=True)
class Plan:
    """``rounds``: turns of ten runs each for every candidate. ``images``: of the evaluation, None for all."""

    batches: tuple[int, ...] = (1, 16)
    rounds: int = 30
    images: int | None = None
    build: BuildSettings = field(default_factory=BuildSettings)


class Timed(Session, Protocol):
    """A session that times itself by CUDA events."""

    def device_times(self, runs: int) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Candidate:
    runner: str
    batch: int
    graph: bool
    open: Callable[[], Timed]

    @property
    def label(self) -> str:
        return f"{self.runner} batch {self.batch}{'' if self.graph else ' without graph'}"


def run_case(work: Path, prepared: Prepared, environment: Environment, plan: Plan, energy: NvmlMeter) -> CaseReport:
    """Everything that this machine can do with one case; what it cannot, and why, stands in the rows."""
    spec = prepared.spec
    if spec is None:
        return CaseReport(name=prepared.case.name, weights="no", size=prepared.case.size, failed=prepared.failed)
    size = (spec.input.height, spec.input.width)
    weights = "trained" if prepared.trained else "random (latency only)"
    report = CaseReport(name=prepared.case.name, weights=weights, size=size)
    if environment.lack is not None:
        rows = tuple(
            Row(runner=runner, batch=batch, graph=graph, absent=NOT_MEASURED)
            for runner, batch, graph in _combinations(plan.batches)
        )
        return msgspec.structs.replace(report, rows=rows, drifts=tuple(_drifts(work, spec, plan, None)))
    engines, documents = _build(work, environment, plan)
    rows, ratios = _measure(list(_candidates(work, spec, engines, plan)), _probe(work, spec), plan, energy)
    share = documents[Precision.INT8, plan.batches[0]].report.int8_share
    return msgspec.structs.replace(
        report,
        rows=rows,
        ratios=ratios,
        builds=tuple(document.record for document in documents.values()),
        int8_share=share,
        drifts=tuple(_drifts(work, spec, plan, engines)),
    )


def _combinations(batches: tuple[int, ...]) -> Iterator[tuple[str, int, bool]]:
    for batch in batches:
        for precision in Precision:
            for graph in (True, False):
                yield f"tensorrt-{precision}", batch, graph
        for mode in CudaMode:
            for graph in (True, False):
                yield f"torch-{mode}", batch, graph
        yield "onnxruntime-cuda", batch, False


Engines = dict[tuple[Precision, int], Path]


def _build(work: Path, environment: Environment, plan: Plan) -> tuple[Engines, dict[tuple[Precision, int], EngineDocument]]:
    engines: Engines = {}
    documents = {}
    int8, floats = artifacts(work)
    for precision in Precision:
        ship = int8 if precision is Precision.INT8 else floats
        for batch in plan.batches:
            settings = msgspec.structs.replace(plan.build, batch=(batch, batch, batch))
            graph = Graph.of(ship / precision.weak_file, Format.ONNX)
            outcome = build_engine_stage(graph, precision, ship.parent, settings, environment)
            document = msgspec.json.decode((ship / "engine.json").read_bytes(), type=EngineDocument)
            engine = ship / f"{precision}-{batch}.engine"
            outcome.graph.path.rename(engine)
            engines[precision, batch], documents[precision, batch] = engine, document
    return engines, documents


def _candidates(work: Path, spec: ModelSpec, engines: Engines, plan: Plan) -> Iterator[Candidate]:
    model = next(work.glob("model.pt*"))
    floats = artifacts(work)[1]
    for runner, batch, graph in _combinations(plan.batches):
        family, _, kind = runner.partition("-")
        if family == "tensorrt":
            engine, options = engines[Precision(kind), batch], EngineOptions(batch=batch, graph=graph)
            yield Candidate(runner, batch, graph, lambda e=engine, o=options: open_tensorrt(e, options=o))
        elif family == "torch":
            cuda = CudaOptions(mode=CudaMode(kind), batch=batch, graph=graph)
            yield Candidate(runner, batch, graph, lambda c=cuda: open_torch_cuda(load_model(model), spec, c))
        else:
            path = floats / f"ort-{batch}.onnx"
            yield Candidate(runner, batch, graph, lambda p=path, b=batch: _open_ort(floats / "model.onnx", p, b))


def _open_ort(source: Path, path: Path, batch: int) -> Timed:
    if batch > 1:
        path.write_bytes(with_batch(load_onnx(source), batch, stage="build").SerializeToString())
    return open_onnx_cuda(path if batch > 1 else source)


def _measure(
    candidates: list[Candidate], probe: ModelInput, plan: Plan, energy: NvmlMeter
) -> tuple[tuple[Row, ...], dict[str, Ratio]]:
    """Rounds of one turn each; batch by batch, so that the sessions of one batch are open together."""
    rows: list[Row] = []
    ratios: dict[str, Ratio] = {}
    for batch in plan.batches:
        absent: dict[str, str] = {}
        samples: dict[str, list[int]] = {}
        joules: dict[str, float] = {}
        with ExitStack() as stack:
            ready = []
            for candidate in (c for c in candidates if c.batch == batch):
                try:
                    session = stack.enter_context(candidate.open())
                    session.feed(probe)
                    session.device_times(RUNS_PER_TURN)
                except (EdgesegError, RuntimeError) as error:
                    absent[candidate.label] = str(error).splitlines()[0]
                    continue
                ready.append((candidate, session))
            for _ in range(plan.rounds):
                for candidate, session in ready:
                    before = energy.read()
                    times = session.device_times(RUNS_PER_TURN)
                    samples.setdefault(candidate.label, []).extend(round(ms * 1e6) for ms in times)
                    if energy.available:
                        used = energy.joules_between(before, energy.read())
                        joules[candidate.label] = joules.get(candidate.label, 0.0) + used
        base = samples.get(f"tensorrt-int8 batch {batch}")
        for candidate in (c for c in candidates if c.batch == batch):
            taken = samples.get(candidate.label, [])
            used = joules.get(candidate.label)
            rows.append(
                Row(
                    runner=candidate.runner,
                    batch=batch,
                    graph=candidate.graph,
                    device=summarize(taken) if taken else None,
                    samples_ns=tuple(taken),
                    joules_per_image=used / (len(taken) * batch) if used is not None and taken else None,
                    absent=absent.get(candidate.label, ""),
                )
            )
            if base and taken and candidate.graph and candidate.runner != "tensorrt-int8":
                ratios[candidate.label] = paired_ratio(base, taken, runs_per_turn=RUNS_PER_TURN)
    return tuple(rows), ratios


def _probe(work: Path, spec: ModelSpec) -> ModelInput:
    probe = work / "probe"
    return next(iter(open_calibration(spec, work, images=[str(probe / "images")], regions=_regions(probe), count=1)))


def _regions(folder: Path) -> str | None:
    return str(folder / "regions") if (folder / "regions").is_dir() else None


def _drifts(work: Path, spec: ModelSpec, plan: Plan, engines: Engines | None) -> Iterator[Drift]:
    """mIoU of each file against fp32 of the same runtime; without engines, their ONNX files simulated on the CPU."""
    if not (work / "val").is_dir():
        return
    val = work / "val"
    samples = open_evaluation(spec, work, images=str(val / "images"), masks=str(val / "masks"), regions=_regions(val))
    samples = samples if plan.images is None else samples.take(plan.images)
    for precision in (Precision.FP16, Precision.INT8):
        with ExitStack() as stack:
            subject, reference = (stack.enter_context(_open_file(work, one, engines)) for one in (precision, Precision.FP32))
            result = evaluate_sessions(subject, samples, name=precision, reference=reference, reference_name="fp32")
        assert result.drop is not None
        yield Drift(
            runner=f"tensorrt-{precision}",
            against="fp32",
            images=result.images,
            miou=round(100 * result.subject.scores.miou, 3),
            drop=round(result.drop, 3),
            label=SIMULATION if engines is None else f"TensorRT {subject.info.version}",
        )


def _open_file(work: Path, precision: Precision, engines: Engines | None) -> Session:
    if engines is not None:
        batch = min(batch for _, batch in engines)
        return open_tensorrt(engines[precision, batch], options=EngineOptions(batch=batch))
    int8, floats = artifacts(work)
    # The float16 Q/DQ form is damaged by onnxruntime's optimizations: the other form has the same integers.
    name = precision.weak_file if precision is Precision.INT8 else precision.typed_file
    return open_onnx((int8 if precision is Precision.INT8 else floats) / name)


def prepared_cases(folder: Path) -> Iterator[tuple[Path, Prepared]]:
    """Folders of prepared cases, by name."""
    for path in sorted(folder.glob("*/case.json")):
        yield path.parent, msgspec.json.decode(path.read_bytes(), type=Prepared)
