"""Checks that look at one picture at a time, or at the sum of all: content, geometry, value range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgeseg.lint.facts import Facts, Unusable
from edgeseg.lint.findings import Code, Figure, Finding, Severity
from edgeseg.spec import ColorOrder, ModelSpec, Resize

__all__ = ["content", "geometry", "gray", "unusable", "value_range"]

_BLACK = 16  # levels; real pictures as dark as this hold nothing, 0..1 data and class indices saved as pixels do not pass it
_FLAT = 1.5  # levels of standard deviation
_NOISE_FINE, _NOISE_COARSE = 0.35, 0.5  # photographs stay above 0.8 and 0.6; noise is near 0 in both
_DISTORTION = 2.0
_ENLARGED = 2.0
_COVERED = 0.25
_GRAY_MARGIN = 0.25
# A pixel of 0 or 255 is within 2.7 deviations of the mean of any usual photograph statistics, the mean of a set well within.
_FAR = 3.0
_NARROW, _WIDE = 0.05, 4.0
_FAR_WITHOUT_STD = 10.0


def unusable(found: Sequence[Unusable]) -> Iterator[Finding]:
    """Pictures that cannot be decoded or prepared."""
    if found:
        yield Finding(
            code=Code.UNUSABLE,
            severity=Severity.ERROR,
            message=f"{len(found)} image(s) cannot be fed to the model; the first: {found[0].reason}",
            remedy="Replace or remove the files, or correct resize under [preprocess].",
            images=tuple(one.name for one in found),
        )


def content(pictures: Sequence[Facts]) -> Iterator[Finding]:
    """Pictures without content: each is in one finding at most."""
    black = [one for one in pictures if 0 < one.brightest <= _BLACK]
    constant = [one for one in pictures if one.brightest == 0 or (one.brightest > _BLACK and one.spread < _FLAT)]
    # Sensor noise on a night picture lowers the fine correlation only; random data have neither.
    noise = [
        one
        for one in pictures
        if one.brightest > _BLACK and one.spread >= _FLAT and one.fine < _NOISE_FINE and one.coarse < _NOISE_COARSE
    ]
    if black:
        brightest = max(one.brightest for one in black)
        yield Finding(
            code=Code.NEARLY_BLACK,
            severity=Severity.ERROR,
            message=f"{len(black)} image(s) hold no pixel above {brightest} of 255: values of 0..1 or class masks saved as "
            "8-bit pixels.",
            remedy="Save pictures with values of 0..255 (multiply 0..1 data by 255), and do not name a folder of masks.",
            images=_names(black),
            figures=(Figure(name="largest pixel value", value=brightest, limit=_BLACK),),
        )
    if constant:
        spread = max(one.spread for one in constant)
        yield Finding(
            code=Code.CONSTANT,
            severity=Severity.ERROR,
            message=f"{len(constant)} image(s) are one flat colour (standard deviation at most {spread:.2f} levels).",
            remedy="Remove them; they show the network nothing that it will meet.",
            images=_names(constant),
            figures=(Figure(name="standard deviation in levels", value=spread, limit=_FLAT),),
        )
    if noise:
        worst = max(one.fine for one in noise)
        yield Finding(
            code=Code.RANDOM_NOISE,
            severity=Severity.ERROR,
            message=f"{len(noise)} image(s) are random noise: neighbouring pixels correlate by {worst:.2f} at most, in pictures "
            "by more than 0.8.",
            remedy="Calibrate with pictures like those the model will meet; noise gives ranges that mean nothing.",
            images=_names(noise),
            figures=(Figure(name="correlation of neighbouring pixels", value=worst, limit=_NOISE_FINE),),
        )


def geometry(pictures: Sequence[Facts], spec: ModelSpec) -> Iterator[Finding]:
    """Pictures that resizing spoils."""
    target = (spec.input.height, spec.input.width)
    if spec.preprocess.resize is Resize.STRETCH:
        distortion = {one.name: _distortion(one, target) for one in pictures}
        distorted = [one for one in pictures if distortion[one.name] > _DISTORTION]
        if distorted:
            worst = max(distortion[one.name] for one in distorted)
            yield Finding(
                code=Code.DISTORTED,
                severity=Severity.WARNING,
                message=f"{len(distorted)} image(s) are stretched to {target[0]}x{target[1]} (rows x columns) by up to "
                f"{worst:.1f} times more in one direction than in the other.",
                remedy='Set resize = "letterbox" or "pad" if the model was trained so, or take pictures of its aspect ratio.',
                images=_names(distorted),
                figures=(Figure(name="distortion", value=worst, limit=_DISTORTION),),
            )
    small = [one for one in pictures if _enlargement(one) > _ENLARGED or _coverage(one) < _COVERED]
    if small:
        worst = max(_enlargement(one) for one in small)
        least = min(_coverage(one) for one in small)
        effect = (
            f"are enlarged up to {worst:.1f} times" if worst > _ENLARGED else f"cover as little as {least:.0%} of the input"
        )
        yield Finding(
            code=Code.SMALL_IMAGES,
            severity=Severity.WARNING,
            message=f"{len(small)} image(s) are much smaller than the model's input of {target[0]}x{target[1]}: they {effect}.",
            remedy="Take pictures at least as large as the input: enlarged and padded ones lack the detail of real ones.",
            images=_names(small),
            figures=(
                Figure(name="enlargement", value=worst, limit=_ENLARGED),
                Figure(name="share of the input covered", value=least, limit=_COVERED),
            ),
        )


def gray(pictures: Sequence[Facts], judged: Sequence[Facts], spec: ModelSpec) -> Iterator[Finding]:
    """Grey pictures for a colour model, unless the evaluation images are as grey."""
    found = [one for one in pictures if one.is_gray]
    if spec.preprocess.color is ColorOrder.GRAY or not found:
        return
    share = len(found) / len(pictures)
    expected = sum(one.is_gray for one in judged) / len(judged) if judged else 0.0
    if judged and expected > 0 and share <= expected + _GRAY_MARGIN:
        return
    against = f", {expected:.0%} of the evaluation images are" if judged else ""
    yield Finding(
        code=Code.GRAY_IMAGES,
        severity=Severity.WARNING,
        message=f"{len(found)} of {len(pictures)} images are grey, and the model takes colour{against}.",
        remedy="Replace them by colour pictures, unless the model will meet grey ones too.",
        images=_names(found),
        figures=(Figure(name="share of grey images", value=share, limit=expected),),
    )


def value_range(pictures: Sequence[Facts], spec: ModelSpec) -> Iterator[Finding]:
    """Mean and deviation of ``(pixel * scale - mean) / std``, which a spec that fits brings near 0 and 1.

    ``post_scale`` is left out: networks that divide by 255 behind the standardisation are fed as they should be.
    """
    rule = spec.preprocess
    if not pictures or (all(mean == 0 for mean in rule.mean) and all(std == 1 for std in rule.std)):
        return
    channels = spec.input.channels
    counts = np.sum([one.histogram for one in pictures], axis=0, dtype=np.float64)
    level = np.arange(256, dtype=np.float64)
    average = counts @ level / counts.sum(axis=1)
    variance = counts @ level**2 / counts.sum(axis=1) - average**2
    std = np.broadcast_to(np.asarray(rule.std), (channels,))
    means = (average * rule.scale - np.broadcast_to(np.asarray(rule.mean), (channels,))) / std
    deviations = np.sqrt(np.maximum(variance, 0)) * abs(rule.scale) / std
    standardised = bool((std != 1).any())
    if standardised:
        wrong = (np.abs(means) > _FAR) | (deviations < _NARROW) | (deviations > _WIDE)
    else:
        wrong = np.abs(means) > _FAR_WITHOUT_STD * np.maximum(deviations, 1e-12)
    if not wrong.any():
        return
    worst = int(np.argmax(np.where(wrong, np.abs(means) + np.abs(np.log(np.maximum(deviations, 1e-12))), -math.inf)))
    mean, deviation = float(means[worst]), float(deviations[worst])
    name = spec.preprocess.color.value[worst] if channels == 3 else "grey"
    yield Finding(
        code=Code.VALUE_RANGE,
        severity=Severity.ERROR,
        message=f"With scale {rule.scale:.4g} and the given mean and std the model's input has mean {mean:.3g} and standard "
        f"deviation {deviation:.2g} in channel {name}, far from 0 and 1.",
        remedy="Give scale, mean and std in one unit under [preprocess]: mean and std of 0..1 values go with scale = 1/255, "
        "those of 0..255 values with scale = 1.",
        figures=(
            Figure(name="mean", value=mean, limit=_FAR if standardised else _FAR_WITHOUT_STD * deviation),
            Figure(name="standard deviation", value=deviation, limit=None),
        ),
    )


def _distortion(one: Facts, target: tuple[int, int]) -> float:
    height, width = one.placement.crop_size
    ratio = (target[0] / height) / (target[1] / width)
    return max(ratio, 1 / ratio)


def _enlargement(one: Facts) -> float:
    before, after = one.placement.crop_size, one.placement.scaled
    return math.sqrt(after[0] * after[1] / (before[0] * before[1]))


def _coverage(one: Facts) -> float:
    scaled, target = one.placement.scaled, one.placement.target
    return scaled[0] * scaled[1] / (target[0] * target[1])


def _names(pictures: Sequence[Facts]) -> tuple[str, ...]:
    return tuple(one.name for one in pictures)
