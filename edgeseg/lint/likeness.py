"""Which pictures are the same picture, saved again: after JPEG, scaling, noise, a change of light, mirroring, turning or cropping.

A near duplicate must pass two tests. Its DCT hash must be close (Zauner, Implementation and Benchmarking of Perceptual Image
Hash Functions, 2010, section 3.2.1), which is cheap and leaves few pairs. Then its fine structure must correlate with
the other's after what all pictures of the sets have in common is taken off: pictures from one camera on one stand (a retina's
rim, a car's bonnet) have close hashes without being the same.

On real sets (CamVid, DRIVE, a nuclei set), JPEG at quality 30, halving the size, 20 % more light and noise of 8 levels give
hashes within 6 bits and correlations above 0.97; different retinas stay below 0.81, frames of a driving camera seconds apart
below 0.9, and only a car that stands still is above.

Each picture is compared with the other as it is and in its seven other orientations. Where the hashes are less close, and the
other is not turned by more than a mirror, ``registration`` looks for a crop or a shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg.lint.registration import SIDE, Prepared, correlation_where_aligned, prepare_for_search
from edgeseg.session import UInt8

__all__ = [
    "ALIKE",
    "ALIKE_WHERE_ALIGNED",
    "HASH_BITS_APART",
    "Common",
    "Likeness",
    "Twin",
    "common_relief",
    "likeness",
    "near_twins",
]

Bool = npt.NDArray[np.bool_]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

HASH_BITS_APART = 10
"""Largest Hamming distance of the 64-bit hashes of near duplicates; unrelated pictures are 32 bits apart on average."""
ALIKE = 0.9
"""Least correlation of their relief."""
ALIKE_WHERE_ALIGNED = 0.92
"""Least correlation of what two pictures show both, once one is moved and scaled."""
_SURELY_ALIKE = 0.99  # of the plain relief: where nearly all pictures are copies, what they share is the picture itself
_HASH_BITS_OF_A_CROP = 24  # crops of 5 % a side stay within, and all but a few hundredths of unrelated pictures outside
_MOST_ALIGNED = 3000  # pairs: some 20 seconds
_SIDE = 32
_REACH, _FINE_REACH = 3, 5
_ENOUGH_FOR_COMMON = 8
_MOST_FOR_COMMON = 500
_LEAST_FREE = 0.1
_AS_IS, _MIRRORED = 0, 4


def _dct_rows() -> Float64:
    """Rows 1..8 of the type-II discrete cosine transform of 32 points; row 0, the mean, says nothing about structure."""
    frequency, place = np.arange(1, 9)[:, None], np.arange(_SIDE)[None, :]
    return np.asarray(np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)), np.float64)


_DCT = _dct_rows()


@dataclass(frozen=True)
class Likeness:
    """What a picture is recognised by.

    Attributes:
        bits: the 64-bit DCT hashes of the picture in eight orientations: turned by 0 to 3 quarters, then the same of its
            left-right mirror image.
        relief: float32 (32, 32), the luma of a thumbnail less its local mean over 7x7.
        fine: float16 (64, 64), the same of a larger thumbnail, over 11x11.
    """

    bits: tuple[int, ...]
    relief: Float32
    fine: Float16


@dataclass(frozen=True)
class Common:
    """What the pictures of a set share.

    Attributes:
        relief: float32 (32, 32), the median of each place.
        free: bool (64, 64), the places of the larger thumbnail where they share nothing.
    """

    relief: Float32
    free: Bool


@dataclass(frozen=True)
class Twin:
    """Pictures ``first`` and ``second`` (places in their sequences) look the same; ``correlation`` of their reliefs."""

    first: int
    second: int
    correlation: float


def likeness(image: UInt8) -> Likeness:
    """What to recognise a picture by: uint8 (H, W, 3)."""
    luma = Image.fromarray(image).convert("L")
    thumb = np.asarray(luma.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    fine = np.asarray(luma.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    return Likeness(
        tuple(_hash(_turned(thumb, orientation)) for orientation in range(8)),
        np.asarray(thumb - _local_mean(thumb, _REACH), np.float32),
        np.asarray(fine - _local_mean(fine, _FINE_REACH), np.float16),
    )


def common_relief(pictures: Sequence[Likeness]) -> Common:
    """What all the pictures share; nothing where there are too few to tell."""
    if len(pictures) < _ENOUGH_FOR_COMMON:
        return Common(np.zeros((_SIDE, _SIDE), np.float32), np.ones((SIDE, SIDE), np.bool_))
    relief = np.median(np.stack([one.relief for one in pictures]), axis=0)
    some = pictures[:: -(-len(pictures) // _MOST_FOR_COMMON)]
    fine = np.stack([one.fine for one in some]).astype(np.float32)
    shared = np.median(fine, axis=0)
    # One level of grey is the least that counts: where all pictures are black they vary by nothing.
    bound = np.abs(shared) >= np.maximum((fine - shared).std(axis=0), 1.0)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(bound, 1), (3, 3)).any(axis=(2, 3))
    return Common(np.asarray(relief, np.float32), np.asarray(~around, np.bool_))


def near_twins(first: Sequence[Likeness], second: Sequence[Likeness] | None, common: Common) -> Iterator[Twin]:
    """All near duplicates between two sequences, or within ``first`` where ``second`` is None (each pair once).

    Crops are looked for among the 3,000 pairs with the closest hashes.
    """
    others = first if second is None else second
    found: dict[tuple[int, int], float] = {}
    cropped: list[tuple[int, int, int, int]] = []
    for orientation in range(8):
        hashes = np.array([one.bits[orientation] for one in others], np.uint64)
        limit = _HASH_BITS_OF_A_CROP if orientation in {_AS_IS, _MIRRORED} else HASH_BITS_APART
        for place, one in enumerate(first):
            apart = np.bitwise_count(hashes ^ np.uint64(one.bits[_AS_IS]))
            for candidate in np.flatnonzero(apart <= limit).tolist():
                if second is None and candidate <= place:
                    continue
                alike = _alike(one, others[candidate], orientation, common) if apart[candidate] <= HASH_BITS_APART else 0.0
                if alike:
                    found[place, candidate] = max(alike, found.get((place, candidate), 0.0))
                elif limit == _HASH_BITS_OF_A_CROP:
                    cropped.append((int(apart[candidate]), place, candidate, orientation))
    for (place, candidate), alike in _crops(first, others, cropped, common).items():
        found.setdefault((place, candidate), alike)
    for (place, candidate), alike in sorted(found.items()):
        yield Twin(place, candidate, alike)


def _alike(one: Likeness, other: Likeness, orientation: int, common: Common) -> float:
    """The correlation that makes them near duplicates, or 0."""
    correlation = _correlation(one.relief - common.relief, _turned(other.relief - common.relief, orientation))
    plain = _correlation(one.relief, _turned(other.relief, orientation))
    if plain >= _SURELY_ALIKE:
        return max(correlation, plain)
    return correlation if correlation >= ALIKE else 0.0


def _crops(
    first: Sequence[Likeness], others: Sequence[Likeness], pairs: list[tuple[int, int, int, int]], common: Common
) -> dict[tuple[int, int], float]:
    """Those of ``pairs`` (bits apart, two places, orientation of the second) that align."""
    if float(common.free.mean()) < _LEAST_FREE:
        return {}

    @lru_cache(maxsize=16)  # a hundred kilobytes each
    def prepared(is_other: bool, place: int, orientation: int) -> Prepared:
        one = (others if is_other else first)[place]
        return prepare_for_search(_turned(one.fine.astype(np.float32), orientation), _turned(common.free, orientation))

    found = {}
    for _, place, candidate, orientation in sorted(sorted(pairs)[:_MOST_ALIGNED], key=lambda pair: pair[1:]):
        free = common.free & _turned(common.free, orientation)
        alike = correlation_where_aligned(prepared(False, place, _AS_IS), prepared(True, candidate, orientation), free)
        if alike >= ALIKE_WHERE_ALIGNED:
            found[place, candidate] = alike
    return found


def _hash(thumb: Float64) -> int:
    coefficients = (_DCT @ thumb @ _DCT.T).ravel()
    return int.from_bytes(np.packbits(coefficients > np.median(coefficients)).tobytes(), "big")


def _turned(plane: npt.NDArray[Scalar], orientation: int) -> npt.NDArray[Scalar]:
    return np.rot90(plane[:, ::-1] if orientation >= _MIRRORED else plane, orientation % 4)


def _correlation(a: Float32, b: Float32) -> float:
    a, b = (a - a.mean()).ravel(), (b - b.mean()).ravel()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0


def _local_mean(plane: Float64, reach: int) -> Float64:
    """Mean over the square of ``2 * reach + 1`` pixels around each pixel, the picture mirrored at its edges."""
    size = 2 * reach + 1
    padded = np.pad(plane, reach, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return np.asarray(windows.mean(axis=(2, 3)), np.float64)
