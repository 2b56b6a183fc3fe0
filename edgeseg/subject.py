"""Anything that can be measured: an artifact, a foreign .tflite or .onnx file, or the trained model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec as find_module
from pathlib import Path

from edgeseg.artifact import Artifact, load_artifact
from edgeseg.compiling import open_foreign, open_graph, open_reference
from edgeseg.errors import ModelError, UsageError
from edgeseg.graph import Format, Graph, digest_file
from edgeseg.inspection import file_format
from edgeseg.model import ModelKind, load_model
from edgeseg.session import Session
from edgeseg.spec import ModelSpec
from edgeseg.spec_file import find_spec, load_spec

__all__ = ["LoadOptions", "Subject", "open_reference_of", "open_subject", "reference_of", "resolve_spec"]


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model file, and how to read a foreign one.

    ``pixels``: a foreign file takes raw pixels (0..255) and normalises inside.
    """

    factory: str | None = None
    trust_pickle: bool = False
    output_name: str | None = None
    pixels: bool = False


@dataclass(frozen=True)
class Subject:
    """``open(threads)`` gives a Session. ``base``: the folder that relative paths of ``spec`` refer to. ``is_model``: a trained
    model; of anything else ``open`` can be pickled. ``plain``: as ``open``, on the runtime's own operators one by one, without
    delegate or fusions; None where there is no such difference. ``pixels``: a foreign file that takes raw pixels. ``simulated``:
    why the file that runs is not the one meant to ship ("engine not built: no CUDA driver"): what it predicts says something, its
    time and memory say nothing; empty for all others."""

    name: str
    path: Path
    spec: ModelSpec
    base: Path
    open: Callable[[int], Session]
    artifact: Artifact | None = None
    is_model: bool = False
    plain: Callable[[int], Session] | None = None
    pixels: bool = False
    simulated: str = ""


def resolve_spec(model_path: Path, spec: ModelSpec | Path | None) -> tuple[ModelSpec, Path]:
    """The spec and the folder its relative paths refer to: given, named, or found beside the model or in the current folder."""
    if isinstance(spec, ModelSpec):
        return spec, Path.cwd()
    path = spec if spec is not None else find_spec(model_path, Path.cwd())
    return load_spec(path), path.resolve().parent


def open_subject(path: Path, spec: ModelSpec | Path | None = None, options: LoadOptions | None = None) -> Subject:
    """Find out what ``path`` is. Nothing heavy is loaded before ``Subject.open``.

    Raises:
        ModelError: there is no such file or folder.
        ArtifactError: a folder that is not an intact artifact.
        SpecError: a foreign file or a model without edgeseg.toml.
    """
    options = options or LoadOptions()
    if not path.exists():
        raise ModelError(f"There is no file or folder '{path}'.", hint="Check the path.")
    if path.is_dir():
        return _artifact_subject(load_artifact(path), spec)
    form = file_format(path)
    found, base = resolve_spec(path, spec)
    if form is None:
        model = load_model(
            path,
            factory=options.factory,
            trust_pickle=options.trust_pickle,
            output_name=options.output_name or found.output.name,
        )
        return Subject(
            path.name, path, found, base, lambda threads: open_reference(model, found, threads=threads), is_model=True
        )
    name = options.output_name or found.output.name
    opener = partial(_open_foreign, path, form, found, options.pixels, name)
    return Subject(path.name, path, found, base, opener, plain=partial(opener, plain=True), pixels=options.pixels)


def _artifact_subject(artifact: Artifact, spec: ModelSpec | Path | None) -> Subject:
    manifest = artifact.manifest
    found, base = (manifest.spec, Path(manifest.source.base)) if spec is None else resolve_spec(artifact.path, spec)
    graph = manifest.graph(artifact.model_path)
    return Subject(
        # Without its engine a TensorRT artifact is run by ONNX Runtime: the same integers, other kernels.
        f"{manifest.name}-{manifest.target}{' (simulation)' if manifest.status else ''}",
        artifact.path,
        found,
        base,
        partial(_open_graph, graph),
        artifact,
        plain=None if graph.format is Format.ENGINE else partial(_open_graph, graph, plain=True),
        simulated=manifest.status,
    )


def _open_graph(graph: Graph, threads: int, plain: bool = False) -> Session:
    return open_graph(graph, threads=threads, plain=plain)


def _open_foreign(
    path: Path, form: Format, spec: ModelSpec, pixels: bool, output_name: str | None, threads: int, plain: bool = False
) -> Session:
    return open_foreign(path, form, spec, threads=threads, pixels=pixels, output_name=output_name, plain=plain)


def reference_of(artifact: Artifact, given: Path | None) -> Path | None:
    """The model an artifact was compiled from: ``given``, or where the manifest says it was, if its bytes are still the same.

    Raises:
        UsageError: ``given`` is another model than the one that was compiled.
    """
    source = artifact.manifest.source
    if given is not None:
        if given.is_file() and digest_file(given) != source.digest:
            raise UsageError(
                f"'{given}' is not the model that '{artifact.path}' was compiled from ({source.file}): the digests differ.",
                hint="Give the same file as --reference, or compile again.",
            )
        return given
    for candidate in (Path(source.path), Path(source.base) / source.file):
        if candidate.is_file() and digest_file(candidate) == source.digest:
            return candidate
    return None


def open_reference_of(opened: Subject, given: Path | None, load: LoadOptions) -> Subject | None:
    """The subject that ``opened`` is compared with: ``given``, or for an artifact the model it was compiled from, loaded as it was
    then. None where there is none; and where none is asked for by name and PyTorch, which it would need, is not installed: a file
    that ships can be judged on a machine that has only its runtime.

    Raises:
        UsageError: as ``reference_of``.
        ModelError: it cannot be loaded.
    """
    if opened.artifact is not None:
        source = opened.artifact.manifest.source
        if given is None and source.kind != ModelKind.ONNX.value and find_module("torch") is None:
            return None
        given = reference_of(opened.artifact, given)
        load = LoadOptions(
            factory=load.factory or source.factory,
            trust_pickle=load.trust_pickle,
            output_name=load.output_name or source.output_name,
        )
    return None if given is None else open_subject(given, opened.spec, load)
