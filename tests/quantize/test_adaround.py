"""Learned rounding and bias correction on layers where they must help, against PyTorch in float."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgeseg.quantize.adaround import LayerProblem, RoundingSettings, layer_error, learn_rounding
from edgeseg.quantize.bias import bias_shift

Float32 = npt.NDArray[np.float32]
FIELD, CHANNELS, ROWS = 72, 16, 2048


def correlated(seed: int) -> Float32:
    """Receptive fields whose 72 values are mixtures of 18: what a smooth picture gives."""
    mix = np.random.default_rng(0).standard_normal((FIELD // 4, FIELD))
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((ROWS, FIELD // 4)) @ mix + 0.3 * draw.standard_normal((ROWS, FIELD))).astype(np.float32)


def layer(inputs: Float32, limits: tuple[float, float] = (-np.inf, np.inf)) -> tuple[LayerProblem, Float32]:
    weights = np.random.default_rng(5).standard_normal((CHANNELS, FIELD)).astype(np.float32)
    scale = (np.abs(weights).max(axis=1) / 127).astype(np.float32)
    exact = weights / scale[:, None]
    targets = torch.nn.functional.linear(torch.from_numpy(inputs), torch.from_numpy(weights)).numpy()
    bias = np.zeros((1, CHANNELS), np.float32)
    problem = LayerProblem(inputs[None], targets[None], exact[None], scale[None], np.rint(exact)[None], bias, limits)
    return problem, weights


def noise_db(inputs: Float32, weights: Float32, integers: Float32, scale: Float32, relu: bool) -> float:
    """Noise of the rounded layer on other inputs, dB, as PyTorch computes both."""
    outputs = [
        torch.nn.functional.linear(torch.from_numpy(inputs), torch.from_numpy(matrix))
        for matrix in (weights, integers * scale[:, None])
    ]
    wanted, got = (torch.relu(output) if relu else output for output in outputs)
    return 10 * float(torch.log10((wanted - got).square().sum() / wanted.square().sum()))


@pytest.mark.parametrize("relu", [False, True])
def test_beats_nearest_by_5_db_where_inputs_are_correlated(relu: bool) -> None:
    problem, weights = layer(correlated(1), (0.0, np.inf) if relu else (-np.inf, np.inf))
    learned, share = learn_rounding(problem, RoundingSettings())
    assert np.abs(learned - problem.exact).max() < 1, "floor or ceiling"
    other = correlated(2)
    before, after = (noise_db(other, weights, one[0], problem.scale[0], relu) for one in (problem.integers, learned))
    assert after < before - 5
    assert share < 10 ** (-5 / 10)
    np.testing.assert_array_equal(learned, learn_rounding(problem, RoundingSettings())[0])


def test_no_channel_gets_worse_where_there_is_nothing_to_learn() -> None:
    """White inputs: nearest is the best there is; what is given back is no worse on samples that were kept back."""
    inputs = np.random.default_rng(3).standard_normal((512, FIELD)).astype(np.float32)
    problem, _ = layer(inputs)
    learned, share = learn_rounding(problem, RoundingSettings(steps=100))
    assert share <= 1.0
    assert layer_error(problem, learned).sum() < 1.2 * layer_error(problem, problem.integers).sum()


def test_error_of_the_layers_inputs_is_learned_away_too() -> None:
    """The integer network feeds the layer values that are 1% too small: rounding makes up for some of it."""
    inputs = correlated(1)
    exact, _ = layer(inputs)
    problem = LayerProblem(exact.inputs * np.float32(0.99), exact.targets, *list(vars(exact).values())[2:])
    _, share = learn_rounding(problem, RoundingSettings())
    assert share < 0.8


def test_bias_shift_is_the_mean_error_and_leaves_chance_alone() -> None:
    draw = np.random.default_rng(0)
    wanted = draw.standard_normal((4000, 3)).astype(np.float32)
    found = wanted + draw.standard_normal((4000, 3)).astype(np.float32) * 0.1
    found[:, 0] -= 0.05
    shift = bias_shift(wanted, found)
    assert shift[0] == pytest.approx(0.05, abs=0.005)
    assert abs(shift[1:]).max() < 0.01
    assert (bias_shift(wanted, wanted) == 0).all()
