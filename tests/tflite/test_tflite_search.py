"""The search, its costs and its estimate of harm, on graphs where the right answer is known; LiteRT is the judge."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.metrics.measured import MeasuredDrop
from edgeseg.quantize.assignment import assign
from edgeseg.quantize.journal import SearchJournal
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan
from edgeseg.quantize.ranges import choose
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.candidates import SearchResult, SearchSettings
from edgeseg.tflite.cost_table import CostTable, OpCost
from edgeseg.tflite.downstream import Downstream, rounded
from edgeseg.tflite.effort import EFFORTS
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Quant, TfGraph
from edgeseg.tflite.harm import HarmMeter
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.preparation import choices_of, fastest_us, links_of, prepare
from edgeseg.tflite.probe import probe
from edgeseg.tflite.runtime import run
from edgeseg.tflite.search import search
from edgeseg.tflite.statistics import activations, collect

_CONV = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1, "padding": 0}


def _images(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (1, 24, 24, 3)).astype(np.float32) for _ in range(count)]


def _conv(build: GraphBuilder, source: str, channels: int, name: str, rng: np.random.Generator, gain: float = 1.0) -> str:
    inputs = build.graph.tensors[source].shape[3]
    weights = rng.normal(0, gain / math.sqrt(9 * inputs), (channels, 3, 3, inputs)).astype(np.float32)
    operands = (source, build.constant(f"{name}/w", weights), build.constant(f"{name}/b", np.zeros(channels, np.float32)))
    return build.op("CONV_2D", operands, (1, 24, 24, channels), name=name, options=_CONV)


def _net(spoilt: bool) -> TfGraph:
    """Five convolutions. Spoilt: one tensor carries a channel 3000 times as large as the others, which int8 cannot hold, and which
    the next convolution takes out again, so that in float nothing is lost."""
    rng = np.random.default_rng(7)
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 24, 24, 3))
    a = build.op("RELU", (_conv(build, x, 16, "first", rng),), (1, 24, 24, 16), name="a")
    b = _conv(build, a, 16, "middle", rng)
    c = _conv(build, b, 16, "late", rng)
    if spoilt:
        for name, axis, factor in (("middle/w", 0, 3000.0), ("late/w", 3, 1 / 3000.0)):
            tensor = build.graph.tensors[name]
            data = np.array(tensor.data)
            data[(slice(None),) * axis + (0,)] *= factor
            build.graph.tensors[name] = type(tensor)(name, tensor.shape, tensor.dtype, data)
    d = build.op("RELU", (c,), (1, 24, 24, 16), name="d")
    build.graph.outputs = (_conv(build, d, 5, "logits", rng, gain=3.0),)
    return build.graph


def _observed(graph: TfGraph) -> dict[str, Observer]:
    observers = {name: Observer(name) for name in activations(graph)}
    collect(graph, _images(6), lambda name, values: observers[name].update(values))
    return observers


def _costs(graph: TfGraph) -> CostTable:
    """int8 is twice as fast everywhere and conversions are cheap: speed alone wants everything in int8."""
    names = activations(graph)
    return CostTable({op.id: OpCost(100.0, 50.0) for op in graph.ops}, dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0))


def _search(graph: TfGraph, budget: float = 0.5) -> SearchResult:
    images = _images(4, seed=1)
    judge = Judge(graph, images, images, threshold=0.0, probability=False)
    settings = SearchSettings(budget=budget, effort=EFFORTS["quick"], boundary=Domain.FLOAT, deadline=time.monotonic() + 120)
    return search(graph, _observed(graph), judge, _costs(graph), images[0], settings)


def test_a_tensor_that_int8_cannot_hold_stays_float_and_the_rest_does_not() -> None:
    graph = _net(spoilt=True)
    result = _search(graph)
    domains = {entry.op: entry.domain for entry in result.best.plan.ops}
    assert result.within
    assert domains["middle"] is Domain.FLOAT
    assert domains["late"] is Domain.FLOAT
    assert Domain.INT8 in {domains["first"], domains["logits"]}
    unseen = _images(3, seed=9)
    exact = np.concatenate([one["logits"] for one in run(graph, unseen)])
    mixed = np.concatenate([one["logits"] for one in run(quantize(graph, result.best.plan), unseen)])
    everything = initial_plan(graph, {n: choose(o) for n, o in _observed(graph).items()}, policy=Policy.FULL)
    spoilt = np.concatenate([one["logits"] for one in run(quantize(graph, everything), unseen)])
    same = exact.argmax(-1) == mixed.argmax(-1)
    assert same.mean() > 0.98
    assert (exact.argmax(-1) == spoilt.argmax(-1)).mean() < 0.9


def test_progress_tells_the_best_so_far() -> None:
    graph, images, said = _net(spoilt=True), _images(4, seed=1), list[str]()
    judge = Judge(graph, images, images, threshold=0.0, probability=False)
    deadline = time.monotonic() + 120
    settings = SearchSettings(0.5, EFFORTS["quick"], Domain.FLOAT, deadline, progress=said.append)
    result = search(graph, _observed(graph), judge, _costs(graph), images[0], settings)
    assert said[0] == "ranges"
    assert said[-1] == "latency"
    told = [line for line in said if "best so far" in line]
    assert told
    shares = [one.predicted_us / (100.0 * len(graph.ops)) for one in result.candidates if settings.holds(one)]
    assert any(f"best so far {share:.2f} of the float time" in told[-1] for share in shares)


def test_everything_is_int8_where_nothing_is_lost_by_it() -> None:
    result = _search(_net(spoilt=False), budget=3.0)
    assert all(entry.domain is Domain.INT8 for entry in result.best.plan.ops)


def test_the_same_measurements_give_the_same_plan() -> None:
    one, two = (_search(_net(spoilt=True)) for _ in range(2))
    assert {c.int8 for c in one.candidates} == {c.int8 for c in two.candidates}
    assert [c.score for c in one.candidates] == [c.score for c in two.candidates]


def test_powers_of_single_sources_add_up() -> None:
    graph = _net(spoilt=False)
    images = _images(3, seed=2)
    judge = Judge(graph, images, images, threshold=0.0, probability=False)
    plan = initial_plan(graph, {n: choose(o) for n, o in _observed(graph).items()}, policy=Policy.FULL)
    meter = HarmMeter(Downstream(graph, images))
    sources = set(plan.tensors) - meter.followers(plan.tensors)
    tensors = [meter.measure(name, [plan.tensors[name]])[0] for name in sources]
    weights = [meter.weights_of(op) for op in graph.ops if meter.has_weights(op)]
    assert len(weights) == 4
    predicted = sum(tensors) + sum(weights)
    measured = judge.score(quantize(graph, plan)).noise
    assert 10 * abs(math.log10(predicted / measured)) < 2.0


def test_running_only_what_lies_behind_a_tensor_gives_what_the_whole_network_gives() -> None:
    """Oracle: LiteRT on the whole graph with QUANTIZE and DEQUANTIZE put behind the tensor."""
    graph = _net(spoilt=False)
    images = _images(2, seed=3)
    plan = initial_plan(graph, {n: choose(o) for n, o in _observed(graph).items()}, policy=Policy.FULL)
    exact = np.concatenate([one["logits"] for one in run(graph, images)]).reshape(-1, 5)
    exact = exact - exact.mean(axis=1, keepdims=True)
    downstream = Downstream(graph, images)
    for name in ("x", "a", "late", "logits"):
        quant = plan.tensors[name]
        changed = graph.copy()
        build = GraphBuilder(changed)
        ops, changed.ops = changed.ops, []

        def held(source: str, build: GraphBuilder = build, name: str = name) -> str:
            form = Quant(plan.tensors[name].scale, plan.tensors[name].zero_point)
            shape = graph.tensors[name].shape
            coarse = build.op("QUANTIZE", (source,), shape, name="coarse", dtype="int8", quant=form)
            return build.op("DEQUANTIZE", (coarse,), shape, name="back")

        new = held(name) if name in graph.inputs else ""
        for op in ops:
            changed.ops.append(op.with_inputs(*(new if new and one == name else one for one in op.inputs)))
            if op.id == name:
                new = held(name)
        changed.outputs = (new,) if name == "logits" else graph.outputs
        found = np.concatenate([one[changed.outputs[0]] for one in run(changed, images)]).reshape(-1, 5)
        found = found - found.mean(axis=1, keepdims=True)
        wanted = float(((found - exact) ** 2).sum() / (exact**2).sum())
        with downstream.tail(name) as tail:
            measured = tail.noise(lambda _, values, q=quant: rounded(values, q))
        assert measured == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("allowed", [0, 2, 5])
def test_masks_have_the_last_word(allowed: int) -> None:
    """Without them everything runs in int8; they say that more than ``allowed`` convolutions of it lose too much, be the middle of
    their interval within the budget or not."""
    graph, images = _net(spoilt=True), _images(4, seed=1)

    def truth(emitted: TfGraph) -> MeasuredDrop:
        count = sum(1 for op in emitted.ops if op.kind == "CONV_2D" and emitted.tensors[str(op.inputs[1])].dtype == "int8")
        return MeasuredDrop(drop=0.4, low=0.3, high=9.0 if count > allowed else 0.5, images=50)

    judge = Judge(graph, images, images, threshold=0.0, probability=False)
    settings = SearchSettings(
        budget=0.5, effort=EFFORTS["quick"], boundary=Domain.FLOAT, deadline=time.monotonic() + 120, truth=truth
    )
    result = search(graph, _observed(graph), judge, _costs(graph), images[0], settings)
    assert result.best.measured is not None
    ints = sum(1 for entry in result.best.plan.ops if entry.kind == "CONV_2D" and entry.domain is Domain.INT8)
    borne_out = [one for one in result.candidates if one.measured is not None and one.measured.high == 0.5]
    assert result.within is bool(borne_out)
    assert ints <= allowed or not borne_out
    assert any("on the masks of 50 calibration images" in note for note in result.notes)


@pytest.mark.parametrize("moment", ["harm of each tensor", "assignment 3"])
def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, moment: str) -> None:
    """As Ctrl-C does it, with the last line of the journal cut short."""
    graph, images = _net(spoilt=True), _images(4, seed=1)
    whole = _search(graph)

    def interrupt(said: str) -> None:
        if said.startswith(moment):
            raise KeyboardInterrupt

    def started(judge: Judge, progress: Callable[[str], None]) -> SearchResult:
        settings = SearchSettings(
            budget=0.5,
            effort=EFFORTS["quick"],
            boundary=Domain.FLOAT,
            deadline=time.monotonic() + 120,
            journal=SearchJournal(tmp_path / "journal.jsonl"),
            progress=progress,
        )
        return search(graph, _observed(graph), judge, _costs(graph), images[0], settings)

    first, second = (Judge(graph, images, images, threshold=0.0, probability=False) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        started(first, interrupt)
    written = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(written[:-9])
    resumed = started(second, lambda _: None)
    assert [one.name for one in resumed.candidates] == [one.name for one in whole.candidates]
    assert resumed.best.plan.tensors == whole.best.plan.tensors
    assert first.runs + second.runs <= len(whole.candidates) + 4
    assert second.runs < len(whole.candidates)


def test_one_small_channel_is_judged() -> None:
    """Its logits need no transposing: a view of the runtime's own memory would keep it from running again."""
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 24, 24, 3))
    build.graph.outputs = (_conv(build, x, 1, "logit", np.random.default_rng(0)),)
    images = _images(3)
    judge = Judge(build.graph, images, images, threshold=0.0, probability=False)
    assert judge.score(build.graph).noise == 0.0
    result = _search(build.graph, budget=3.0)
    assert result.best.int8 == {"logit"}


def test_probe_times_both_domains_and_keeps_them(tmp_path: Path) -> None:
    graph = _net(spoilt=False)
    table = probe(graph, store=tmp_path)
    assert set(table.ops) == {op.id for op in graph.ops}
    assert all(0 < one.float_us < 1e6 and one.int8_us > 0 for one in table.ops.values())
    assert all(value > 0 for value in (*table.quantize_us.values(), *table.dequantize_us.values()))
    assert probe(graph, store=tmp_path) == table
    (kept,) = tmp_path.iterdir()
    kept.unlink()
    assert probe(graph, store=tmp_path).ops.keys() == table.ops.keys()


def test_a_padding_is_not_parted_from_its_convolution() -> None:
    """The delegate runs both as one. The convolution alone is hardly faster in int8; a conversion between the two would make the
    padding run by itself, which costs more than that."""
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 256, 256, 3))
    padded = build.op("PAD", (x, build.ints("p", ((0, 0), (1, 1), (1, 1), (0, 0)))), (1, 258, 258, 3), name="padded")
    weights = build.constant("w", np.ones((1, 3, 3, 3), np.float32))
    operands = (padded, weights, build.constant("b", np.zeros(3, np.float32)))
    options = {**_CONV, "strideW": 2, "strideH": 2, "padding": 1, "depthMultiplier": 1}
    build.graph.outputs = (build.op("DEPTHWISE_CONV_2D", operands, (1, 128, 128, 3), name="y", options=options),)
    table = probe(build.graph)
    assert table.ops["padded"] == OpCost(0.0, 0.0)
    assert table.quantize_us["padded"] > 1.5 * table.quantize_us["x"]
    cheap = replace(table, ops={"padded": OpCost(0.0, 0.0), "y": OpCost(2 * table.quantize_us["x"], 0.1)})
    assert assign(choices_of(cheap), links_of(build.graph, cheap, Domain.FLOAT)) in (frozenset(), {"padded", "y"})


def test_what_has_no_int8_kernel_costs_infinitely_much() -> None:
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 8, 8, 4))
    build.graph.outputs = (build.op("FLOOR", (x,), (1, 8, 8, 4), name="y"),)
    table = probe(build.graph)
    assert math.isfinite(table.ops["y"].float_us)
    assert math.isinf(table.ops["y"].int8_us)


def test_a_rewrite_that_does_not_pay_is_dropped() -> None:
    """Costs in which every operator but a convolution is dear make the transposed convolution's rewrite a loss."""
    rng = np.random.default_rng(0)
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 8, 8, 4))
    operands = (
        build.ints("shape", (1, 16, 16, 2)),
        build.constant("w", rng.normal(size=(2, 2, 2, 4)).astype(np.float32)),
        x,
        build.constant("b", np.zeros(2, np.float32)),
    )
    options = {"strideW": 2, "strideH": 2, "padding": 1}
    build.graph.outputs = (build.op("TRANSPOSE_CONV", operands, (1, 16, 16, 2), name="y", options=options),)

    def table(graph: TfGraph, dear: str) -> CostTable:
        names = [name for name, tensor in graph.tensors.items() if tensor.data is None]
        ops = {op.id: OpCost(100.0 if op.kind == dear else 10.0, math.inf) for op in graph.ops}
        return CostTable(ops, dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0))

    kept, report = prepare(build.graph, lambda g: table(g, "DEPTH_TO_SPACE"), boundary=Domain.FLOAT, int8=False)
    assert "transpose_conv" in report.dropped
    assert [op.kind for op in kept.ops] == ["TRANSPOSE_CONV"]
    kept, report = prepare(build.graph, lambda g: table(g, "TRANSPOSE_CONV"), boundary=Domain.FLOAT, int8=False)
    assert report.places == {"transpose_conv": 1}
    assert fastest_us(table(kept, "TRANSPOSE_CONV"), kept, Domain.FLOAT, int8=False) < 100


def test_a_plan_is_refused_where_the_graph_has_no_such_operator() -> None:
    from edgeseg.errors import StageError

    plan = QuantPlan(target="tflite", tensors={}, ops=(OpPlan(op="nowhere", kind="CONV_2D", domain=Domain.INT8),))
    with pytest.raises(StageError, match="nowhere"):
        quantize(_net(spoilt=False), plan)
