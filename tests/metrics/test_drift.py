from __future__ import annotations

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
import scipy.stats
from populations import counts_of, draw
from sklearn.metrics import brier_score_loss

from edgeseg.errors import DataError
from edgeseg.metrics.bootstrap import expanded_level
from edgeseg.metrics.confusion import compute
from edgeseg.metrics.counts import CountRecord, CountSettings, ImageCounts
from edgeseg.metrics.drift import DriftAccumulator, DriftResult, Observed, summarize_drift
from edgeseg.metrics.evidence import FIRST_CLASS, MIOU, Evidence


def evidence(seed: int, images: int = 60, drop: float = 0.02, **arguments) -> Evidence:
    reference, candidate = draw(np.random.default_rng(seed), images, drop=drop)
    return Evidence.pair(counts_of(reference), counts_of(candidate), **arguments)


def miou_change(reference: np.ndarray, candidate: np.ndarray) -> float:
    return compute(candidate.sum(axis=0)).miou - compute(reference.sum(axis=0)).miou


def test_interval_covers_the_true_change_in_95_of_100_data_sets():
    truth = miou_change(*draw(np.random.default_rng(99), 200_000))
    trials, images, covered = 600, 80, 0
    rng = np.random.default_rng(0)
    for seed in range(trials):
        reference, candidate = draw(rng, images)
        found = Evidence(counts_of(reference), counts_of(candidate), resamples=400, seed=seed)
        interval = found.segmentation.interval(MIOU)
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / trials <= 0.98


@pytest.mark.parametrize("images", [10, 20, 300])
@pytest.mark.parametrize("level", [0.005, 0.025, 0.05])
def test_levels_are_those_of_students_distribution(images, level):
    t = scipy.stats.t.ppf(level, images - 1)
    expected = scipy.stats.norm.cdf(np.sqrt(images / (images - 1)) * t)
    assert expanded_level(level, images) == pytest.approx(expected, rel=0.01)


def test_interval_is_the_hull_of_scipys_two():
    reference, candidate = draw(np.random.default_rng(5), 50)
    mine = Evidence(counts_of(reference), counts_of(candidate), resamples=8000).segmentation.interval(MIOU)
    theirs = scipy.stats.bootstrap(
        (np.arange(50),),
        lambda index: miou_change(reference[index], candidate[index]),
        vectorized=False,
        n_resamples=8000,
        method="percentile",
        confidence_level=1.0 - 2.0 * expanded_level(0.025, 50),
        rng=np.random.default_rng(1),
    ).confidence_interval
    change = miou_change(reference, candidate)
    left_out = [miou_change(np.delete(reference, i, 0), np.delete(candidate, i, 0)) for i in range(50)]
    student = scipy.stats.t(49, loc=change, scale=math.sqrt(49 * np.var(left_out))).interval(0.95)
    low, high = min(theirs.low, student[0]), max(theirs.high, student[1])
    assert mine.low == pytest.approx(low, abs=0.04 * (high - low))
    assert mine.high == pytest.approx(high, abs=0.04 * (high - low))


def test_pairing_narrows_the_interval():
    both = evidence(3)
    order = np.random.default_rng(0).permutation(60)
    names = both.candidate.names
    apart = Evidence(both.reference, both.candidate.select(order))
    paired, unpaired = both.segmentation.interval(MIOU), apart.segmentation.interval(MIOU)
    assert (paired.high - paired.low) < 0.7 * (unpaired.high - unpaired.low)
    # ``pair`` brings them back together by name.
    again = Evidence.pair(both.reference, both.candidate.select(order))
    assert again.candidate.names == names
    assert again.segmentation.interval(MIOU) == paired


def test_equal_predictions_have_no_change_and_no_doubt():
    counts = evidence(1).reference
    delta = Evidence.pair(counts, counts).delta(MIOU)
    assert delta.change == 0.0
    assert (delta.interval.low, delta.interval.high) == (0.0, 0.0)


def test_too_few_images_give_no_interval():
    assert evidence(1, images=9).delta(MIOU).interval is None
    reference, candidate = draw(np.random.default_rng(0), 60)
    reference[5:, 4], candidate[5:, 4] = 0, 0  # class 4 is in the truth of at most 5 images
    rare = Evidence.pair(counts_of(reference), counts_of(candidate)).delta(FIRST_CLASS + 4)
    assert rare.interval is None
    assert not math.isnan(rare.change)


def test_a_wider_confidence_gives_a_wider_interval_that_holds_the_estimate():
    found = evidence(2)
    inner, outer = found.segmentation.interval(MIOU, 0.9), found.segmentation.interval(MIOU, 0.99)
    assert outer.low < inner.low < inner.estimate < inner.high < outer.high


def test_what_cannot_be_paired_is_an_error():
    counts = evidence(1).reference
    with pytest.raises(DataError, match="different images"):
        Evidence.pair(counts, counts.select(np.arange(20)))
    other = counts.confusion.copy()
    other[0, 0, 0] += 1
    with pytest.raises(DataError, match="another truth"):
        Evidence.pair(counts, counts_of(other))
    renamed = ImageCounts(
        CountSettings(classes=("x",) * 5), counts.names, counts.confusion, counts.boundary, counts.contour, counts.small
    )
    with pytest.raises(DataError, match="what was counted"):
        Evidence.pair(counts, renamed)


def test_counts_survive_a_file_and_damage_is_found():
    counts = evidence(1).candidate
    line = msgspec.json.encode(counts.record())
    again = ImageCounts.of_record(msgspec.json.decode(line, type=CountRecord))
    assert again.names == counts.names
    np.testing.assert_array_equal(again.confusion, counts.confusion)
    record = msgspec.structs.replace(counts.record(), names=counts.names[:-1])
    with pytest.raises(DataError, match="do not fit"):
        ImageCounts.of_record(record)


def masks(seed: int, images: int = 24) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Square scenes; the candidate misses the small objects (class 2) of images called camB-*."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(images):
        truth = np.zeros((64, 64), np.int16)
        left = int(rng.integers(10, 30))
        truth[:, left:] = 1
        row, column = rng.integers(5, 50, 2)
        truth[row : row + 6, column : column + 6] = 2
        truth[:3] = -1
        reference = np.maximum(np.roll(truth, 1, axis=1), 0)
        candidate = reference.copy()
        camera = "camB" if i % 2 else "camA"
        if camera == "camB":
            candidate[candidate == 2] = 1
            candidate[:3] = 2  # does not count
        found.append((f"{camera}-{i}", truth, reference, candidate))
    return found


def observe(samples, **arguments) -> Observed:
    accumulator = DriftAccumulator(CountSettings(classes=("a", "b", "c"), boundary_radius=3), **arguments)
    for sample in samples:
        accumulator.update(*sample)
    return accumulator.compute()


def test_one_pass_gives_scores_flips_groups_and_worst_images():
    samples = masks(0)
    result = summarize_drift(observe(samples), groups={name: name[:4] for name, *_ in samples}, resamples=500)

    counted = np.stack([truth for _, truth, _, _ in samples]) >= 0
    truth, reference, candidate = (np.stack([s[i] for s in samples]) for i in (1, 2, 3))
    assert result.flips.pixels == counted.sum()
    assert result.flips.changed == ((reference != candidate) & counted).sum()
    assert result.flips.broken == ((reference == truth) & (candidate != truth) & counted).sum()
    assert result.flips.mended == ((reference != truth) & (candidate == truth) & counted).sum()
    assert result.reference.pixel_accuracy == pytest.approx((reference == truth)[counted].mean())
    assert result.pixel_accuracy.candidate == pytest.approx((candidate == truth)[counted].mean())
    assert result.miou.change == pytest.approx(result.candidate.miou - result.reference.miou)
    assert result.mean_dice.reference == pytest.approx(result.reference.mean_dice)
    assert [entry.iou.candidate for entry in result.classes] == pytest.approx(result.candidate.iou)
    assert result.classes[2].iou.change < -0.2
    assert result.classes[2].images == 24
    assert result.classes[2].boundary_candidate < result.classes[2].boundary_reference

    assert result.small_objects >= 24
    assert result.small_object_recall.change < -0.3
    assert result.small_object_recall.interval.high < 0.0
    assert result.boundary_iou.change < 0.0
    assert result.boundary_f.change < 0.0

    groups = {entry.name: entry for entry in result.groups}
    assert groups["camA"].miou.change == 0.0
    assert groups["camB"].finding
    assert not groups["camA"].finding
    assert groups["camB"].gap.confidence == pytest.approx(0.975)
    assert all(entry.name.startswith("camB") for entry in result.worst_images)
    assert [e.influence for e in result.worst_images] == sorted(e.influence for e in result.worst_images)
    assert msgspec.json.decode(msgspec.json.encode(result), type=DriftResult) == result


def test_void_channels_of_either_model_count_as_errors():
    truth = np.zeros((8, 8), np.int16)
    truth[:, 4:] = 1
    void = np.where(truth == 1, 3, truth).astype(np.int16)
    accumulator = DriftAccumulator(CountSettings(classes=("a", "b", "c")), candidate_extra=1)
    accumulator.update("x", truth, truth, void)
    result = summarize_drift(accumulator.compute(), resamples=10)
    assert result.reference.iou[:2] == (1.0, 1.0)
    assert result.candidate.iou[:2] == (1.0, 0.0)
    assert result.miou.change == -0.5


def test_confidences_are_compared_and_must_be_complete():
    rng = np.random.default_rng(0)
    samples = [(*sample, tuple(rng.random((2, 64, 64)).astype(np.float32))) for sample in masks(0, 20)]
    calibration = summarize_drift(observe(samples), resamples=200).calibration
    for score in (calibration.ece, calibration.brier):
        assert 0.0 < score.reference < 1.0
        assert score.change == pytest.approx(score.candidate - score.reference)
    # The candidate misses objects at confidences drawn as before: its confidence says less about being right.
    assert calibration.brier.interval.low <= calibration.brier.change <= calibration.brier.interval.high
    assert calibration.brier.change == pytest.approx(_brier(samples, 3, 1) - _brier(samples, 2, 0), abs=1e-6)
    with pytest.raises(DataError, match="2 of 3"):
        observe([*samples[:2], masks(0, 3)[2]])


def _brier(samples, prediction: int, side: int) -> float:
    kept = [sample[1] >= 0 for sample in samples]
    right = np.concatenate([(s[prediction] == s[1])[k] for s, k in zip(samples, kept, strict=True)])
    confidence = np.concatenate([s[4][side][k] for s, k in zip(samples, kept, strict=True)])
    return brier_score_loss(right, confidence)


def test_files_between_are_counted_as_they_would_be_alone():
    samples = masks(0, 12)
    with_between = DriftAccumulator(CountSettings(classes=("a", "b", "c"), boundary_radius=3), between_extra=(0, 1))
    for name, truth, reference, candidate in samples:
        with_between.update(name, truth, reference, candidate, between=(reference, np.roll(candidate, 2, axis=0)))
    seen = with_between.compute()
    alone = observe([(name, truth, reference, np.roll(candidate, 2, axis=0)) for name, truth, reference, candidate in samples])
    np.testing.assert_array_equal(seen.between[0].boundary, seen.reference.boundary)
    np.testing.assert_array_equal(seen.between[0].contour, seen.reference.contour)
    for name in ("boundary", "contour", "small"):
        np.testing.assert_array_equal(getattr(seen.between[1], name), getattr(alone.candidate, name))
    np.testing.assert_array_equal(seen.between[1].confusion[:, :, :3], alone.candidate.confusion)


def test_names_must_be_unique_and_groups_must_fit():
    samples = masks(0, 12)
    with pytest.raises(DataError, match="two images"):
        observe([samples[0], samples[0]])
    with pytest.raises(DataError, match="name none"):
        summarize_drift(observe(samples), groups={"nobody": "x"}, resamples=10)
    with pytest.raises(DataError, match="no image"):
        observe([])


def _peak(images: int) -> int:
    """Largest memory in use, bytes, while ``images`` pictures of 256 x 256 are counted."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 3, (8, 8)), np.ones((32, 32), np.int64)).astype(np.int16)
    candidate = np.roll(truth, 2, axis=1)
    confidence = rng.random(truth.shape).astype(np.float32)
    accumulator = DriftAccumulator(CountSettings(classes=("a", "b", "c")))
    tracemalloc.start()
    for index in range(images):
        accumulator.update(str(index), truth, truth, candidate, (confidence, confidence))
    accumulator.compute()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_pixels():
    """What an image leaves behind is a few kilobytes, not its pixels (128 KiB a label map)."""
    few, many = _peak(2), _peak(10)
    assert many - few < 8 * 20_000
