"""A plan is held to a budget of mIoU; scores are computed again here from onnxruntime's outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_nets import filters, images, net, residual, vector

from edgeseg.metrics.expected import ExpectedDrop
from edgeseg.metrics.measured import MeasuredDrop, Runner
from edgeseg.onnxgraph.budget import Budgeted, BudgetSettings, hold_budget
from edgeseg.onnxgraph.planning import initial_plan, quantized_tensors, with_float
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq
from edgeseg.onnxgraph.statistics import collect, run_images
from edgeseg.quantize.journal import SearchJournal
from edgeseg.quantize.plan import Domain, QuantPlan

TRT = QdqStyle.TENSORRT


def plan_of(model: onnx.ModelProto, folder: Path, style: QdqStyle = TRT) -> QuantPlan:
    path = folder / "float.onnx"
    onnx.save_model(model, str(path))
    return initial_plan(model, collect(path, images(6), tensors=quantized_tensors(model, style=style)), style=style)


def drop(model: onnx.ModelProto, plan: QuantPlan) -> float:
    judged = images(4)
    estimate = ExpectedDrop()
    for reference, output in zip(
        run_images(model, judged), run_images(insert_qdq(model, plan, style=TRT), judged), strict=True
    ):
        estimate.update(reference, output)
    return estimate.drop


def weak_middle() -> onnx.ModelProto:
    """Three convolutions; the middle one reads a tensor with one huge channel, which eight bits in all cannot hold."""
    spread = np.ones((8, 1, 1, 1), np.float32)
    spread[0] = 3000.0
    return net(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2, b2) t = Relu(c) y = Conv(t, w3, b3)",
        {
            "w1": filters(8, 3) * spread,
            "b1": vector(8),
            "w2": filters(8, 8, seed=1) / spread.reshape(1, 8, 1, 1),
            "b2": vector(8, 1),
            "w3": filters(4, 8, 1, seed=3),
            "b3": vector(4, 3),
        },
    )


def floats(plan: QuantPlan) -> list[str]:
    return [entry.op for entry in plan.ops if entry.domain is Domain.FLOAT and entry.kind == "Conv"]


def test_only_what_does_the_harm_returns_to_float(tmp_path: Path) -> None:
    model = weak_middle()
    plan = plan_of(model, tmp_path)
    settings = BudgetSettings(points=drop(model, plan) / 2)
    held = hold_budget(model, plan, images(4), settings, style=TRT)
    assert held.within
    assert floats(held.plan) == ["c"], "the convolution that reads the tensor eight bits cannot hold"
    assert "noise" in next(entry.why for entry in held.plan.ops if entry.op == "c")
    assert held.drop == pytest.approx(drop(model, held.plan))
    assert held.tried[0].drop == pytest.approx(drop(model, plan))


def test_a_plan_within_the_budget_is_left_alone(tmp_path: Path) -> None:
    plan = plan_of(residual(), tmp_path)
    held = hold_budget(residual(), plan, images(4), BudgetSettings(points=100), style=TRT)
    assert held.plan is plan
    assert held.within
    assert len(held.tried) == 1


def test_masks_take_more_back_to_float_than_the_estimate_alone(tmp_path: Path) -> None:
    """The estimate is content with everything in int8; the masks, which see that one output differs, are not."""
    model = weak_middle()
    plan = plan_of(model, tmp_path)
    exact = run_images(model, images(2))

    def truth(network: Runner) -> MeasuredDrop:
        worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(network(images(2)), exact, strict=True))
        return MeasuredDrop(drop=0.0, low=-1.0, high=90.0 if worst > 0.05 else 0.1, images=2)

    loose = hold_budget(model, plan, images(4), BudgetSettings(points=60.0), style=TRT)
    held = hold_budget(model, plan, images(4), BudgetSettings(points=60.0, truth=truth), style=TRT)
    assert loose.plan is plan, "the estimate alone takes it"
    assert floats(held.plan) == ["c"]
    assert held.within
    assert held.measured is not None
    assert held.measured.high == 0.1
    assert held.tried[0].drop == 90.0


def test_a_budget_that_cannot_be_kept_is_said_so(tmp_path: Path) -> None:
    model = weak_middle()
    plan = plan_of(model, tmp_path)
    held = hold_budget(model, plan, images(4), BudgetSettings(points=0.0), style=TRT)
    assert held.within is (held.drop <= 0.0)
    assert held.drop == min(one.drop for one in held.tried)
    assert len(floats(held.plan)) < 3, "something stays in int8"
    measured = hold_budget(model, plan, images(4), BudgetSettings(points=0.0, search=False), style=TRT)
    assert measured.plan is plan
    assert not measured.within


def test_no_time_for_single_operators_still_gives_a_plan(tmp_path: Path) -> None:
    model = weak_middle()
    plan = plan_of(model, tmp_path)
    ticks = iter(range(1000))
    held = hold_budget(
        model, plan, images(4), BudgetSettings(points=0.0, deadline=0.5), style=TRT, clock=lambda: float(next(ticks))
    )
    assert held.drop <= held.tried[0].drop


@pytest.mark.parametrize("moment", ["trying operators one by one: 2", "looking for the fewest float operators: 1"])
def test_an_interrupted_search_measures_only_what_is_left(tmp_path: Path, moment: str) -> None:
    """As Ctrl-C does it, with the journal's last line cut short; masks are asked once for each mixture that asks for them."""
    model = weak_middle()
    plan = plan_of(model, tmp_path)
    exact = run_images(model, images(2))
    asked: list[float] = []

    def truth(network: Runner) -> MeasuredDrop:
        worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(network(images(2)), exact, strict=True))
        asked.append(worst)
        return MeasuredDrop(drop=0.0, low=-1.0, high=90.0 if worst > 0.05 else 0.1, images=2)

    def held(name: str, progress: Callable[[str], None] = lambda _: None) -> tuple[Budgeted, set[bytes]]:
        path = tmp_path / f"{name}.jsonl"
        settings = BudgetSettings(points=60.0, truth=truth, journal=SearchJournal(path))
        found = hold_budget(model, plan, images(4), settings, style=TRT, progress=progress)
        lines = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        assert len(lines) == len(set(lines)), "measured twice"
        return found, set(lines)

    def interrupt(said: str) -> None:
        if said.startswith(moment):
            raise KeyboardInterrupt

    whole, lines = held("whole")
    once = len(asked)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        held("resumed", interrupt)
    written = (tmp_path / "resumed.jsonl").read_bytes()
    (tmp_path / "resumed.jsonl").write_bytes(written[:-9])
    resumed, again = held("resumed")
    assert resumed == whole
    assert again == lines
    assert len(asked) == once


def test_an_addition_loses_its_pair_with_its_convolution(tmp_path: Path) -> None:
    plan = plan_of(residual(), tmp_path)
    assert plan.domain_of("s") is Domain.INT8
    changed = with_float(residual(), plan, {"c": "tried"}, style=TRT)
    assert changed.domain_of("s") is Domain.FLOAT
    assert changed.domain_of("a") is Domain.INT8
    onnx.checker.check_model(insert_qdq(residual(), changed, style=TRT), full_check=True)


@pytest.mark.parametrize("style", list(QdqStyle))
def test_any_operators_can_return_to_float(style: QdqStyle, tmp_path: Path) -> None:
    model = residual()
    plan = plan_of(model, tmp_path, style)
    wanted = run_images(model, images(2))
    for ops in (["a"], ["c"], ["u"], ["y"], ["a", "u"], ["c", "y"], ["a", "c", "u"]):
        changed = with_float(model, plan, dict.fromkeys(ops, "tried"), style=style)
        got = run_images(insert_qdq(model, changed, style=style), images(2))
        assert all(np.isfinite(one).all() and one.shape == other.shape for one, other in zip(got, wanted, strict=True))
        assert changed.tensors.keys() <= plan.tensors.keys()
