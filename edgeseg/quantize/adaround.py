"""Learned rounding: which way each weight of a layer is rounded, so that the layer's output stays closest to the float one.

AdaRound (Nagel et al. 2020, arXiv:2004.10568): a weight is its floor plus a number h in 0..1 (a rectified sigmoid, equation
23), found by gradient descent on the output's error with a term that drives h to 0 or 1 ever harder (equation 24). As in
its section 3.3 the inputs are those of the integer network so far and the targets those of the float network.
Nearest rounding minimises each weight's own error; where inputs are correlated, errors that cancel do less harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LayerProblem", "RoundingSettings", "layer_error", "learn_rounding"]

Float32 = npt.NDArray[np.float32]

_STRETCH, _OFFSET = 1.2, -0.1  # zeta - gamma and gamma of the rectified sigmoid
_WARM = 0.2  # of the steps, without the term
_SOFT, _HARD = 20.0, 2.0  # its exponent at the beginning and at the end
_LIMIT = 127.0
_ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True)
class LayerProblem:
    """One layer as G independent matrix products (1 for a dense convolution, the number of groups otherwise).

    Attributes:
        inputs: float32 (G, n, k), sampled receptive fields of the integer network, in real units.
        targets: float32 (G, n, r), the float layer's output there, less its bias, before any clipping.
        exact: float32 (G, r, k), the weights in steps of their channel's scale.
        scale: float32 (G, r).
        integers: float32 (G, r, k), the rounding to start from and to beat.
        bias: float32 (G, r); used with ``limits`` only.
        limits: what a fused activation clips the output to.
    """

    inputs: Float32
    targets: Float32
    exact: Float32
    scale: Float32
    integers: Float32
    bias: Float32
    limits: tuple[float, float] = (-np.inf, np.inf)

    def rows(self, chosen: npt.NDArray[np.int64] | slice) -> LayerProblem:
        """The same layer on some of the samples."""
        return LayerProblem(
            self.inputs[:, chosen],
            self.targets[:, chosen],
            self.exact,
            self.scale,
            self.integers,
            self.bias,
            self.limits,
        )

    def outputs(self, integers: Float32) -> Float32:
        """float32 (G, n, r), less the bias, before any clipping."""
        product: Float32 = np.matmul(self.inputs, (integers * self.scale[..., None]).transpose(0, 2, 1))
        return product


@dataclass(frozen=True)
class RoundingSettings:
    """``batch``: samples a step. ``pressure``: of the rounding term against the error, where nearest rounding's error is 1 a
    weight."""

    steps: int = 300
    batch: int = 256
    rate: float = 0.15
    pressure: float = 1.0
    seed: int = 0


def layer_error(problem: LayerProblem, integers: Float32) -> Float32:
    """Mean squared error of each output channel, behind the fused activation; float32 (G, r)."""
    bias = problem.bias[:, None, :]
    wanted = np.clip(problem.targets + bias, *problem.limits)
    found = np.clip(problem.outputs(integers) + bias, *problem.limits)
    error: Float32 = np.square(wanted - found).mean(axis=1)
    return error


def learn_rounding(problem: LayerProblem, settings: RoundingSettings) -> tuple[Float32, float]:
    """Integers each of which is the floor or the ceiling of the exact value, and what they bring.

    A quarter of the samples is kept back; each output channel keeps the rounding it came with unless the learned one is
    better there. Deterministic for a seed.

    Returns:
        The integers, float32 (G, r, k); and their error over that of ``problem.integers`` on the samples kept back.
    """
    count = problem.inputs.shape[1]
    order = np.random.default_rng(settings.seed).permutation(count)
    fitted, kept = problem.rows(np.sort(order[: count - count // 4])), problem.rows(np.sort(order[count - count // 4 :]))
    learned = _descend(fitted, settings)
    before, after = layer_error(kept, problem.integers), layer_error(kept, learned)
    better = after < before
    chosen = np.where(better[..., None], learned, problem.integers)
    total = float(before.sum())
    share = float(np.where(better, after, before).sum()) / total if total > 0 else 1.0
    return chosen, share


def _descend(problem: LayerProblem, settings: RoundingSettings) -> Float32:
    floor = np.floor(problem.exact)
    start = np.clip(problem.exact - floor, 0.01, 0.99)
    raw = _logit((start - _OFFSET) / _STRETCH)
    first, second = np.zeros_like(raw), np.zeros_like(raw)
    # In units of what nearest rounding costs a weight, one pressure suits every layer.
    unit = layer_error(problem, np.rint(problem.exact))
    weight = (problem.exact.shape[2] / np.maximum(unit, 1e-12 + 1e-6 * unit.max(initial=0.0)))[:, None, :]
    draw = np.random.default_rng(settings.seed + 1)
    count = problem.inputs.shape[1]
    batch = min(settings.batch, count)
    bias, scale = problem.bias[:, None, :], problem.scale[..., None]
    for step in range(1, settings.steps + 1):
        chosen = draw.choice(count, batch, replace=False)
        inputs = problem.inputs[:, chosen]
        soft = 1.0 / (1.0 + np.exp(-raw))
        stretched = soft * _STRETCH + _OFFSET
        h = np.clip(stretched, 0.0, 1.0)
        free = (stretched > 0) & (stretched < 1)
        weights = np.clip(floor + h, -_LIMIT, _LIMIT) * scale
        found = np.matmul(inputs, weights.transpose(0, 2, 1)) + bias
        wanted = problem.targets[:, chosen] + bias
        error = np.clip(found, *problem.limits) - np.clip(wanted, *problem.limits)
        error *= (found > problem.limits[0]) & (found < problem.limits[1])
        slope = np.matmul((error * (2.0 / batch) * weight).transpose(0, 2, 1), inputs) * scale
        done = step / settings.steps
        if done > _WARM:
            power = _HARD + 0.5 * (_SOFT - _HARD) * (1 + np.cos((done - _WARM) / (1 - _WARM) * np.pi))
            centred = 2 * h - 1
            slope -= settings.pressure * power * 2 * np.sign(centred) * np.abs(centred) ** (power - 1)
        slope *= free * _STRETCH * soft * (1 - soft)
        first += (1 - _ADAM[0]) * (slope - first)
        second += (1 - _ADAM[1]) * (np.square(slope) - second)
        rate = settings.rate * np.sqrt(1 - _ADAM[1] ** step) / (1 - _ADAM[0] ** step)
        raw -= (rate * first / (np.sqrt(second) + _ADAM[2])).astype(np.float32)
    up = 1.0 / (1.0 + np.exp(-raw)) * _STRETCH + _OFFSET > 0.5
    rounded: Float32 = np.clip(floor + up, -_LIMIT, _LIMIT).astype(np.float32)
    return rounded


def _logit(share: Float32) -> Float32:
    value: Float32 = np.log(share / (1 - share)).astype(np.float32)
    return value
