"""Evidence of known drops, and the gate over it."""

from __future__ import annotations

import numpy as np

from edgeseg.gate import Finding, GateInputs, GateResult, decide, parse_rules
from edgeseg.metrics.counts import CountSettings, ImageCounts
from edgeseg.metrics.evidence import Evidence

CLASSES = ("road", "tree", "pole")


def counts(errors: np.ndarray, seed: int = 0, rare: int = 0) -> ImageCounts:
    """``errors``: (N, 3), share of each class's pixels that is predicted as the next class. ``rare``: images that show a pole
    (0: all)."""
    images = errors.shape[0]
    size = np.random.default_rng(seed).integers(800, 1200, (images, 3))
    if rare:
        size[rare:, 2] = 0
    wrong = (size * errors).round().astype(np.int64)
    confusion = np.zeros((images, 3, 3), np.int64)
    for c in range(3):
        confusion[:, c, c] = size[:, c] - wrong[:, c]
        confusion[:, c, (c + 1) % 2] += wrong[:, c]
    zeros = np.zeros((images, 4, 3), np.int64)
    names = tuple(f"image{i}" for i in range(images))
    return ImageCounts(CountSettings(classes=CLASSES), names, confusion, zeros[:, :2], zeros, zeros[:, :2])


def evidence(drop: float, *, spread: float = 0.02, images: int = 60, only: int | None = None, rare: int = 0) -> Evidence:
    """A candidate with ``drop`` more errors (in all classes or one), scattered over images."""
    rng = np.random.default_rng(1)
    base = rng.uniform(0.05, 0.15, (images, 3))
    change = np.clip(rng.normal(drop, spread, (images, 3)), -0.05, 0.8)
    if only is not None:
        change[:, [c for c in range(3) if c != only]] = 0.0
    return Evidence.pair(counts(base, rare=rare), counts(base + change, rare=rare), resamples=500)


def gate(*rules: str, **inputs) -> GateResult:
    return decide(parse_rules(rules), GateInputs(**inputs), candidate="build/x", against="reference")


def only(result: GateResult) -> Finding:
    (finding,) = result.findings
    return finding
