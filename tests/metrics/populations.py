"""Populations of images, as per-image counts, whose true scores are known."""

from __future__ import annotations

import numpy as np

from edgeseg.metrics.counts import CountSettings, ImageCounts


def counts_of(confusion: np.ndarray, small: np.ndarray | None = None) -> ImageCounts:
    """Counts (N, C, C + extra) with nothing known of boundaries."""
    images, classes = confusion.shape[:2]
    zeros = np.zeros((images, 4, classes), np.int64)
    return ImageCounts(
        CountSettings(classes=tuple(f"class{c}" for c in range(classes))),
        tuple(f"image{i}" for i in range(images)),
        confusion.astype(np.int64),
        zeros[:, :2],
        zeros,
        zeros[:, :2] if small is None else small,
    )


def draw(rng: np.random.Generator, images: int, classes: int = 5, drop: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices (N, C, C) of a reference and a candidate that is worse by about ``drop``.

    Images are of one size and differ in what they show (some lack a class) and in how hard they are; what is hard for one is
    hard for the other.
    """
    present = rng.random((images, classes)) < np.linspace(1.0, 0.4, classes)
    weight = present * rng.gamma(1.0, 1.0, (images, classes)) * np.linspace(4.0, 0.5, classes)
    size = 100_000 * weight / weight.sum(axis=1, keepdims=True)
    hard = rng.beta(2, 10, (images, 1))
    matrices = []
    for extra in (0.0, drop):
        own = np.clip(hard * rng.lognormal(0, 0.2, (images, classes)) + extra, 0, 0.95)
        wrong = rng.binomial(size.astype(np.int64), own)
        # Errors go to the other classes, more of them to the next one.
        share = np.full((classes, classes), 0.5 / (classes - 1))
        share[np.arange(classes), (np.arange(classes) + 1) % classes] += 0.5
        np.fill_diagonal(share, 0.0)
        share /= share.sum(axis=1, keepdims=True)
        matrix = np.stack([rng.multinomial(wrong[:, c], share[c]) for c in range(classes)], axis=1)
        diagonal = np.arange(classes)
        matrix[:, diagonal, diagonal] = size.astype(np.int64) - wrong
        matrices.append(matrix)
    return matrices[0], matrices[1]
