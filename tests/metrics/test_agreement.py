from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from torchmetrics.audio import SignalNoiseRatio
from torchmetrics.classification import MulticlassAccuracy

from edgeseg.errors import DataError
from edgeseg.metrics.agreement import Agreement, AgreementAccumulator, compare_logits, labels_of


def pair(seed: int, noise: float, channels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 3, (1, channels, 31, 47)).astype(np.float32)
    return reference, (reference + rng.normal(0, noise, reference.shape)).astype(np.float32)


@pytest.mark.parametrize("noise", [1.0, 0.05, 1e-5])
def test_figures_equal_torchmetrics(noise):
    reference, candidate = pair(0, noise)
    figures = compare_logits(reference, candidate)
    snr = SignalNoiseRatio()(torch.from_numpy(candidate.ravel()).double(), torch.from_numpy(reference.ravel()).double())
    accuracy = MulticlassAccuracy(5, average="micro")(
        torch.from_numpy(candidate).argmax(1), torch.from_numpy(reference).argmax(1)
    )
    assert figures.snr_db == pytest.approx(float(snr), abs=1e-3)
    assert figures.agreement == pytest.approx(float(accuracy), abs=1e-6)
    assert figures.max_abs == np.abs(candidate - reference).max()


def test_images_add_up_like_one_large_image():
    accumulator = AgreementAccumulator()
    pairs = [pair(seed, 10.0**-seed) for seed in range(4)]
    for reference, candidate in pairs:
        accumulator.update(reference, candidate)
    whole = compare_logits(*(np.concatenate(side, axis=2) for side in zip(*pairs, strict=True)))
    figures = accumulator.compute()
    assert figures.snr_db == pytest.approx(whole.snr_db, abs=1e-9)
    assert (figures.max_abs, figures.agreement, figures.n) == (whole.max_abs, whole.agreement, 4)


def test_one_channel_is_cut_at_the_threshold():
    reference = np.array([-1.0, 0.1, 0.4, 2.0], np.float32).reshape(1, 1, 2, 2)
    assert labels_of(reference).tolist() == [[0, 1], [1, 1]]
    assert labels_of(reference, threshold=0.5).tolist() == [[0, 0], [0, 1]]
    assert compare_logits(reference, -reference).agreement == 0.0


def test_equal_outputs_have_infinite_snr_also_through_json():
    reference, _ = pair(0, 0.0)
    figures = compare_logits(reference, reference.copy())
    assert (figures.snr_db, figures.max_abs, figures.agreement) == (math.inf, 0.0, 1.0)
    assert msgspec.json.decode(msgspec.json.encode(figures), type=Agreement) == figures


def test_a_candidate_that_is_not_finite_is_the_worst_also_through_json():
    reference, candidate = pair(0, 0.1)
    candidate[0, 2, 3, 4] = np.nan
    candidate[0, 1, 1, 1] = np.inf
    figures = compare_logits(reference, candidate)
    assert (figures.snr_db, figures.max_abs, figures.non_finite) == (-math.inf, math.inf, 2)
    assert msgspec.json.decode(msgspec.json.encode(figures), type=Agreement) == figures


def test_a_reference_that_is_not_finite_is_an_error():
    reference, candidate = pair(0, 0.1)
    reference[0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="reference"):
        compare_logits(reference, candidate)


def test_shapes_must_agree_and_images_must_exist():
    reference, candidate = pair(0, 0.1)
    with pytest.raises(DataError, match="candidate's"):
        compare_logits(reference, candidate[:, :, 1:])
    with pytest.raises(DataError, match="No image"):
        AgreementAccumulator().compute()
