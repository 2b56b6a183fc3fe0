"""The statistics under the findings, against scipy and plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import uniform_filter
from scipy.stats import energy_distance as scipy_energy_distance
from scipy.stats import ks_1samp, uniform

from edgeseg.data.scenes import render
from edgeseg.errors import UsageError
from edgeseg.lint import activation_stability, range_shift
from edgeseg.lint.difference import compare_sets, energy_distance
from edgeseg.lint.likeness import likeness
from edgeseg.quantize.observe import Observer


def test_the_hash_and_the_relief_are_those_of_scipy() -> None:
    image = render(11)[0]
    thumb = np.asarray(Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = dctn(thumb, type=2)[1:9, 1:9].ravel()
    expected = int("".join("1" if value else "0" for value in low > np.median(low)), 2)
    found = likeness(image)
    assert found.bits[0] == expected
    np.testing.assert_allclose(found.relief.reshape(32, 32), thumb - uniform_filter(thumb, 7, mode="mirror"), atol=1e-4)


def test_energy_distance_is_the_square_of_scipys() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, 40), rng.normal(0.7, 2, 25)
    found = energy_distance(one[:, None].astype(np.float32), two[:, None].astype(np.float32))
    assert found == pytest.approx(scipy_energy_distance(one, two) ** 2, rel=1e-5)


def test_the_p_value_is_uniform_under_the_null_and_small_otherwise() -> None:
    rng = np.random.default_rng(1)
    draws = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(120)]
    values = [compare_sets(draw[:14], draw[14:], seed=0, permutations=199).p_value for draw in draws]
    assert ks_1samp(values, uniform.cdf).pvalue > 0.01
    apart = compare_sets(draws[0][:14], draws[0][14:] + 2, seed=0)
    assert apart.p_value == pytest.approx(0.001)
    assert apart.distance == pytest.approx(energy_distance(draws[0][:14], draws[0][14:] + 2), rel=1e-6)


def test_two_pictures_shift_by_the_difference_of_their_quantiles() -> None:
    rng = np.random.default_rng(2)
    pictures = [rng.integers(20, 120, 5000), rng.integers(40, 220, 5000)]
    histograms = np.stack([np.bincount(one, minlength=256)[None] for one in pictures]).astype(np.uint32)
    ends = [np.quantile(one, (0.001, 0.999), method="inverted_cdf") for one in (*pictures, np.concatenate(pictures))]
    expected = max(abs(ends[0] - ends[1])) / (ends[2][1] - ends[2][0])
    assert range_shift(histograms, seed=0) == pytest.approx(expected)


def test_equal_pictures_do_not_shift() -> None:
    histogram = np.bincount(render(5)[0].ravel(), minlength=256).astype(np.uint32)
    assert range_shift(np.stack([histogram[None]] * 6), seed=0) == 0.0


def observed(name: str, tensors: list[np.ndarray]) -> Observer:
    observer = Observer(name)
    for tensor in tensors:
        observer.update(tensor)
    return observer


def test_activation_stability_names_the_tensor_whose_range_depends_on_the_half() -> None:
    rng = np.random.default_rng(3)
    steady = [rng.normal(size=(1, 4, 30, 30)) for _ in range(8)]
    fickle = [tensor * (3 if place == 2 else 1) for place, tensor in enumerate(steady)]
    halves = [
        {"steady": observed("steady", steady[part]), "fickle": observed("fickle", fickle[part])}
        for part in (slice(4), slice(4, 8))
    ]
    result = activation_stability(*halves)
    assert [tensor.name for tensor in result.tensors] == ["fickle", "steady"]
    assert [tensor.name for tensor in result.unstable] == ["fickle"]
    quantiles = [np.quantile(np.stack(fickle[part]), (0.001, 0.999)) for part in (slice(4), slice(4, 8))]
    width = max(q[1] for q in quantiles) - min(q[0] for q in quantiles)
    assert result.tensors[0].shift == pytest.approx(np.abs(quantiles[0] - quantiles[1]).max() / width, abs=0.03)


def test_activation_stability_wants_the_same_tensors() -> None:
    one = {"a": observed("a", [np.ones(3)])}
    with pytest.raises(UsageError, match="'b'"):
        activation_stability(one, {**one, "b": observed("b", [np.ones(3)])})


def test_tensors_that_are_always_zero_are_stable() -> None:
    zeros = {"z": observed("z", [np.zeros((2, 2))])}
    assert activation_stability(zeros, zeros).unstable == ()
