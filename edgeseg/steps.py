"""Every file on the way from a trained model to the file that ships: given, or built again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgeseg.artifact import Artifact
from edgeseg.cache import tool_versions
from edgeseg.chain import ChainOptions, build_chain, repeatable
from edgeseg.compiling import open_graph
from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import ArtifactError, ModelError, UsageError
from edgeseg.graph import Format, Graph
from edgeseg.inspection import file_format
from edgeseg.model import load_model
from edgeseg.quantize.plan import QuantPlan
from edgeseg.session import Session
from edgeseg.spec import IoType, Target
from edgeseg.stages.scaling_tflite import SCALINGS
from edgeseg.subject import LoadOptions, Subject, open_subject

__all__ = ["KERNELS", "Step", "Way", "given_way", "is_equalised", "rebuilt_way"]

KERNELS = "kernels"
"""The last step: the same file on the kernels that the runtime chooses, after its plain ones."""

_FILE = "file"


@dataclass(frozen=True)
class Step:
    """One file on the way. ``stage``: what made it."""

    stage: str
    open: Callable[[int], Session]


@dataclass(frozen=True)
class Way:
    """From a model to a subject.

    Attributes:
        steps: after the model itself; the last is the subject as it ships.
        before, after: the file that the subject was made from, and its own, where both are files that show their tensors.
        notes: for the reader of a result.
    """

    steps: tuple[Step, ...]
    before: Graph | None = None
    after: Graph | None = None
    notes: tuple[str, ...] = ()


def given_way(subject: Subject, given: Sequence[tuple[str, Path]], load: LoadOptions) -> Way:
    """The files that the user names as steps, in this order, then the subject: ``file``, or as the step is called that names the
    subject's own path.

    Raises:
        UsageError: two steps of one name, or one that is taken.
        EdgesegError: as ``open_subject``.
    """
    names = [name for name, _ in given]
    if len({*names, KERNELS}) <= len(names):
        raise UsageError(
            f"Steps need names of their own: {', '.join(names)} ('{KERNELS}' is taken).", hint="Name each step once."
        )
    own = [name for name, path in given if path.resolve() == subject.path.resolve()]
    before = [(name, open_subject(path, subject.spec, load)) for name, path in given if name not in own]
    steps = [Step(name, one.open) for name, one in before]
    last = _graph(before[-1][1]) if before else None
    shipped, notes = _subject_steps(subject, own[0] if own else _FILE)
    return Way((*steps, *shipped), last, _graph(subject) if last is not None else None, notes)


def rebuilt_way(
    artifact: Artifact,
    subject: Subject,
    model_path: Path,
    work: Path,
    load: LoadOptions,
    progress: Callable[[str, int, int], None],
) -> Way:
    """Every file of an artifact's chain. The stages before the last are run again: they are deterministic and need no calibration
    images.

    Raises:
        EdgesegError: as the stages.
    """
    manifest = artifact.manifest
    source = manifest.source
    model = load_model(
        model_path,
        factory=load.factory or source.factory,
        trust_pickle=load.trust_pickle,
        output_name=load.output_name or source.output_name or manifest.spec.output.name,
    )
    stages = build_chain(
        ChainOptions(
            target=Target(manifest.target),
            model=model,
            spec=manifest.spec,
            calibration=CalibrationSet(manifest.spec, (), (), (), 0, 0),
            io=IoType.FLOAT32,
            lowering=manifest.settings.get("lowering", "auto"),
        )
    )
    steps: list[Step] = []
    graph: Graph | None = None
    again = repeatable(stages)
    for index, stage in enumerate(again):
        progress(f"rebuild: {stage.name}", index, len(again))
        graph = stage.run(graph, work).graph
        steps.append(Step(stage.name, partial(_open, graph)))
    compared = manifest.int8 is not None
    shipped, notes = _subject_steps(subject, stages[len(again)].name)
    return Way(
        (*steps, *shipped),
        graph if compared else None,
        _graph(subject) if compared else None,
        (*_other_versions(artifact), *notes),
    )


def is_equalised(artifact: Artifact) -> bool:
    """Channels were enlarged by factors of their own (``edgeseg.stages.scaling_tflite``): the tensors are not those of the float
    file."""
    path = artifact.path / "quantization.json"
    if not path.is_file():
        return False
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=QuantPlan)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"'{path}' cannot be read: {error}.", hint="Compile again.") from error
    return bool(SCALINGS.intersection(plan.passes))


def _open(graph: Graph, threads: int) -> Session:
    return open_graph(graph, threads=threads)


def _subject_steps(subject: Subject, stage: str) -> tuple[list[Step], tuple[str, ...]]:
    """The subject on its runtime's plain kernels and then on those that the runtime chooses, so that what the latter change is a
    step of its own; one step where there is no such difference, or no plain kernel for one of its operators (then with a note)."""
    if subject.plain is None:
        return [Step(stage, subject.open)], ()
    try:
        subject.plain(1).close()
    except ModelError as error:
        return [Step(stage, subject.open)], (f"The kernels are no step of their own: {error}",)
    return [Step(stage, subject.plain), Step(KERNELS, subject.open)], ()


def _graph(subject: Subject) -> Graph | None:
    """The subject's file, where its tensors can be looked at."""
    if subject.artifact is not None:
        path, pixels = subject.artifact.model_path, subject.artifact.manifest.pixels
    else:
        path, pixels = subject.path, subject.pixels
    form = file_format(path)
    return Graph.of(path, form, pixels=pixels) if form in {Format.ONNX, Format.TFLITE} else None


def _other_versions(artifact: Artifact) -> list[str]:
    then, now = artifact.manifest.versions, tool_versions()
    other = [f"{name} {then[name]} then, {now.get(name, 'none')} now" for name in then if then[name] != now.get(name)]
    return [f"The stages were built again with other versions: {'; '.join(other)}."] if other else []
