from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from edgeseg.errors import DataError
from edgeseg.metrics import confusion
from edgeseg.metrics.confusion import Confusion, SegmentationScores, compute

Masks = tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]


def noise(seed: int, classes: int, channels: int, shape: tuple[int, int] = (67, 131)) -> Masks:
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, classes, shape).astype(np.int16)
    return truth, rng.integers(0, channels, shape).astype(np.int16)


def regions(seed: int, classes: int, channels: int) -> Masks:
    truth, prediction = noise(seed, classes, channels, (9, 17))
    tile = np.ones((25, 31), np.int16)
    return np.kron(truth, tile), np.roll(np.kron(prediction, tile), (2, -3), (0, 1))


@pytest.mark.parametrize("make", [noise, regions])
@pytest.mark.parametrize("classes", [2, 5, 15, 16, 150, 300])
def test_matrix_equals_torchmetrics_and_sklearn(make, classes):
    counted = Confusion(classes)
    oracle = MulticlassConfusionMatrix(classes, ignore_index=-1)
    truths, predictions = [], []
    for seed in range(3):
        truth, prediction = make(seed, classes, classes)
        counted.update(truth, prediction)
        oracle.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
        truths.append(truth[truth >= 0])
        predictions.append(prediction[truth >= 0])
    np.testing.assert_array_equal(counted.matrix, oracle.compute().numpy())
    flat_truth, flat_prediction = np.concatenate(truths), np.concatenate(predictions)
    np.testing.assert_array_equal(counted.matrix, confusion_matrix(flat_truth, flat_prediction, labels=np.arange(classes)))
    assert counted.images == 3


@pytest.mark.parametrize("make", [noise, regions])
def test_scores_equal_sklearn_with_absent_classes_and_void_predictions(make):
    # Class 3 appears nowhere, class 1 only in the prediction; channels 5 and 6 of the model have no truth.
    truth, prediction = make(7, 5, 7)
    truth[truth == 3], prediction[prediction == 3], truth[truth == 1] = 0, 4, 2
    counted = Confusion(5, extra=2)
    counted.update(truth, prediction)
    scores = counted.compute()

    kept = truth >= 0
    y, p = truth[kept], prediction[kept]
    present = [0, 1, 2, 4]
    expected = jaccard_score(y, p, labels=present, average=None)
    np.testing.assert_allclose([scores.iou[c] for c in present], expected, rtol=0, atol=1e-12)
    assert math.isnan(scores.iou[3])
    assert scores.iou[1] == 0.0
    assert scores.miou == pytest.approx(expected.mean(), abs=1e-12)
    np.testing.assert_allclose([scores.dice[c] for c in present], f1_score(y, p, labels=present, average=None))
    assert scores.mean_dice == pytest.approx(f1_score(y, p, labels=present, average="macro"))
    assert scores.pixel_accuracy == pytest.approx(np.mean(y == p))
    assert scores.pixels == kept.sum()


def test_miou_equals_torchmetrics_where_every_class_is_present():
    truth, prediction = regions(3, 6, 6)
    oracle = MulticlassJaccardIndex(6, ignore_index=-1)
    oracle.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    counted = Confusion(6)
    counted.update(truth, prediction)
    assert counted.compute().miou == pytest.approx(float(oracle.compute()), abs=1e-6)


def test_one_matrix_over_the_data_set_is_not_the_mean_over_images():
    counted = Confusion(2)
    counted.update(np.array([[0, 0, 0, 0]], np.int16), np.array([[0, 0, 0, 1]], np.int16))
    counted.update(np.array([[1, 1]], np.int16), np.array([[1, 1]], np.int16))
    assert counted.compute().iou == (0.75, 2 / 3)


def test_ignored_pixels_never_count():
    truth, prediction = noise(1, 4, 4)
    truth[:40] = -1
    whole, rest = Confusion(4), Confusion(4)
    whole.update(truth, prediction)
    rest.update(truth[40:], prediction[40:])
    np.testing.assert_array_equal(whole.matrix, rest.matrix)


def test_everything_ignored_has_no_score():
    counted = Confusion(3)
    counted.update(np.full((8, 8), -1, np.int16), np.zeros((8, 8), np.int16))
    scores = counted.compute()
    assert math.isnan(scores.miou)
    assert all(map(math.isnan, scores.iou))
    assert scores.pixels == 0


def test_views_and_large_images_are_counted_as_they_are():
    truth, prediction = noise(2, 9, 9, (1200, 700))
    plain, view = Confusion(9), Confusion(9)
    plain.update(truth, prediction)
    view.update(truth.T[::-1], prediction.T[::-1])
    kept = truth >= 0
    np.testing.assert_array_equal(plain.matrix, confusion_matrix(truth[kept], prediction[kept], labels=range(9)))
    np.testing.assert_array_equal(plain.matrix, view.matrix)


@pytest.mark.parametrize(
    ("truth", "prediction", "words"),
    [
        (np.zeros((2, 3), np.int16), np.zeros((3, 2), np.int16), "same size"),
        (np.full((2, 2), 3, np.int16), np.zeros((2, 2), np.int16), "3 classes"),
        (np.full((2, 2), -2, np.int16), np.zeros((2, 2), np.int16), "-2"),
        (np.zeros((2, 2), np.int16), np.full((2, 2), 4, np.int16), "expected 0 to 3"),
        (np.zeros((2, 2), np.int16), np.full((2, 2), -1, np.int16), "-1"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int16), "int64"),
    ],
)
def test_what_has_no_row_or_column_is_an_error(truth, prediction, words):
    matrix = confusion.empty(3, extra=1)
    with pytest.raises(DataError, match=words):
        confusion.update(matrix, truth, prediction)


def test_scores_survive_json():
    scores = compute(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    back = msgspec.json.decode(msgspec.json.encode(scores), type=SegmentationScores)
    assert back.miou == scores.miou
    assert back.iou[:2] == scores.iou[:2]
    assert math.isnan(back.iou[2])
