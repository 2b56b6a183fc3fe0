"""The label-free estimate against truth drawn from the reference's own probabilities."""

import numpy as np
import pytest

from edgeseg.metrics.confusion import Confusion
from edgeseg.metrics.expected import ExpectedDrop


def _logits(seed: int, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (1, classes, 60, 80)).astype(np.float32)


def test_equal_outputs_cost_nothing() -> None:
    drop = ExpectedDrop()
    drop.update(_logits(1), _logits(1))
    assert drop.drop == 0.0


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_equals_the_measured_drop_when_the_probabilities_are_right(noise: float) -> None:
    """Labels drawn from softmax(reference): the mean drop over many images is what was estimated without them."""
    rng = np.random.default_rng(0)
    expected, before, after = ExpectedDrop(), Confusion(4), Confusion(4)
    for seed in range(60):
        reference = _logits(seed)
        candidate = reference + rng.normal(0, noise, reference.shape).astype(np.float32)
        expected.update(reference, candidate)
        odds = np.exp(reference[0])
        cumulated = np.cumsum(odds / odds.sum(axis=0), axis=0)
        labels = (rng.random(cumulated.shape[1:]) > cumulated).sum(axis=0).astype(np.int16)
        before.update(labels, reference[0].argmax(axis=0).astype(np.int16))
        after.update(labels, candidate[0].argmax(axis=0).astype(np.int16))
    measured = 100 * (before.compute().miou - after.compute().miou)
    assert expected.drop == pytest.approx(measured, abs=0.25)
    assert expected.drop > 0


def test_one_channel() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (1, 1, 40, 40)).astype(np.float32)
    same, flipped = ExpectedDrop(), ExpectedDrop()
    same.update(logits, logits)
    flipped.update(logits, -logits)
    assert same.drop == 0.0
    assert flipped.drop > 50
