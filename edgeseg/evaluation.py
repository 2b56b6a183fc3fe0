"""mIoU of a session over an evaluation set, and its agreement with a reference on the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from edgeseg.data.pairs import EvaluationSet
from edgeseg.errors import DataError
from edgeseg.metrics.agreement import Agreement, AgreementAccumulator
from edgeseg.metrics.confusion import Confusion, SegmentationScores
from edgeseg.preprocess import decide, raw_threshold, restore
from edgeseg.session import Float32, Session, infer
from edgeseg.spec import ModelSpec, OutputKind

__all__ = ["EvaluationResult", "SubjectScores", "evaluate_sessions"]


class SubjectScores(msgspec.Struct, frozen=True, kw_only=True):
    """One file's scores. ``runtime`` names what ran it."""

    name: str
    runtime: str
    scores: SegmentationScores


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of ``subject`` and, where there is one, of ``reference`` on the same images.

    ``drop``: mIoU of the reference minus mIoU of the subject, in points (1 point = 0.01). For one-channel outputs the classes
    are background and foreground. ``agreement`` compares raw outputs.
    """

    schema: int = 1
    images: int
    classes: tuple[str, ...]
    subject: SubjectScores
    reference: SubjectScores | None = None
    agreement: Agreement | None = None
    drop: float | None = None


@dataclass
class _Judge:
    """One session with its confusion matrix, which is made when the number of channels is known."""

    name: str
    session: Session
    spec: ModelSpec
    confusion: Confusion | None = None

    def see(self, logits: Float32) -> Confusion:
        if self.confusion is None:
            channels = logits.shape[1]
            classes = self.spec.num_classes
            single = self.spec.output.kind is not OutputKind.LOGITS
            if single and channels != 1:
                raise DataError(
                    f"{self.name} gives {channels} channels, the spec says one {self.spec.output.kind.value} channel.",
                    hint='Set output.kind = "logits" in edgeseg.toml.',
                )
            if not single and channels < classes:
                raise DataError(
                    f"{self.name} gives {channels} channels, the spec names {classes} classes.",
                    hint="Name only classes that the model can give; for one sigmoid channel set output.kind.",
                )
            self.confusion = Confusion(classes, extra=0 if single else channels - classes)
        return self.confusion

    def result(self) -> SubjectScores:
        if self.confusion is None:
            raise DataError("There was no image to evaluate.", hint="Give images and masks with --images and --masks.")
        info = self.session.info
        runtime = info.runtime if info.device == "cpu" else f"{info.runtime} on {info.device}"
        return SubjectScores(name=self.name, runtime=runtime, scores=self.confusion.compute())


def evaluate_sessions(
    subject: Session,
    samples: EvaluationSet,
    *,
    name: str,
    reference: Session | None = None,
    reference_name: str = "PyTorch",
    progress: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """Run ``subject`` (and ``reference``) over every sample once.

    Every output is brought back to the source image's size before it is judged there; pixels that the truth ignores do not
    count. Memory does not grow with the number of images.

    Raises:
        DataError: a sample cannot be read or does not fit the spec.
    """
    spec = samples.spec
    judges = [_Judge(name, subject, spec)]
    if reference is not None:
        judges.append(_Judge(reference_name, reference, spec))
    agreement = AgreementAccumulator(threshold=raw_threshold(spec))
    count = 0
    for loaded in samples.load():
        outputs = []
        for judge in judges:
            logits = infer(judge.session, loaded.prepared.input)
            outputs.append(logits)
            prediction = decide(restore(logits, loaded.prepared.placement, spec), spec)
            judge.see(logits).update(loaded.truth, prediction)
        if reference is not None:
            agreement.update(outputs[1], outputs[0])
        count += 1
        progress(count)
    scores = judges[0].result()
    if reference is None:
        return EvaluationResult(images=count, classes=spec.classes.names, subject=scores)
    before = judges[1].result()
    return EvaluationResult(
        images=count,
        classes=spec.classes.names,
        subject=scores,
        reference=before,
        agreement=agreement.compute(),
        drop=100.0 * (before.scores.miou - scores.scores.miou),
    )
