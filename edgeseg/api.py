"""The public functions. The command line only joins these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeseg.artifact import Artifact, load_artifact
from edgeseg.bench.device import parse_device
from edgeseg.compiling import CompileOptions, CompileResult, run_compile
from edgeseg.data.pairs import open_evaluation
from edgeseg.elsewhere import moved
from edgeseg.errors import ModelError, UsageError
from edgeseg.evaluation import EvaluationResult, evaluate_sessions
from edgeseg.remote.link import RemoteOptions
from edgeseg.spec import ModelSpec, Target
from edgeseg.subject import LoadOptions, open_reference_of, open_subject, resolve_spec

__all__ = ["CompileOptions", "CompileResult", "LoadOptions", "compile_model", "evaluate", "load_artifact"]


def compile_model(
    model: str | Path,
    target: str | Target,
    *,
    spec: ModelSpec | str | Path | None = None,
    options: CompileOptions | None = None,
) -> CompileResult:
    """Turn a trained model into a checked file for ``target``.

    Args:
        model: .pt2, TorchScript, state_dict or checkpoint (with ``options.factory``), or .onnx.
        target: a ``Target`` or its text, ``tflite-int8`` say.
        spec: a ``ModelSpec`` or the path of an edgeseg.toml; by default the one beside the model or in the current folder.
        options: everything else.

    Returns:
        The artifact that was written, and whether it came from the cache.

    Raises:
        EdgesegError: see ``edgeseg.errors`` for the tree and the exit codes.
    """
    path = Path(model)
    if not path.exists():
        raise ModelError(f"There is no file '{path}'.", hint="Check the path.")
    found, base = resolve_spec(path, Path(spec) if isinstance(spec, str) else spec)
    return run_compile(path, _target(target), found, base, options or CompileOptions())


def _target(text: str | Target) -> Target:
    try:
        return Target(text)
    except ValueError as error:
        raise UsageError(f"There is no target '{text}'.", hint=f"Targets: {', '.join(Target)}.") from error


def evaluate(
    subject: str | Path | Artifact,
    *,
    spec: ModelSpec | str | Path | None = None,
    reference: str | Path | None = None,
    with_reference: bool = True,
    images: str | None = None,
    masks: str | None = None,
    regions: str | None = None,
    limit: int | None = None,
    threads: int = 1,
    load: LoadOptions | None = None,
    device: str = "cpu",
    remote_python: str = "python3",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvaluationResult:
    """mIoU of an artifact, a foreign .tflite or .onnx file or a model, against the PyTorch model where there is one.

    Args:
        subject: artifact or its folder, or a file.
        spec: as for ``compile_model``; an artifact carries its own.
        reference: the model to compare with; for an artifact by default the one it was compiled from.
        with_reference: False judges the subject alone.
        images, masks, regions: folders or globs in place of the spec's evaluation set.
        limit: judge only this many images, drawn by seed 0.
        threads: of the runtimes.
        load: how to load a model or a foreign file.
        device: where the subject runs: ``cpu`` or ``ssh://user@host``; the reference runs here.
        remote_python: the interpreter there that has edgeseg.
        progress: called with images done and in all.

    Raises:
        EdgesegError: see ``edgeseg.errors``.
    """
    load = load or LoadOptions()
    where = subject.path if isinstance(subject, Artifact) else Path(subject)
    opened = open_subject(where, Path(spec) if isinstance(spec, str) else spec, load)
    opened = moved(opened, parse_device(device), RemoteOptions(python=remote_python), load)
    samples = open_evaluation(opened.spec, opened.base, images=images, masks=masks, regions=regions)
    if limit is not None:
        samples = samples.take(limit)
    base = open_reference_of(opened, Path(reference) if reference else None, load) if with_reference else None
    with opened.open(threads) as session:
        if base is None:
            return evaluate_sessions(session, samples, name=opened.name, progress=lambda done: progress(done, len(samples)))
        with base.open(threads) as reference_session:
            return evaluate_sessions(
                session,
                samples,
                name=opened.name,
                reference=reference_session,
                reference_name=base.name,
                progress=lambda done: progress(done, len(samples)),
            )
