"""Checks that compare pictures with each other, and the calibration set with the evaluation set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeseg.lint.difference import compare_sets, energy_distance, nearest, nearest_other
from edgeseg.lint.facts import KIND_UNITS, Facts
from edgeseg.lint.findings import Code, Figure, Finding, Severity
from edgeseg.lint.likeness import ALIKE, Twin, common_relief, near_twins
from edgeseg.lint.stability import TOLERANCE, range_shift

__all__ = [
    "ENOUGH",
    "color_order",
    "different_kind",
    "duplicates",
    "overlap",
    "soft",
    "swapped_names",
    "tells_channels_apart",
    "too_few",
]

ENOUGH = 8
"""Fewer pictures than this allow no statement about a set."""

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# In units of facts.KIND_UNITS, root mean square over the features. Within a domain (CamVid's dusk and day drives, halves of
# DRIVE and of a nuclei set) sets are up to 0.4 apart and pictures up to 1.05 from their nearest; other domains begin at 1.2
# and 0.7: as a set the difference is plain, a picture alone must stand out more.
_FAR_SETS = 0.8
_FAR_PICTURE = 1.2
_FAR_AGAINST_OWN = 1.2
_FEW_REFERENCES = 2.0  # the nearest of 8 pictures is farther off than the nearest of 100: limits grow by this over their number
_SIGNIFICANT = 0.01
_RIDGE = 0.1  # mean tint differences below this do not tell channels apart
_MUCH_CLOSER = 0.5
_UNSURE = 0.15
_CLEAR = 0.5
# Pictures of one camera differ by 0.1 to 0.2 in detail; enlarging three times or blurring by two pixels takes more than this.
_LESS_DETAIL = 0.1
_NO_DETAIL = -0.45
_MOST = 500  # pictures of a set that enter an all-pairs statistic


def duplicates(pictures: Sequence[Facts]) -> Iterator[Finding]:
    """The same picture twice, by decoded pixels and by look."""
    first: dict[bytes, Facts] = {}
    exact: list[tuple[str, str]] = []
    for one in pictures:
        original = first.setdefault(one.digest, one)
        if original is not one:
            exact.append((original.name, one.name))
    if exact:
        yield Finding(
            code=Code.EXACT_DUPLICATES,
            severity=Severity.WARNING,
            message=f"{len(exact)} of {len(pictures)} images have the same pixels as another.",
            remedy="Keep one of each: a duplicate adds weight and no information.",
            images=_both(exact),
            twins=tuple(exact),
            figures=(Figure(name="images left", value=len(first)),),
        )
    distinct = list(first.values())
    likenesses = [one.likeness for one in distinct]
    twins = list(near_twins(likenesses, None, common_relief(likenesses)))
    if twins:
        pairs = [(distinct[twin.first].name, distinct[twin.second].name) for twin in twins]
        redundant = len({twin.second for twin in twins})
        yield Finding(
            code=Code.NEAR_DUPLICATES,
            severity=Severity.WARNING,
            message=f"{redundant} of {len(distinct)} images look the same as another (re-encoded, resized, mirrored, turned, "
            "cropped, or a video that stands still).",
            remedy="Keep one of each, or take frames of a video further apart.",
            images=_both(pairs),
            twins=tuple(pairs),
            figures=(_correlation(twins), Figure(name="images left", value=len(distinct) - redundant)),
        )


def overlap(pictures: Sequence[Facts], judged: Sequence[Facts]) -> Iterator[Finding]:
    """Calibration images that are evaluation images too, by decoded pixels and by look."""
    by_digest = {one.digest: one.name for one in judged}
    exact = [(one.name, by_digest[one.digest]) for one in pictures if one.digest in by_digest]
    if exact:
        yield Finding(
            code=Code.IN_EVALUATION,
            severity=Severity.ERROR,
            message=f"{len(exact)} of {len(pictures)} images are evaluation images too: the ranges are fitted to what judges "
            "them.",
            remedy="Calibrate with training images only.",
            images=tuple(name for name, _ in exact),
            twins=tuple(exact),
        )
    others = [one for one in pictures if one.digest not in by_digest]
    mine, theirs = [one.likeness for one in others], [one.likeness for one in judged]
    twins = list(near_twins(mine, theirs, common_relief([*mine, *theirs])))
    if twins:
        pairs = [(others[twin.first].name, judged[twin.second].name) for twin in twins]
        names = tuple(dict.fromkeys(name for name, _ in pairs))
        yield Finding(
            code=Code.NEAR_EVALUATION,
            severity=Severity.WARNING,
            message=f"{len(names)} of {len(pictures)} images look the same as an evaluation image.",
            remedy="Take them out, or split a video by scene: the figures are too kind where calibration has seen the pictures.",
            images=names,
            twins=tuple(pairs),
            figures=(_correlation(twins),),
        )


def tells_channels_apart(judged: Sequence[Facts]) -> bool:
    """Whether the colours of the evaluation images, each left out once, say which channel is red. Grey ones do not."""
    tints = np.stack([one.tint for one in judged[:_MOST]])
    scores = [float(one @ _discriminant(np.delete(tints, place, axis=0))) for place, one in enumerate(tints)]
    return float(np.mean(np.asarray(scores) <= 0)) <= _UNSURE


def color_order(pictures: Sequence[Facts], judged: Sequence[Facts]) -> Iterator[Finding]:
    """Red and blue exchanged, against the evaluation images.

    Exchanging them turns the sign of each place's tint. The linear discriminant of the evaluation images against their own
    exchanged copies (Fisher 1936, with a ridge) gives each picture a score, about 1 as it should be and -1 exchanged.

    Both sets need ``ENOUGH`` pictures, and the evaluation images must pass ``tells_channels_apart``.
    """
    mine, theirs = np.stack([one.tint for one in pictures]), np.stack([one.tint for one in judged])
    scores = mine @ _discriminant(theirs)
    kept, turned = energy_distance(mine[:_MOST], theirs[:_MOST]), energy_distance(-mine[:_MOST], theirs[:_MOST])
    is_whole = turned < _MUCH_CLOSER * kept and float((scores < 0).mean()) > 0.5
    # A picture alone is only accused where its score is clear, and where its exchanged self, and it alone, is at home.
    as_is, exchanged = nearest(mine, theirs), nearest(-mine, theirs)
    at_home = float(nearest_other(theirs[:_MOST]).max())
    lone = (scores < -_CLEAR) & (exchanged < _MUCH_CLOSER * as_is) & (exchanged <= at_home)
    wrong = scores < 0 if is_whole else lone
    if not wrong.any():
        return
    count = int(wrong.sum())
    yield Finding(
        code=Code.COLOR_ORDER,
        severity=Severity.ERROR if is_whole else Severity.WARNING,
        message=f"{count} of {len(pictures)} images have red and blue exchanged against the evaluation images: their colours "
        f"score {float(scores[wrong].mean()):.2f} on average, evaluation images 1 and their exchanged copies -1.",
        remedy="Save the pictures in RGB order (OpenCV holds BGR in memory, and imwrite expects it); color under [preprocess] "
        "is for the model, not for the files.",
        images=tuple(one.name for one, bad in zip(pictures, wrong, strict=True) if bad),
        figures=(
            Figure(name="colour distance", value=kept),
            Figure(name="colour distance with channels exchanged", value=turned, limit=_MUCH_CLOSER * kept),
        ),
    )


def swapped_names(findings: Sequence[Finding]) -> frozenset[str]:
    """The pictures that ``color_order`` found."""
    return frozenset(name for finding in findings if finding.code is Code.COLOR_ORDER for name in finding.images)


def too_few(pictures: Sequence[Facts], *, seed: int) -> Iterator[Finding]:
    """Fewer than ``ENOUGH``, or so few that two random halves give different ranges."""
    count = len(pictures)
    if not count:  # other findings have said what is wrong with every one
        return
    shift = range_shift(np.stack([one.histogram for one in pictures]), seed=seed) if count >= 2 else None
    if count >= ENOUGH and (shift is None or shift <= TOLERANCE):
        return
    figures = [Figure(name="images", value=count, limit=ENOUGH)]
    if shift is not None:
        figures.append(Figure(name="difference of two halves' ranges", value=shift, limit=TOLERANCE))
    said = "" if shift is None else f": random halves give input ranges that differ by {shift:.0%} of the range"
    yield Finding(
        code=Code.TOO_FEW,
        severity=Severity.WARNING,
        message=f"{count} image(s) are too few{said}.",
        remedy="Give more images of the kind the model will meet; 100 are usual.",
        figures=tuple(figures),
    )


def different_kind(pictures: Sequence[Facts], judged: Sequence[Facts], *, seed: int) -> Iterator[Finding]:
    """The set as a whole, or some pictures of it, unlike the evaluation images. Both sets need ``ENOUGH`` pictures."""
    mine, theirs = (
        np.stack([one.kind for one in chosen]) / np.float32(np.sqrt(KIND_UNITS.size)) for chosen in (pictures, judged)
    )
    rng = np.random.default_rng(seed)
    few, reference = _at_most(mine, rng), _at_most(theirs, rng)
    difference = compare_sets(few, reference, seed=seed)
    limit = max(_FAR_PICTURE, _FAR_AGAINST_OWN * float(nearest_other(reference).max()))
    limit *= 1 + _FEW_REFERENCES / len(reference)
    distances = nearest(mine, theirs)
    strange: Bool = np.asarray(distances > limit, np.bool_)
    is_whole = difference.p_value < _SIGNIFICANT and difference.distance > _FAR_SETS
    if not is_whole and not strange.any():
        return
    if is_whole:
        # Some of the pictures may still be at home there; those are not named.
        strange |= distances > float(np.quantile(nearest_other(reference), 0.95))
        said = "The images as a set are"
    else:
        said = f"{int(strange.sum())} of {len(pictures)} images are"
    yield Finding(
        code=Code.DIFFERENT_KIND,
        severity=Severity.WARNING,
        message=f"{said} of another kind than the evaluation images in light, colour or texture (energy distance "
        f"{difference.distance:.2f}, permutation p = {difference.p_value:.3f}; farthest image {float(distances.max()):.2f} "
        "from its nearest).",
        remedy="Calibrate with pictures of the kind that will be judged and met in use, or correct the evaluation images.",
        images=tuple(one.name for one, bad in zip(pictures, strange, strict=True) if bad),
        figures=(
            Figure(name="energy distance", value=difference.distance, limit=_FAR_SETS),
            Figure(name="p-value", value=difference.p_value, limit=_SIGNIFICANT),
            Figure(name="largest distance to the nearest evaluation image", value=float(distances.max()), limit=limit),
        ),
    )


def soft(pictures: Sequence[Facts], judged: Sequence[Facts]) -> Iterator[Finding]:
    """Pictures with less fine detail than any evaluation image has. Both sets need ``ENOUGH`` pictures."""
    least = min(one.detail for one in judged)
    limit = min(least - _LESS_DETAIL, _NO_DETAIL)
    found = [one for one in pictures if one.detail < limit]
    if not found:
        return
    worst = min(one.detail for one in found)
    yield Finding(
        code=Code.SOFT_IMAGES,
        severity=Severity.WARNING,
        message=f"{len(found)} of {len(pictures)} images have less fine detail than any evaluation image: enlarged, blurred or "
        f"strongly compressed (log of the gradient against that at half the size {worst:.2f} at worst, of evaluation images at "
        f"least {least:.2f}; -0.69 is perfectly smooth).",
        remedy="Take the pictures as the camera gives them, in the resolution that the model will meet.",
        images=tuple(one.name for one in found),
        figures=(Figure(name="detail", value=worst, limit=limit),),
    )


def _discriminant(tints: Float32) -> Float32:
    """The direction that tells tints (n, 16) from their negatives best, scaled so that their mean scores 1."""
    mean = tints.mean(axis=0, dtype=np.float64)
    scatter = np.cov(tints.astype(np.float64).T) + _RIDGE**2 * np.eye(mean.size)
    direction = np.linalg.solve(scatter, mean)
    size = float(direction @ mean)
    return np.asarray(direction / size if size > 0 else direction, np.float32)


def _at_most(points: Float32, rng: np.random.Generator) -> Float32:
    return points if len(points) <= _MOST else points[rng.choice(len(points), _MOST, replace=False)]


def _both(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    names: Mapping[str, None] = dict.fromkeys(name for pair in pairs for name in pair)
    return tuple(names)


def _correlation(twins: Sequence[Twin]) -> Figure:
    return Figure(name="largest correlation", value=max(twin.correlation for twin in twins), limit=ALIKE)
