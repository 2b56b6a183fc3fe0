from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import brier_score_loss
from torchmetrics.classification import MulticlassCalibrationError

from edgeseg.metrics.boundary import band, boundary_counts, contour_counts, default_radius
from edgeseg.metrics.calibration import BRIER, ECE, calibration_counts, calibration_figures, confidence_of
from edgeseg.metrics.objects import connected_regions, found_small_objects


def scene(seed: int, classes: int, shape: tuple[int, int] = (83, 121), ignored: bool = True) -> np.ndarray:
    """Smooth random regions."""
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 5) for _ in range(classes + ignored)])
    return (fields.argmax(axis=0) - ignored).astype(np.int16)


def square(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1,) * 2, bool)


def near_another_class(labels: np.ndarray, c: int, radius: int) -> np.ndarray:
    others = (labels != c) & (labels >= 0)
    return (labels == c) & ndimage.binary_dilation(others, square(radius))


@pytest.mark.parametrize("radius", [1, 2, 5, 12])
def test_bands_and_boundary_iou_equal_scipy(radius):
    truth, prediction = scene(0, 5), scene(1, 6, ignored=False)
    prediction[:, 50:] = np.maximum(truth[:, 50:], 0)
    kept = np.where(truth < 0, -1, prediction)
    intersection, union = boundary_counts(truth, prediction, 5, radius)
    for c in range(5):
        a, b = near_another_class(truth, c, radius), near_another_class(kept, c, radius)
        np.testing.assert_array_equal(band(truth, radius) & (truth == c), a)
        assert (intersection[c], union[c]) == ((a & b).sum(), (a | b).sum())
    assert intersection.sum() > 0


def test_band_without_ignored_pixels_is_the_mask_minus_its_erosion():
    labels = scene(3, 4, ignored=False)
    for c in range(4):
        eroded = ndimage.binary_erosion(labels == c, np.ones((3, 3)), iterations=4, border_value=1)
        np.testing.assert_array_equal(band(labels, 4) & (labels == c), (labels == c) & ~eroded)


@pytest.mark.parametrize("classes", [3, 16, 20, 40, 70])
def test_contour_counts_equal_scipy(classes):
    truth, prediction = scene(4, classes), np.roll(scene(4, classes + 1, ignored=False), 2, axis=1)
    kept = np.where(truth < 0, -1, prediction)
    counts = contour_counts(truth, prediction, classes, 3)
    expected = np.zeros((4, classes), int)
    for c in range(classes):
        a, b = near_another_class(truth, c, 1), near_another_class(kept, c, 1)
        reach_a, reach_b = ndimage.binary_dilation(a, square(3)), ndimage.binary_dilation(b, square(3))
        expected[:, c] = (b & reach_a).sum(), b.sum(), (a & reach_b).sum(), a.sum()
    np.testing.assert_array_equal(counts, expected)


def test_the_border_of_the_image_and_of_ignored_regions_is_no_contour():
    labels = np.zeros((40, 40), np.int16)
    labels[10:20, 10:20] = -1
    assert not band(labels, 5).any()
    assert default_radius(1024, 2048) == 11


@pytest.mark.parametrize("seed", range(3))
def test_regions_equal_scipy(seed):
    labels = scene(seed, 4)
    if seed == 2:
        labels = np.random.default_rng(0).integers(-1, 3, (70, 90)).astype(np.int16)
    regions = connected_regions(labels)
    for value in np.unique(labels):
        components, count = ndimage.label(labels == value)
        mine = regions.of_pixel[labels == value]
        theirs = components[labels == value]
        # The same partition: every pair of indices occurs as often as its index alone.
        pairs = np.unique(np.stack((mine, theirs)), axis=1)
        assert pairs.shape[1] == count == len(np.unique(mine))
        assert (regions.label == value).sum() == count
    np.testing.assert_array_equal(regions.area, np.bincount(regions.of_pixel.ravel()))


def test_small_objects_are_found_from_half_of_their_pixels_on():
    truth = np.zeros((20, 40), np.int16)
    truth[2:6, 2:6] = 1  # 16 pixels
    truth[2:6, 20:24] = 1
    truth[10:18, 2:18] = 1  # 128 pixels: not small
    truth[12:14, 30:34] = 2  # 8 pixels
    half, less = truth.copy(), np.zeros_like(truth)
    half[2:4, 2:6] = 0
    less[2:4, 20:23] = 1
    less[12:14, 30:34] = 2
    counts = found_small_objects(connected_regions(truth), truth, (half, less), 3, max_area=16)
    assert counts.tolist() == [[0, 2, 1], [0, 2, 1], [0, 0, 1]]


def test_calibration_error_equals_torchmetrics_and_brier_score_sklearn():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 6, 40, 50)).astype(np.float32)
    truth = rng.integers(-1, 6, (2, 40, 50)).astype(np.int16)
    sums = sum(calibration_counts(truth[i], logits[i].argmax(0).astype(np.int16), confidence_of(logits[i])) for i in range(2))
    figures = calibration_figures(sums)
    oracle = MulticlassCalibrationError(6, n_bins=15, norm="l1", ignore_index=-1)
    probabilities = torch.from_numpy(logits).softmax(1)
    assert figures[ECE] == pytest.approx(float(oracle(probabilities, torch.from_numpy(truth.astype(np.int64)))), abs=1e-5)
    kept = truth >= 0
    confidence, winner = (found.numpy() for found in probabilities.max(1))
    assert figures[BRIER] == pytest.approx(brier_score_loss((winner == truth)[kept], confidence[kept]), abs=1e-6)


@pytest.mark.parametrize("probability", [False, True])
def test_calibration_error_of_one_channel_equals_torchmetrics(probability):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (1, 40, 50)).astype(np.float32)
    truth = rng.integers(0, 2, (40, 50)).astype(np.int16)
    p = torch.from_numpy(logits[0]).sigmoid()
    confidence = confidence_of(p.numpy()[None] if probability else logits, probability=probability)
    mine = calibration_figures(calibration_counts(truth, (logits[0] > 0).astype(np.int16), confidence))
    # As two classes: torchmetrics' binary form takes the confidence of class 1 instead of that of the winner.
    oracle = MulticlassCalibrationError(2, n_bins=15, norm="l1")
    expected = oracle(torch.stack((1 - p, p), 0)[None], torch.from_numpy(truth.astype(np.int64))[None])
    assert mine[ECE] == pytest.approx(float(expected), abs=1e-5)
    assert np.isnan(calibration_figures(np.zeros(46))).all()
