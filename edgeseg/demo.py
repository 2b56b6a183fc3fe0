"""The whole chain on the embedded model and pictures: compile, evaluate, time, show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edgeseg.api import evaluate
from edgeseg.artifact import Artifact
from edgeseg.bench.interleave import interleaved_medians
from edgeseg.compiling import CompileOptions, open_graph, run_compile
from edgeseg.data.embedded import embedded_root
from edgeseg.data.pairs import open_evaluation
from edgeseg.evaluation import EvaluationResult
from edgeseg.preprocess import decide, load_image, restore
from edgeseg.report.overlay import Panel, class_colors, colorize, difference, write_strip
from edgeseg.session import Session, infer
from edgeseg.spec import Target
from edgeseg.spec_file import load_spec
from edgeseg.subject import open_subject

__all__ = ["DemoResult", "DemoRow", "run_demo"]

_PAIRS = ((Target.TFLITE_FP32, Target.TFLITE_INT8), (Target.ONNX_FP32, Target.ONNX_INT8))
_OVERLAYS = 4


class DemoRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the demo's table. ``drop``: points of mIoU against PyTorch. ``time_ratio``: time of one inference over that of
    the same runtime's float file, measured in turn on one thread; None for the float file itself."""

    target: str
    file: str
    bytes: int
    miou: float
    drop: float
    agreement: float
    milliseconds: float
    time_ratio: float | None
    from_cache: bool


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """``pytorch_miou``: of the model itself on the same images. ``overlays``: pictures that were written."""

    schema: int = 1
    folder: str
    images: int
    pytorch_miou: float
    rows: tuple[DemoRow, ...]
    overlays: tuple[str, ...]


def run_demo(folder: Path, *, progress: Callable[[str], None] = lambda _: None) -> DemoResult:
    """Compile the embedded model for both runtimes into ``folder``, evaluate and time every file, write overlay pictures.

    Raises:
        EdgesegError: as compiling and evaluating raise.
    """
    root = embedded_root()
    model, spec = root / "scenes.pt2", load_spec(root / "edgeseg.toml")
    rows: list[DemoRow] = []
    results: list[EvaluationResult] = []
    shipped: list[Artifact] = []
    for pair in _PAIRS:
        built = []
        for target in pair:
            progress(f"compile for {target.value}")
            options = CompileOptions(output=folder / target.value, effort="quick", command=("edgeseg", "demo"))
            built.append(run_compile(model, target, spec, root, options))
        artifacts = [one.artifact for one in built]
        progress(f"evaluate {pair[0].runtime}")
        scores = [evaluate(artifact, reference=model) for artifact in artifacts]
        progress(f"time {pair[0].runtime}")
        times = _times(artifacts, root)
        for one, score, time_ms in zip(built, scores, times, strict=True):
            rows.append(_row(one.artifact, score, time_ms, times[0], one.cached))
        results += scores
        shipped.append(artifacts[1])
    progress("overlays")
    reference = results[0].reference
    assert reference is not None
    return DemoResult(
        folder=str(folder),
        images=results[0].images,
        pytorch_miou=reference.scores.miou,
        rows=tuple(rows),
        overlays=tuple(str(path) for path in _overlays(model, shipped, root, folder / "overlays")),
    )


def _row(artifact: Artifact, score: EvaluationResult, time_ms: float, float_ms: float, cached: bool) -> DemoRow:
    assert score.drop is not None
    assert score.agreement is not None
    target = Target(artifact.manifest.target)
    return DemoRow(
        target=target.value,
        file=str(artifact.model_path),
        bytes=artifact.manifest.files[0].bytes,
        miou=score.subject.scores.miou,
        drop=score.drop,
        agreement=score.agreement.agreement,
        milliseconds=time_ms,
        time_ratio=time_ms / float_ms if target.is_int8 else None,
        from_cache=cached,
    )


def _open(artifact: Artifact) -> Session:
    return open_graph(artifact.manifest.graph(artifact.model_path))


def _times(artifacts: list[Artifact], root: Path) -> list[float]:
    samples = open_evaluation(artifacts[0].manifest.spec, root)
    image = next(iter(samples.load())).prepared.input
    with ExitStack() as stack:
        return interleaved_medians([stack.enter_context(_open(artifact)) for artifact in artifacts], image)


def _overlays(model: Path, shipped: list[Artifact], root: Path, folder: Path) -> list[Path]:
    """Image, truth, PyTorch, each INT8 file and where it differs, for the first pictures of the evaluation set."""
    spec = shipped[0].manifest.spec
    samples = open_evaluation(spec, root).take(_OVERLAYS)
    written = []
    with ExitStack() as stack:
        reference = stack.enter_context(open_subject(model, spec).open(1))
        sessions = [stack.enter_context(_open(artifact)) for artifact in shipped]
        for loaded in samples.load():
            image = load_image(loaded.sample.image_path)
            decisions = [
                decide(restore(infer(session, loaded.prepared.input), loaded.prepared.placement, spec), spec)
                for session in (reference, *sessions)
            ]
            colors = class_colors(spec.classes)
            panels = [
                Panel("image", image),
                Panel("truth", colorize(image, loaded.truth, colors)),
                Panel("PyTorch", colorize(image, decisions[0], colors)),
            ]
            for artifact, decision in zip(shipped, decisions[1:], strict=True):
                panels += [
                    Panel(artifact.manifest.target, colorize(image, decision, colors)),
                    Panel("changed", difference(image, loaded.truth, decisions[0], decision)),
                ]
            path = folder / f"{loaded.sample.name}.png"
            write_strip(path, panels)
            written.append(path)
    return written
