"""What is known of one picture: a few kilobytes, whatever its size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg.data.prefetch import prefetch
from edgeseg.errors import DataError
from edgeseg.lint.likeness import Likeness, likeness
from edgeseg.lint.pictures import Picture
from edgeseg.preprocess import Placement, load_image, load_region, prepare
from edgeseg.session import UInt8
from edgeseg.spec import ColorOrder, ModelSpec

__all__ = ["KIND_UNITS", "Facts", "Unusable", "look", "look_at_all"]

Float32 = npt.NDArray[np.float32]
UInt32 = npt.NDArray[np.uint32]

_PATCH = 1024  # texture is judged in the middle of larger pictures
_COARSE = 4  # side of the blocks whose means the coarse correlation is of
_GRAY_SPREAD = 8  # levels between a pixel's channels that JPEG's chroma rounding may leave
_GRAY_SHARE = 0.999
_TINT_GRID = 4
_OCTAVES = 5
_FINEST = 8  # place of the first octave in ``Facts.kind``

KIND_UNITS = np.array([0.12, 0.06, 0.04, 0.04, 0.08, 0.12, 0.12, 0.12, *([0.4] * _OCTAVES), *([0.25] * 2), 0.15], np.float32)
"""What counts as one step in each feature of ``Facts.kind``: about the standard deviation among photographs of one street
camera. Fixed rather than taken from the data: sets that vary little would otherwise differ vastly in what nobody sees."""


@dataclass(frozen=True)
class Unusable:
    """A picture that cannot be decoded or does not fit the spec, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What is known of one picture.

    Attributes:
        digest: SHA-256 of size and pixels as decoded to RGB.
        brightest: largest pixel value in any channel as decoded.
        spread: standard deviation of pixel values as decoded, largest over the channels, in levels of 255.
        fine, coarse: correlation of neighbouring luma pixels, and of neighbouring means of 4x4 blocks.
        is_gray: hardly a pixel has channels that differ.
        histogram: uint32 (C, 256) of the prepared pixels, in the spec's colour order, without padding.
        kind: float32 (16,) in units of ``KIND_UNITS``: light, contrast, two tints, saturation, three luma quantiles, log
            gradient of five octaves, direction of two, light above against below.
        tint: float32 (16,), mean of the first less the last channel over a 4x4 grid, in 0..1; empty for one channel.
    """

    name: str
    digest: bytes
    placement: Placement
    brightest: int
    spread: float
    fine: float
    coarse: float
    is_gray: bool
    likeness: Likeness
    histogram: UInt32
    kind: Float32
    tint: Float32

    @property
    def detail(self) -> float:
        """Log of the mean gradient of neighbouring pixels against that at half the size; log 1/2 for what is smooth."""
        step = self.kind[_FINEST : _FINEST + 2] * KIND_UNITS[_FINEST : _FINEST + 2]
        return float(step[0] - step[1])


def look(picture: Picture, spec: ModelSpec) -> Facts | Unusable:
    """Decode and prepare one picture as calibration would, and keep what is needed to judge it."""
    try:
        image = load_image(picture.path)
        crops = picture.region is not None and spec.preprocess.crop_to_region
        region = load_region(picture.region) if picture.region is not None and crops else None
        prepared = prepare(image, spec, region, name=picture.name)
    except DataError as error:
        return Unusable(picture.name, error.message)
    placement = prepared.placement
    (top, left), (height, width) = placement.offset, placement.scaled
    inside = prepared.input.pixels[0, top : top + height, left : left + width]
    patch = _middle(image)
    luma = _luma(patch)
    return Facts(
        name=picture.name,
        digest=hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest(),
        placement=placement,
        brightest=int(image.max()),
        spread=_spread(patch),
        fine=_neighbour_correlation(luma),
        coarse=_neighbour_correlation(_block_means(luma, _COARSE)),
        is_gray=_is_gray(patch),
        likeness=likeness(image),
        histogram=_counts(inside),
        kind=_kind(inside),
        tint=_tint(inside) if spec.preprocess.color is not ColorOrder.GRAY else np.zeros(0, np.float32),
    )


def look_at_all(pictures: Sequence[Picture], spec: ModelSpec) -> Iterator[Facts | Unusable]:
    """``look`` at one picture after the other, a few ahead in a thread."""
    return prefetch(partial(look, picture, spec) for picture in pictures)


def _middle(image: UInt8) -> UInt8:
    top, left = (max(0, size - _PATCH) // 2 for size in image.shape[:2])
    return image[top : top + _PATCH, left : left + _PATCH]


def _luma(image: UInt8) -> Float32:
    """The mean of the channels, (H, W); added up channel by channel, since numpy is slow along a short last axis."""
    total = image[:, :, 0].astype(np.float32)
    for channel in range(1, image.shape[2]):
        total += image[:, :, channel]
    total *= np.float32(1 / image.shape[2])
    return total


def _counts(image: UInt8) -> UInt32:
    """How many pixels of each channel have each value: (C, 256)."""
    channels = range(image.shape[2])
    return np.stack([np.bincount(image[:, :, channel].ravel(), minlength=256).astype(np.uint32) for channel in channels])


def _spread(image: UInt8) -> float:
    share = _counts(image) / np.float64(image.shape[0] * image.shape[1])
    level = np.arange(256, dtype=np.float64)
    variance = share @ level**2 - (share @ level) ** 2
    return float(np.sqrt(max(0.0, float(variance.max()))))


def _block_means(plane: Float32, side: int) -> Float32:
    height, width = (size // side for size in plane.shape)
    if not height or not width:
        return plane
    blocks = plane[: height * side, : width * side].reshape(height, side, width, side)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _neighbour_correlation(plane: Float32) -> float:
    """Autocorrelation at a distance of one pixel, the mean of both directions; 1 for a plane without contrast."""
    if min(plane.shape) < 2:
        return 1.0
    centred = plane - plane.mean(dtype=np.float64)
    power = float((centred * centred).mean())
    if power <= 0:
        return 1.0
    across, down = (centred[:, 1:] * centred[:, :-1]).mean(), (centred[1:] * centred[:-1]).mean()
    return float(across + down) / (2 * power)


def _is_gray(image: UInt8) -> bool:
    return float((_channel_spread(image) <= _GRAY_SPREAD).mean()) >= _GRAY_SHARE


def _channel_spread(image: UInt8) -> UInt8:
    """The largest less the smallest of a pixel's three channels: (H, W)."""
    red, green, blue = (image[:, :, channel] for channel in range(3))
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def _kind(pixels: UInt8) -> Float32:
    luma = _luma(pixels) * np.float32(1 / 255)
    light = float(luma.mean(dtype=np.float64))
    tints = [float(pixels[:, :, index].mean(dtype=np.float64)) / 255 - light for index in (0, -1)]
    saturation = 0.0
    if pixels.shape[2] == 3:
        saturation = float(_channel_spread(pixels).mean(dtype=np.float64)) / 255
    levels = np.cumsum(np.bincount((luma * np.float32(255)).astype(np.uint8).ravel(), minlength=256)) / luma.size
    quantiles = [float(np.searchsorted(levels, share)) / 255 for share in (0.02, 0.5, 0.98)]
    gradients, directions = _gradients(luma)
    half = luma.shape[0] // 2
    above_below = float(luma[:half].mean() - luma[half:].mean()) if half else 0.0
    features = [light, float(luma.std()), *tints, saturation, *quantiles, *gradients, *directions, above_below]
    return np.asarray(features, np.float32) / KIND_UNITS


def _gradients(luma: Float32) -> tuple[list[float], list[float]]:
    """Log of the mean gradient in each octave, and log of its horizontal against its vertical part in two of them."""
    strengths, directions = [], []
    floor = 1e-3
    for octave in range(_OCTAVES):
        if octave:
            luma = _block_means(luma, 2)
        across = float(np.abs(np.diff(luma, axis=1)).mean()) if luma.shape[1] > 1 else 0.0
        down = float(np.abs(np.diff(luma, axis=0)).mean()) if luma.shape[0] > 1 else 0.0
        strengths.append(float(np.log(across + down + floor)))
        if octave in {1, 3}:
            directions.append(float(np.log((across + floor) / (down + floor))))
    return strengths, directions


def _tint(pixels: UInt8) -> Float32:
    difference = pixels[:, :, 0].astype(np.float32) - pixels[:, :, -1]
    grid = Image.fromarray(difference).resize((_TINT_GRID, _TINT_GRID), Image.Resampling.BOX)
    return np.asarray(grid, np.float32).ravel() / np.float32(255)
