"""Ranges, scales and errors against brute force, numpy, scipy and onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.errors import DataError, UsageError
from edgeseg.quantize.observe import Observer, histogram
from edgeseg.quantize.plan import TensorQuant
from edgeseg.quantize.ranges import (
    ESTIMATORS,
    Range,
    affine,
    candidates,
    choose,
    estimate,
    expected_error,
    kl_divergence,
    merge_levels,
)

RNG = np.random.default_rng(0)
TENSORS = {
    "normal": RNG.normal(0.2, 1, 12000),
    "relu": np.maximum(RNG.normal(0, 1, 12000), 0),
    "heavy tails": RNG.standard_t(3, 12000),
    "one outlier": np.append(RNG.normal(0, 1, 12000), 300.0),
    "lopsided": RNG.gamma(2, 1, 12000) - 0.5,
    "negative": -RNG.gamma(2, 1, 12000),
}


def observed(values: np.ndarray) -> Observer:
    observer = Observer("t")
    observer.update(np.asarray(values, np.float32))
    return observer


def fake_quantize(values: np.ndarray, quant: TensorQuant) -> np.ndarray:
    """Round-trip through integers by onnxruntime's own operators."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = {"int8": np.int8, "uint8": np.uint8}[quant.dtype]
    constants = [
        numpy_helper.from_array(np.float32(quant.scale[0]), "s"),
        numpy_helper.from_array(np.asarray(quant.zero_point[0], kind), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.asarray(values, np.float32)})[0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_expected_error_is_what_onnxruntime_does(name: str, symmetric: bool) -> None:
    values = np.float32(TENSORS[name])
    observer = observed(values)
    for found in candidates(observer, symmetric=symmetric).values():
        quant = affine(found, symmetric=symmetric)
        real = float(np.mean((fake_quantize(values, quant) - values.astype(np.float64)) ** 2))
        assert expected_error(observer, found, symmetric=symmetric) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_as_good_as_a_fine_search_of_both_ends(name: str) -> None:
    observer = observed(TENSORS[name])
    found = expected_error(observer, estimate(observer, "mse"))
    low, high = min(observer.low, 0), max(observer.high, 0)
    lows = {0.0} if low == 0 else set(low * np.linspace(0.02, 1, 50))
    highs = {0.0} if high == 0 else set(high * np.linspace(0.005, 1, 200))
    brute = min(expected_error(observer, Range(a, b)) for a in lows for b in highs)
    assert found <= brute * 1.03
    assert found <= min(expected_error(observer, other) for other in candidates(observer).values())


@pytest.mark.parametrize("name", TENSORS)
def test_symmetric_mse_against_scipy(name: str) -> None:
    from scipy.optimize import minimize_scalar

    observer = observed(TENSORS[name])
    amplitude = max(-observer.low, observer.high)

    def error(a: float) -> float:
        return expected_error(observer, Range(-a, a), symmetric=True)

    starts = np.linspace(amplitude / 50, amplitude, 50)
    best = starts[int(np.argmin([error(a) for a in starts]))]
    brute = minimize_scalar(error, bounds=(best * 0.8, min(best * 1.2, amplitude)), method="bounded").fun
    assert expected_error(observer, estimate(observer, "mse", symmetric=True), symmetric=True) <= brute * 1.03


@pytest.mark.parametrize("percent", [99.9, 99.99])
@pytest.mark.parametrize("name", TENSORS)
def test_percentiles_are_numpys_to_a_bins_width(name: str, percent: float) -> None:
    values = np.float32(TENSORS[name])
    observer = observed(values)
    found = estimate(observer, f"percentile-{percent}")
    shares = [100 - percent - 1e-6, percent - 1e-6]  # both sides of rounding doubts in "12000 values * 0.1 %"
    expected = np.percentile(values, shares, method="inverted_cdf")
    assert [found.low, found.high] == pytest.approx(list(expected), abs=1.5 * observer.histogram.width)


def test_minmax_means_and_moving_average_are_the_observers() -> None:
    observer = observed(TENSORS["normal"])
    observer.update(np.float32([-9, 9]))
    found = candidates(observer)
    assert found["minmax"] == Range(-9, 9)
    assert found["mean-minmax"] == Range(*observer.mean_extremes)
    assert found["moving-average"] == Range(*observer.moving_extremes)


def test_entropy_divergence_is_scipys() -> None:
    from scipy.stats import entropy

    p = np.array([1, 0, 2, 3, 5, 3, 1, 7], np.float64)
    q = merge_levels(p, 4)
    np.testing.assert_allclose(q, [1, 0, 2.5, 2.5, 4, 4, 4, 4])
    assert kl_divergence(p, q) == pytest.approx(entropy(p, q))
    assert kl_divergence(p, np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float64)) == np.inf


@pytest.mark.parametrize("name", ["normal", "heavy tails", "lopsided"])
def test_the_entropy_range_is_the_one_that_scipy_finds_by_brute_force(name: str) -> None:
    """Every clipping tried, on plain histograms that numpy makes: clipped values count for the outermost bins."""
    from scipy.stats import entropy

    values = np.float32(TENSORS[name])
    observer = observed(values)
    edges, width = observer.histogram.edges, observer.histogram.width
    counts = np.histogram(values[values != 0], edges)[0].astype(float)

    def divergence(limit: float) -> float:
        inside = (edges[:-1] >= -limit) & (edges[1:] <= limit)
        kept = counts[inside]
        p = kept.copy()
        p[0] += counts[edges[:-1] < -limit].sum()
        p[-1] += counts[edges[1:] > limit].sum()
        q = np.zeros_like(kept)
        for level in range(256):
            mine = (np.arange(kept.size) * 256 // kept.size == level) & (kept > 0)
            q[mine] = kept[mine].mean() if mine.any() else 0
        q = 0.9999 * q / q.sum() + 0.0001 * (p > 0) / (p > 0).sum()
        return float(entropy(p, q))

    reach = max(-edges[0], edges[-1]) / width
    limits = np.arange(128, reach + 1) * width
    best = min(divergence(limit) for limit in limits)
    found = estimate(observer, "entropy")
    limit = max(-found.low, found.high)
    on_grid = np.ceil(limit / width - 1e-6) * width
    assert divergence(on_grid) <= best * 1.25 + 1e-4


def test_entropy_clips_a_far_outlier_and_keeps_a_uniform_tensor() -> None:
    outlier = estimate(observed(TENSORS["one outlier"]), "entropy")
    assert 2 < outlier.high < 60
    uniform = observed(RNG.uniform(-1, 1, 12000))
    kept = estimate(uniform, "entropy")
    assert kept.high - kept.low > 0.9 * (uniform.high - uniform.low)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0), (3.0, 3.0), (-1e-30, 1e-31), (0, 1e30)]
)
def test_zero_and_the_ends_are_represented(dtype: str, low: float, high: float) -> None:
    quant = affine(Range(low, high), dtype=dtype)
    step = quant.scale[0]
    assert np.float32(step) == step
    assert np.iinfo(dtype).min <= quant.zero_point[0] <= np.iinfo(dtype).max
    back = fake_quantize(np.float32([0, low, high]), quant)
    assert back[0] == 0
    assert back[1:] == pytest.approx([low, high], abs=0.51 * step)


def test_a_constant_is_exact() -> None:
    quant = affine(Range(3.0, 3.0))
    assert fake_quantize(np.float32([3.0]), quant)[0] == pytest.approx(3.0, rel=1e-6)


def test_symmetric_quantization_has_zero_point_zero_and_reaches_the_larger_end() -> None:
    quant = affine(Range(-1.0, 4.0), symmetric=True, estimator="minmax")
    assert quant.zero_point == (0,)
    assert quant.scale[0] * 127 == pytest.approx(4.0, rel=1e-6)
    assert (quant.low, quant.high, quant.estimator) == (-1.0, 4.0, "minmax")
    assert affine(Range(-1.0, 4.0), symmetric=True, dtype="int16").scale[0] * 32767 == pytest.approx(4.0, rel=1e-6)
    assert affine(Range(-1.0, 4.0), symmetric=True, dtype="uint8").zero_point == (128,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [-2.0, -2.0], [0.0, 1e-38], [0.0, 7.0]])
def test_degenerate_tensors_have_a_range(estimator: str, values: list[float]) -> None:
    quant = choose(observed(np.float32(values)), estimator=estimator)
    assert quant.scale[0] > 0
    assert quant.estimator == estimator


def test_zeros_cost_nothing() -> None:
    dense, sparse = observed(np.float32([0.1, 0.7])), observed(np.float32([0.1, 0.7, 0, 0]))
    assert expected_error(sparse, Range(0, 0.5)) == pytest.approx(expected_error(dense, Range(0, 0.5)) / 2)
    assert histogram(np.zeros(5, np.float32)).total == 5


def test_mistakes_are_told() -> None:
    observer = observed(TENSORS["normal"])
    with pytest.raises(UsageError, match="kl"):
        estimate(observer, "kl")
    with pytest.raises(UsageError, match="int4"):
        choose(observer, dtype="int4")
    with pytest.raises(UsageError, match="finite"):
        Range(1.0, float("nan"))
    with pytest.raises(DataError, match="never observed"):
        candidates(Observer("t"))
