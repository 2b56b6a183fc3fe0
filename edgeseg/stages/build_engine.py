"""Stage: from ONNX files to a TensorRT engine, or to everything that builds it elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from edgeseg.artifact import StageRecord
from edgeseg.errors import UsageError
from edgeseg.graph import Format, Graph
from edgeseg.onnxgraph.view import load_model
from edgeseg.pipeline import Outcome
from edgeseg.quantize.plan import read_plan
from edgeseg.trt.build import BuildRecord, BuildSettings, OnnxFiles, build_engine
from edgeseg.trt.driver import Environment, look_around
from edgeseg.trt.inspector import EngineReport, report_engine
from edgeseg.trt.opset import with_batch
from edgeseg.trt.portable import HALF_SUFFIX, write_kit
from edgeseg.trt.sizes import usual_shape, with_sizes

__all__ = [
    "EngineDocument",
    "Precision",
    "any_batch_stage",
    "any_size_stage",
    "build_engine_stage",
    "engine_status",
    "onnx_files",
]

_STAGE = "build"
_UNBUILT = "engine not built: "


class Precision(StrEnum):
    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def weak_file(self) -> str:
        """The ONNX file for TensorRT 8."""
        return "model.qdq.onnx" if self is Precision.INT8 else "model.onnx"

    @property
    def typed_file(self) -> str:
        """The ONNX file for TensorRT 10 and later."""
        return self.weak_file if self is Precision.FP32 else self.weak_file.replace(".onnx", HALF_SUFFIX)


class EngineDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``engine.json`` beside an engine: how it was built, and what TensorRT made of the network."""

    record: BuildRecord
    report: EngineReport
    schema: int = 1


def build_engine_stage(
    graph: Graph,
    precision: Precision,
    work: Path,
    settings: BuildSettings | None = None,
    environment: Environment | None = None,
) -> Outcome:
    """Write the kit, then the engine where this machine can build one.

    Args:
        graph: any ONNX file of the folder of files to ship, where ``precision.weak_file`` and ``typed_file`` lie too.
        environment: from ``driver.look_around``.

    Returns:
        The engine; or, where no engine can be built here, ``graph`` itself with the note that ``engine_status`` finds.

    Raises:
        StageError: TensorRT refused the file or could not build it.
    """
    settings = settings or BuildSettings()
    ship = graph.path.parent
    planned = work / "quantization.json"
    plan = read_plan(planned) if precision is Precision.INT8 and planned.is_file() else None
    weak = load_model(ship / precision.weak_file)
    write_kit(
        ship,
        precision.weak_file,
        precision.value,
        plan,
        settings=settings,
        tensor=weak.graph.input[0].name,
        shape=usual_shape(weak),
    )
    around = environment or look_around()
    if around.driver is None or around.tensorrt is None:
        return Outcome(graph, (f"{_UNBUILT}{around.missing}",))
    files = onnx_files(ship, precision, work, settings)
    engine = ship / "model.engine"
    log = work / "tensorrt.log"
    record = build_engine(
        files, precision.value, engine, driver=around.driver, python=around.tensorrt, settings=settings, log=log
    )
    layers = engine.with_suffix(".layers.json")
    # The work of a node does not depend on the batch: counted for one image.
    report = report_engine(layers, load_model(ship / record.source))
    (ship / "engine.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(EngineDocument(record=record, report=report)), indent=1)
    )
    log.rename(ship / log.name)
    return Outcome(Graph.of(engine, Format.ENGINE, pixels=graph.pixels), _notes(record, report))


def any_batch_stage(graph: Graph, precision: Precision) -> Outcome:
    """Free the batch of the ONNX files to ship, in place: what an engine for several batch sizes is built from.

    Raises:
        StageError: the graph cannot run several images at once.
    """
    ship = graph.path.parent
    for name in sorted({precision.weak_file, precision.typed_file}):
        model = with_batch(load_model(ship / name), None, stage="batch")
        (ship / name).write_bytes(model.SerializeToString())
    return Outcome(
        Graph.of(graph.path, Format.ONNX, pixels=graph.pixels),
        ("any number of images a run; 2 and 3 give what they give one by one (simulation)",),
    )


def any_size_stage(graph: Graph, precision: Precision, sizes: tuple[tuple[int, int], tuple[int, int]]) -> Outcome:
    """Free height and width of the ONNX files to ship, in place: what an engine for a range of sizes is built from.

    Args:
        sizes: least and largest height and width.

    Raises:
        UsageError: the graph's own size is not between them.
        StageError: the graph cannot take them.
    """
    ship = graph.path.parent
    usual = usual_shape(load_model(graph.path))[2:]
    if not all(low <= own <= high for low, own, high in zip(sizes[0], usual, sizes[1], strict=True)):
        raise UsageError(
            f"The model's own size, {usual[0]}x{usual[1]}, is not between the least and the largest.",
            hint="Give sizes around it: it is what the engine is tuned for.",
        )
    for name in sorted({precision.weak_file, precision.typed_file}):
        model = with_sizes(load_model(ship / name), sizes, stage="size")
        (ship / name).write_bytes(model.SerializeToString())
    return Outcome(
        Graph.of(graph.path, Format.ONNX, pixels=graph.pixels),
        (
            f"images of {sizes[0][0]}x{sizes[0][1]} to {sizes[1][0]}x{sizes[1][1]}: at both ends the maps grow as the image does, "
            f"at {usual[0]}x{usual[1]} the numbers are the same (simulation)",
        ),
    )


def engine_status(stages: Sequence[StageRecord]) -> str:
    """ "engine not built: no CUDA driver", say; empty where the engine was built or none was asked for."""
    return next((note for stage in stages for note in stage.notes if note.startswith(_UNBUILT)), "")


def onnx_files(ship: Path, precision: Precision, work: Path, settings: BuildSettings) -> OnnxFiles:
    """The files to build from, with a dynamic batch where the settings ask for one.

    Raises:
        StageError: the graph cannot run several images at once.
    """
    weak, typed = ship / precision.weak_file, ship / precision.typed_file
    model = load_model(weak)
    source, shape = model.graph.input[0], usual_shape(model)
    if settings.dynamic and source.type.tensor_type.shape.dim[0].HasField("dim_value"):
        folder = work / "dynamic"
        folder.mkdir(exist_ok=True)
        for path in {weak, typed}:
            model = with_batch(load_model(path), None, stage=_STAGE)
            (folder / path.name).write_bytes(model.SerializeToString())
        weak, typed = folder / weak.name, folder / typed.name
    return OnnxFiles(weak, typed, source.name, shape)


def _notes(record: BuildRecord, report: EngineReport) -> tuple[str, ...]:
    shares = ", ".join(
        f"{count / report.multiply_adds:.1%} {name}" for name, count in sorted(report.multiply_adds_by_precision.items())
    )
    unplaced = f", {report.unplaced / report.multiply_adds:.1%} in fused regions" if report.unplaced else ""
    return (
        f"TensorRT {record.version} on {record.gpu}, {record.layers} layers, {report.reformats} of them reformats",
        f"multiply-adds: {shares}{unplaced}",
        *record.notes,
    )
