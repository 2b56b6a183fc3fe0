"""How far a stage's output is from the output of the stage before it, measured on logits."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.metrics.number import Score
from edgeseg.session import Float32

__all__ = ["Agreement", "AgreementAccumulator", "compare_logits", "labels_of"]


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Distance between a reference and a candidate over ``n`` images.

    Attributes:
        snr_db: ``10 log10(sum(reference^2) / sum((reference - candidate)^2))`` over all values of all images; inf where they
            are equal, -inf where the candidate holds values that are not finite. Null in JSON stands for either.
        max_abs: largest absolute difference of two values; inf where the candidate is not finite. Null in JSON for inf.
        agreement: share of the pixels whose winning class is the same, 0..1.
        n: images.
        non_finite: values of the candidate that are NaN or infinite.
    """

    snr_db: Score
    max_abs: Score
    agreement: float
    n: int
    non_finite: int = 0

    def __post_init__(self) -> None:
        if self.snr_db is None:
            msgspec.structs.force_setattr(self, "snr_db", -math.inf if self.non_finite else math.inf)
        if self.max_abs is None:
            msgspec.structs.force_setattr(self, "max_abs", math.inf)


def labels_of(logits: Float32, *, threshold: float = 0.0) -> npt.NDArray[np.int16]:
    """Winning class of each pixel: (1, C, h, w) to int16 (h, w).

    Of equal channels the first wins. One channel is class 1 where it is above ``threshold`` (0 for a logit whose sigmoid is
    cut at 0.5).
    """
    if logits.ndim != 4 or logits.shape[0] != 1:
        raise DataError(f"Logits of shape {logits.shape}, expected (1, C, h, w).", hint="Run images one by one.")
    if logits.shape[1] == 1:
        above: npt.NDArray[np.bool_] = logits[0, 0] > threshold
        return above.astype(np.int16)
    # A running maximum: numpy's argmax over the first axis copies the array transposed and is several times slower.
    best = logits[0, 0].copy()
    winner = np.zeros(best.shape, np.int16)
    for channel in range(1, logits.shape[1]):
        plane = logits[0, channel]
        winner[plane > best] = channel
        np.maximum(best, plane, out=best)
    return winner


class AgreementAccumulator:
    """Adds up images; memory does not grow with their number.

    Args:
        threshold: for one-channel outputs, as in :func:`labels_of`.
    """

    def __init__(self, *, threshold: float = 0.0) -> None:
        self._threshold = threshold
        self._signal = 0.0
        self._noise = 0.0
        self._max_abs = 0.0
        self._same = 0
        self._pixels = 0
        self._images = 0
        self._non_finite = 0

    def update(self, reference: Float32, candidate: Float32) -> None:
        """Add one image, both float32 (1, C, h, w).

        Raises:
            DataError: the shapes differ, or the reference is not finite.
        """
        if reference.shape != candidate.shape:
            raise DataError(
                f"The reference's output is {reference.shape}, the candidate's {candidate.shape}.",
                hint="Both must be (1, C, h, w) of the same size.",
            )
        signal = _sum_of_squares(reference)
        if not math.isfinite(signal):
            raise DataError(
                "The reference's output holds NaN or infinite values.",
                hint="Check the model itself on this image before converting it.",
            )
        difference = candidate - reference
        noise = _sum_of_squares(difference)
        if math.isfinite(noise):
            self._max_abs = max(self._max_abs, float(np.abs(difference, out=difference).max(initial=0.0)))
        else:
            self._non_finite += int(candidate.size - np.isfinite(candidate).sum())
            self._max_abs = math.inf
        self._signal += signal
        self._noise += noise
        same = labels_of(reference, threshold=self._threshold) == labels_of(candidate, threshold=self._threshold)
        self._same += int(np.count_nonzero(same))
        self._pixels += same.size
        self._images += 1

    def compute(self) -> Agreement:
        """Figures over the images so far.

        Raises:
            DataError: there were none.
        """
        if not self._pixels:
            raise DataError("No image was compared.", hint="Give at least one image.")
        return Agreement(
            snr_db=_decibel(self._signal, self._noise),
            max_abs=self._max_abs,
            agreement=self._same / self._pixels,
            n=self._images,
            non_finite=self._non_finite,
        )


def compare_logits(reference: Float32, candidate: Float32, *, threshold: float = 0.0) -> Agreement:
    """:class:`Agreement` of one image's outputs, float32 (1, C, h, w).

    >>> a = np.ones((1, 2, 1, 1), np.float32)
    >>> round(compare_logits(a, a * np.float32(1.1)).snr_db, 2)
    20.0
    """
    accumulator = AgreementAccumulator(threshold=threshold)
    accumulator.update(reference, candidate)
    return accumulator.compute()


def _sum_of_squares(values: Float32) -> float:
    flat = values.ravel()
    # float32 products summed by BLAS in float32 lose digits on a million values; einsum in float64 is exact enough.
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _decibel(signal: float, noise: float) -> float:
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
