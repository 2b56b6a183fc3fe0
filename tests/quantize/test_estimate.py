"""The searches against problems whose best answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgeseg.errors import DataError
from edgeseg.quantize.estimate import decision_snr, in_float, refine, relax
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant


def quant(scale: float, estimator: str) -> TensorQuant:
    return TensorQuant(scale=(scale,), zero_point=(0,), estimator=estimator)


def plan_of(count: int) -> QuantPlan:
    return QuantPlan(
        target="onnx-int8",
        tensors={f"t{i}": quant(1.0 + i, "mse") for i in range(count)},
        ops=tuple(OpPlan(op=f"t{i}", kind="Conv", domain=Domain.INT8) for i in range(count)),
    )


def options_of(plan: QuantPlan) -> dict[str, dict[str, TensorQuant]]:
    return {
        name: {e: quant(q.scale[0] * f, e) for e, f in (("mse", 1), ("minmax", 2), ("entropy", 0.5))}
        for name, q in plan.tensors.items()
    }


def matches(wanted: dict[str, str], counter: list[int]) -> Callable[[QuantPlan], float]:
    """One decibel for each tensor quantized by the estimator wanted."""

    def evaluate(plan: QuantPlan) -> float:
        counter[0] += 1
        return float(sum(plan.tensors[name].estimator == estimator for name, estimator in wanted.items()))

    return evaluate


def test_the_best_estimator_for_all_tensors_is_found() -> None:
    plan, calls = plan_of(8), [0]
    found = refine(plan, options_of(plan), matches(dict.fromkeys(plan.tensors, "minmax"), calls), budget=4)
    assert found.score == 8
    assert {q.estimator for q in found.plan.tensors.values()} == {"minmax"}
    assert calls[0] <= 4


def test_each_tensor_gets_its_own_given_enough_evaluations() -> None:
    plan, calls = plan_of(9), [0]
    wanted = {name: ("mse", "minmax", "entropy")[i % 3] for i, name in enumerate(plan.tensors)}
    found = refine(plan, options_of(plan), matches(wanted, calls), budget=80)
    assert found.score == 9
    assert {name: q.estimator for name, q in found.plan.tensors.items()} == wanted
    assert calls[0] <= 80


@pytest.mark.parametrize("budget", [1, 2, 5, 11])
def test_the_budget_holds_and_the_result_is_the_best_seen(budget: int) -> None:
    plan, calls = plan_of(6), [0]
    wanted = dict.fromkeys(plan.tensors, "entropy") | {"t0": "minmax"}
    found = refine(plan, options_of(plan), matches(wanted, calls), budget=budget)
    assert calls[0] <= budget
    assert found.score == max(trial.score for trial in found.trials)
    assert refine(plan, options_of(plan), matches(wanted, calls), budget=budget) == found


def test_a_gain_within_the_margin_is_noise() -> None:
    plan = plan_of(4)
    evaluate = matches(dict.fromkeys(plan.tensors, "minmax"), [0])
    assert refine(plan, options_of(plan), evaluate, margin_db=5).plan == plan
    assert refine(plan, options_of(plan), evaluate, margin_db=3).plan != plan


def test_only_the_estimators_named_are_tried() -> None:
    plan = plan_of(4)
    evaluate = matches(dict.fromkeys(plan.tensors, "minmax"), [0])
    assert refine(plan, options_of(plan), evaluate, estimators=("mse", "entropy")).score == 0


def test_tensors_that_share_a_scale_change_together() -> None:
    plan = plan_of(4)
    options = options_of(plan)
    options["t2"] = options["t1"]
    seen: list[tuple[str, str]] = []

    def evaluate(trial: QuantPlan) -> float:
        seen.append((trial.tensors["t1"].estimator, trial.tensors["t2"].estimator))
        return float(trial.tensors["t1"].estimator == "minmax")

    refine(plan, options, evaluate, budget=60)
    assert all(a == b for a, b in seen)
    assert ("minmax", "minmax") in seen


def test_sensitive_tensors_are_tried_first() -> None:
    plan = plan_of(3)
    order: list[str] = []

    def evaluate(trial: QuantPlan) -> float:
        order.extend(name for name, q in trial.tensors.items() if q.estimator != "mse")
        return 0.0

    refine(plan, options_of(plan), evaluate, budget=50, priority={"t1": 9.0})
    singles = order[-6:]
    assert singles.index("t1") < singles.index("t0")


def culprits(harm: dict[str, float], calls: list[int]) -> Callable[[QuantPlan], float]:
    def evaluate(plan: QuantPlan) -> float:
        calls[0] += 1
        return 30.0 - sum(harm.get(entry.op, 0.0) for entry in plan.ops if entry.domain is Domain.INT8)

    return evaluate


def test_one_bad_operator_among_many_returns_to_float() -> None:
    calls = [0]
    found = relax(plan_of(64), culprits({"t37": 20.0}, calls), 25.0)
    floats = [entry for entry in found.plan.ops if entry.domain is Domain.FLOAT]
    assert [entry.op for entry in floats] == ["t37"]
    assert "20.0 dB" in floats[0].why
    assert found.reached
    assert found.score == 30
    assert calls[0] <= 20


def test_several_bad_operators() -> None:
    calls = [0]
    found = relax(plan_of(40), culprits({"t3": 6.0, "t31": 9.0}, calls), 29.0, budget=40)
    assert {entry.op for entry in found.plan.ops if entry.domain is Domain.FLOAT} == {"t3", "t31"}
    assert found.reached


def test_a_plan_above_the_floor_stays_after_one_evaluation() -> None:
    calls = [0]
    found = relax(plan_of(8), culprits({}, calls), 25.0)
    assert found.plan == plan_of(8)
    assert calls[0] == 1


def test_a_floor_out_of_reach_is_reported() -> None:
    calls = [0]
    found = relax(plan_of(8), culprits({"t1": 1.0}, calls), 99.0, budget=20)
    assert not found.reached
    assert calls[0] <= 20


def test_only_the_units_named_move_and_rebuild_says_what_follows() -> None:
    plan = plan_of(4)

    def rebuild(ops: frozenset[str]) -> QuantPlan:
        return in_float(plan, ops | ({"t3"} if "t2" in ops else frozenset()), "follows")

    found = relax(plan, culprits({"t2": 9.0}, [0]), 25.0, units=["t1", "t2"], rebuild=rebuild)
    assert {entry.op for entry in found.plan.ops if entry.domain is Domain.FLOAT} == {"t2", "t3"}


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(DataError, match="not a number"):
        refine(plan_of(1), {}, lambda _: math.nan)


def test_decision_snr_ignores_what_decides_nothing() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 5, 8, 8)).astype(np.float32)
    shifted = logits + rng.normal(size=(1, 1, 8, 8)).astype(np.float32)
    assert decision_snr([logits], [shifted]) > 100
    noisy = logits + 0.01 * rng.normal(size=logits.shape).astype(np.float32)
    assert decision_snr([logits], [noisy]) == pytest.approx(40, abs=0.5)
    one = logits[:, :1]
    assert decision_snr([one], [one + np.float32(1)]) == pytest.approx(10 * math.log10(float((one**2).mean())), abs=1e-3)
    assert decision_snr([one], [one]) == math.inf
    assert decision_snr([one], [one * np.float32(np.nan)]) == -math.inf
