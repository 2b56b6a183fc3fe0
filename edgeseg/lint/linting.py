"""All checks, in the order in which one explains the next: a picture that is named as noise is not also of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgeseg.lint.between import (
    ENOUGH,
    color_order,
    different_kind,
    duplicates,
    overlap,
    soft,
    swapped_names,
    tells_channels_apart,
    too_few,
)
from edgeseg.lint.facts import Facts, Unusable, look_at_all
from edgeseg.lint.findings import Code, Finding, LintReport, Severity, Skipped
from edgeseg.lint.pictures import Picture
from edgeseg.lint.single import content, geometry, gray, unusable, value_range
from edgeseg.spec import ColorOrder, ModelSpec

__all__ = ["lint_calibration"]

_AGAINST_EVALUATION = (Code.IN_EVALUATION, Code.NEAR_EVALUATION, Code.COLOR_ORDER, Code.SOFT_IMAGES, Code.DIFFERENT_KIND)


def lint_calibration(
    spec: ModelSpec,
    pictures: Sequence[Picture],
    judged: Sequence[Picture] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> LintReport:
    """Look at each picture once and say what is wrong with the set.

    Memory holds a few kilobytes a picture, never the pictures.

    Args:
        spec: how the pictures are prepared.
        pictures: the calibration images (``calibration_pictures``).
        judged: the evaluation images (``open_judged``); without them five checks are skipped, and the report says so.
        seed: of the random divisions and permutations.
        progress: called with (done, total) after each picture.
    """
    total = len(pictures) + len(judged or ())
    seen = list(_counted(look_at_all(pictures, spec), 0, total, progress))
    references = [
        one for one in _counted(look_at_all(judged or (), spec), len(pictures), total, progress) if isinstance(one, Facts)
    ]
    usable = [one for one in seen if isinstance(one, Facts)]
    findings = [*unusable([one for one in seen if isinstance(one, Unusable)]), *content(usable)]
    sound = _without(usable, findings)
    findings += value_range(sound, spec)
    findings += duplicates(sound)
    findings += too_few(sound, seed=seed)
    apart = [*geometry(sound, spec), *gray(sound, references, spec)]
    findings += apart
    skipped: list[Skipped] = []
    if judged is None:
        skipped.append(Skipped(codes=_AGAINST_EVALUATION, why="no evaluation images are given"))
    else:
        findings += overlap(sound, references)
        ordinary = _without(sound, apart)
        if min(len(ordinary), len(references)) < ENOUGH:
            why = f"{len(ordinary)} ordinary calibration and {len(references)} evaluation images, {ENOUGH} of each are needed"
            skipped.append(Skipped(codes=(Code.COLOR_ORDER, Code.SOFT_IMAGES, Code.DIFFERENT_KIND), why=why))
        else:
            exchanged: list[Finding] = []
            if spec.preprocess.color is not ColorOrder.GRAY:
                if tells_channels_apart(references):
                    exchanged = list(color_order(ordinary, references))
                else:
                    why = "the colours of the evaluation images do not tell red from blue"
                    skipped.append(Skipped(codes=(Code.COLOR_ORDER,), why=why))
            findings += exchanged
            names = swapped_names(exchanged)
            unsharp = list(soft(ordinary, references))
            findings += unsharp
            righted = [_righted(one) if one.name in names else one for one in _without(ordinary, unsharp)]
            if len(righted) >= ENOUGH:
                findings += different_kind(righted, references, seed=seed)
    return LintReport(
        images=len(pictures),
        evaluation_images=len(judged or ()),
        findings=tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)),
        skipped=tuple(skipped),
    )


def _counted(
    found: Iterator[Facts | Unusable], done: int, total: int, progress: Callable[[int, int], None]
) -> Iterator[Facts | Unusable]:
    for place, one in enumerate(found, start=done + 1):
        progress(place, total)
        yield one


def _without(pictures: Sequence[Facts], findings: Sequence[Finding]) -> list[Facts]:
    named = frozenset(name for finding in findings for name in finding.images)
    return [one for one in pictures if one.name not in named]


def _righted(one: Facts) -> Facts:
    """The picture with its first and last channel exchanged, so that it is not found to be of another kind for that."""
    kind = one.kind.copy()
    kind[[2, 3]] = kind[[3, 2]]
    return replace(one, kind=np.asarray(kind, np.float32))
