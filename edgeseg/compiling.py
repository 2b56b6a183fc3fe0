"""One compile: from a model file to an installed artifact."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from edgeseg.artifact import (
    Artifact,
    CalibrationRecord,
    Int8Record,
    Manifest,
    ParetoPoint,
    SourceRecord,
    check_replaceable,
    file_record,
    install,
    staging,
)
from edgeseg.cache import Cache, CacheKey, code_digest, default_cache_root, tool_versions
from edgeseg.chain import ChainOptions, build_chain, floors
from edgeseg.compile_options import CompileOptions
from edgeseg.data.calibration import CalibrationSet, open_calibration
from edgeseg.errors import StageError
from edgeseg.graph import Format, Graph, digest_file
from edgeseg.head import HeadSession
from edgeseg.model import Model, ModelKind, load_model
from edgeseg.outputs import logits_layout
from edgeseg.pipeline import Pipeline
from edgeseg.preprocess import raw_threshold
from edgeseg.quantize.learned import WEIGHTS_FILE
from edgeseg.session import Session, SessionInfo
from edgeseg.spec import GateSpec, Head, ModelSpec, Target
from edgeseg.stages.build_engine import engine_status
from edgeseg.stages.check import AgreementCheck
from edgeseg.stages.quantize_trt import SHIP
from edgeseg.stages.search_record import SearchRecord, pareto_of
from edgeseg.trt.driver import look_around

__all__ = ["CompileOptions", "CompileResult", "open_foreign", "open_graph", "open_reference", "run_compile"]

_CHECK_IMAGES = 8
log = logging.getLogger("edgeseg")


@dataclass(frozen=True)
class CompileResult:
    """The artifact, and whether it came from the cache."""

    artifact: Artifact
    cached: bool


def open_graph(graph: Graph, *, threads: int = 1, plain: bool = False) -> Session:
    """A Session over a graph on disk. ``plain``: on the runtime's own operators one by one, without delegate or fusions."""
    labels = graph.head is not None and graph.head.form is Head.LABELS
    inner = _open(graph, threads, plain=plain, labels=labels)
    return inner if graph.head is None else HeadSession(inner, graph.head)


def _open(graph: Graph, threads: int, *, plain: bool, labels: bool) -> Session:
    if graph.format is Format.ONNX:
        from edgeseg.targets.onnx import open_onnx

        return open_onnx(graph.path, threads=threads, pixels=graph.pixels, optimise=not plain, labels=labels)
    if graph.format is Format.ENGINE:
        from edgeseg.targets.tensorrt import open_tensorrt

        return open_tensorrt(graph.path, pixels=graph.pixels)
    from edgeseg.targets.tflite import open_tflite

    return open_tflite(graph.path, threads=threads, pixels=graph.pixels, delegate=not plain, labels=labels)


def open_foreign(
    path: Path,
    form: Format,
    spec: ModelSpec,
    *,
    threads: int = 1,
    pixels: bool = False,
    output_name: str | None = None,
    plain: bool = False,
) -> Session:
    """A Session over a .tflite or .onnx file that edgeseg did not write: several outputs and other layouts are possible.
    ``plain`` as for ``open_graph``.

    Raises:
        ModelError: the runtime refuses the file, or its logits cannot be told from its other outputs.
        SpecError: its output does not fit the spec.
    """
    if form is Format.TFLITE:
        from edgeseg.targets.tflite import open_tflite

        return open_tflite(path, threads=threads, pixels=pixels, output_name=output_name, delegate=not plain)
    from edgeseg.targets.onnx import open_onnx

    layout = spec.input.layout
    open_as = partial(
        open_onnx, path, threads=threads, pixels=pixels, optimise=not plain, input_layout=layout, output_name=output_name
    )
    session = open_as(output_layout=layout)
    shape = session.info.outputs[0].shape
    if min(shape) < 1 or (found := logits_layout(shape, spec, what=str(path))) is layout:
        return session
    session.close()
    return open_as(output_layout=found)


def open_reference(model: Model, spec: ModelSpec, *, threads: int = 1) -> Session:
    """A Session over the model itself: PyTorch, or onnxruntime where the starting point is an ONNX file."""
    if model.kind is ModelKind.ONNX:
        return open_foreign(model.path, Format.ONNX, spec, threads=threads, output_name=model.output_name)
    from edgeseg.targets.torch_ref import open_torch

    return open_torch(model, spec, threads=threads)


def run_compile(model_path: Path, target: Target, spec: ModelSpec, base: Path, options: CompileOptions) -> CompileResult:
    """Compile ``model_path`` for ``target``; relative paths of the spec are relative to ``base``.

    Raises:
        EdgesegError: see ``edgeseg.errors``; whatever it is, no half-written artifact is left.
    """
    options.check(target)
    spec = msgspec.structs.replace(spec, gate=GateSpec())  # how a file is judged is no part of the file
    destination = Path(options.output or Path("build") / f"{model_path.stem}-{target.value}")
    check_replaceable(destination)
    images = list(options.images) or None
    calibration = open_calibration(spec, base, images=images, masks=options.masks, count=options.count, seed=options.seed)
    cache = Cache(default_cache_root())
    key = _key(model_path, target, spec, calibration, options) if options.use_cache else None
    if key is not None and (found := cache.find(key)) is not None:
        return CompileResult(_from_cache(found, model_path, base, options, destination), cached=True)
    output_name = options.output_name or spec.output.name
    model = load_model(model_path, factory=options.factory, trust_pickle=options.trust_pickle, output_name=output_name)
    with staging(destination) as work, _logs_kept(work, destination.name), _logging_to(work / "compile.log"):
        log.info("compile %s for %s", model_path, target.value)
        pipeline, graph, product = _run_chain(model, target, spec, calibration, options, work)
        manifest = _manifest(model, target, spec, base, calibration, options, pipeline, graph, product)
        options.progress("writing")
        artifact = install(product, destination, manifest)
    if key is not None:
        try:
            cache.store(key, artifact)
        except OSError as error:
            log.warning("The artifact is complete, but the cache %s cannot be written: %s", cache.root, error.strerror)
    return CompileResult(artifact, cached=False)


def _run_chain(
    model: Model, target: Target, spec: ModelSpec, calibration: CalibrationSet, options: CompileOptions, work: Path
) -> tuple[Pipeline, Graph, Path]:
    def open_session(graph: Graph | None) -> Session:
        return open_reference(model, spec) if graph is None else open_graph(graph)

    from edgeseg.stages.localise import worst_tensor

    probe = tuple(islice(calibration, _CHECK_IMAGES))
    check = AgreementCheck(
        open_session=open_session,
        images=probe,
        floors=floors(target, options.head),
        explain=lambda before, after: "" if after.format is Format.ENGINE else worst_tensor(before, after, probe[:1]),
        threshold=raw_threshold(spec),
    )
    chain = ChainOptions(
        target=target,
        model=model,
        spec=spec,
        calibration=calibration,
        io=options.shown_io,
        lowering=options.lowering,
        lowering_limit_s=options.lowering_limit_s,
        plan=options.plan,
        policy=options.policy,
        effort=options.effort,
        budget=options.budget,
        search_limit_s=options.search_limit_s,
        tune_for=options.tune_for,
        resumes=options.use_cache,
        head=options.head,
        engine=msgspec.structs.replace(
            options.engine, timing_cache=options.engine.timing_cache or default_cache_root() / "tensorrt"
        ),
        progress=options.progress,
    )
    steps = work / "steps"
    steps.mkdir()
    pipeline = Pipeline(build_chain(chain), check, options.progress)
    graph = pipeline.run(steps)
    product = work / "artifact"
    product.mkdir()
    # A TensorRT target ships a folder of files: what builds the engine, and the engine where it could be built.
    together = graph.path.parent == steps / SHIP
    shipped = product / (graph.path.name if together else f"model.{graph.format.value}")
    graph.path.rename(shipped)
    for path in sorted((steps / SHIP).iterdir()) if together else ():
        path.rename(product / path.name)
    for name in ("quantization.json", "search.json", WEIGHTS_FILE):
        if (steps / name).is_file():
            (steps / name).rename(product / name)
    for record in pipeline.records:
        log.info("%s", msgspec.json.encode(record).decode())
    (product / "compile.log").write_bytes((work / "compile.log").read_bytes())
    return pipeline, replace(graph, path=shipped), product


def _manifest(
    model: Model,
    target: Target,
    spec: ModelSpec,
    base: Path,
    calibration: CalibrationSet,
    options: CompileOptions,
    pipeline: Pipeline,
    graph: Graph,
    product: Path,
) -> Manifest:
    with open_graph(graph) as session:
        info: SessionInfo = session.info
    others = sorted(path for path in product.iterdir() if path != graph.path)
    return Manifest(
        name=model.path.stem,
        target=target.value,
        spec=spec,
        source=SourceRecord(
            file=model.path.name,
            digest=model.digest,
            kind=model.kind.value,
            path=str(model.path.resolve()),
            base=str(base.resolve()),
            factory=options.factory,
            output_name=options.output_name,
        ),
        files=tuple(file_record(path) for path in (graph.path, *others)),
        inputs=info.inputs,
        outputs=info.outputs,
        pixels=graph.pixels,
        stages=tuple(pipeline.records),
        versions=tool_versions(),
        command=options.command or tuple(sys.argv),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        calibration=CalibrationRecord(images=len(calibration), seed=calibration.seed, digest=calibration.digest),
        status=engine_status(pipeline.records),
        int8=_int8_record(graph) if target.is_int8 else None,
        settings=_settings(target, options),
        head=graph.head,
        pareto=_pareto(product),
    )


def _pareto(product: Path) -> tuple[ParetoPoint, ...]:
    path = product / "search.json"
    return pareto_of(msgspec.json.decode(path.read_bytes(), type=SearchRecord)) if path.is_file() else ()


def _int8_record(graph: Graph) -> Int8Record:
    from edgeseg.inspection import int8_record

    # An engine holds what its Q/DQ file says; engine.json tells what TensorRT made of it.
    counted = graph.path.with_name("model.qdq.onnx") if graph.format is Format.ENGINE else graph.path
    return int8_record(counted, graph.path.parent / "quantization.json")


def _settings(target: Target, options: CompileOptions) -> dict[str, str]:
    """The options that can change the file, as text; options that a target does not look at are left out."""
    settings = {"target": target.value, "output_name": options.output_name or "", "head": options.head.value}
    if target.runtime == "tflite":
        settings["lowering"] = options.lowering
    if target.runtime == "tensorrt":
        # An artifact without its engine must not come from the cache where one can be built.
        settings["engine"] = look_around().text
        settings["build"] = options.engine.text
    if target.is_int8:
        settings |= {
            "io": options.shown_io.value,
            "policy": options.policy,
            "effort": options.effort,
            "budget": f"{options.budget:g}",
            "search_limit_s": f"{options.search_limit_s:g}",
            "tune_for": options.tune_for.value,
            "plan": digest_file(options.plan) if options.plan else "",
        }
    return settings


def _key(
    model_path: Path, target: Target, spec: ModelSpec, calibration: CalibrationSet, options: CompileOptions
) -> CacheKey | None:
    """The cache key, or nothing where the file cannot be read (loading it says so better) or part of the model is code outside
    it that cannot be told from older code."""
    if not model_path.is_file() or options.trust_pickle:
        return None
    code = code_digest(options.factory) if options.factory else ""
    if code is None:
        return None
    return CacheKey(
        source=digest_file(model_path),
        factory=f"{options.factory} {code}" if options.factory else "",
        spec=msgspec.json.encode(spec).decode(),
        calibration=calibration.digest,
        settings=_settings(target, options),
        versions=tool_versions(),
    )


def _from_cache(found: Artifact, model_path: Path, base: Path, options: CompileOptions, destination: Path) -> Artifact:
    """A copy of the cached artifact that names the model, the folder and the command of this compile."""
    source = msgspec.structs.replace(
        found.manifest.source, file=model_path.name, path=str(model_path.resolve()), base=str(base.resolve())
    )
    manifest = msgspec.structs.replace(
        found.manifest, name=model_path.stem, source=source, command=options.command or tuple(sys.argv)
    )
    with staging(destination) as work:
        product = work / "artifact"
        shutil.copytree(found.path, product, ignore=shutil.ignore_patterns("manifest.json"))
        return install(product, destination, manifest)


@contextmanager
def _logs_kept(work: Path, name: str) -> Iterator[None]:
    """When a stage fails, its log goes from ``work``, which is about to be removed, to the cache; the error says where."""
    try:
        yield
    except StageError as error:
        folder = default_cache_root() / "logs"
        for written in work.rglob("*.log"):
            kept = folder / f"{name}-{written.name}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(written, kept)
                error.hint = error.hint.replace(str(written), str(kept))
            except OSError:
                error.hint = f"Its log could not be kept in {folder}; name another folder with EDGESEG_CACHE."
        raise


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
