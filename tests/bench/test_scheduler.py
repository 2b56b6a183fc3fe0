from __future__ import annotations

import gc
import itertools
import os

import msgspec
import numpy as np
import pytest
from scripted import MS, Bench

from edgeseg.bench import BenchResult, BenchSettings, Candidate, measure, recover
from edgeseg.bench.journal import Round, read_journal
from edgeseg.bench.load import LoadReading
from edgeseg.bench.noise import Disturbance
from edgeseg.errors import DataError, OutputError, UsageError

FAST = BenchSettings(budget_seconds=0.0, min_rounds=4, warmup_window=2)


def steady(ms: float):
    return itertools.repeat(int(ms * MS))


def test_candidates_are_interleaved_and_every_timed_run_has_its_lead_in(tmp_path):
    bench = Bench(tmp_path)
    candidates = [bench.candidate("a", steady(10)), bench.candidate("b", steady(20))]
    measure(candidates, FAST, instruments=bench.instruments)
    rounds = bench.order[-4 * 4 :]
    assert rounds == ["a", "a", "b", "b"] * 4
    assert bench.order[:-16] == ["a"] * 4 + ["b"] * 4  # warm-up: two windows of two
    assert all(session.closed for session in bench.sessions)


def test_phases_are_timed_apart_and_ratios_follow(tmp_path):
    bench = Bench(tmp_path)
    result = measure([bench.candidate("a", steady(10)), bench.candidate("b", steady(5))], FAST, instruments=bench.instruments)
    a = result.candidate("a")
    assert (a.feed.median, a.invoke.median, a.fetch.median, a.total.median) == (MS, 10 * MS, 2 * MS, 13 * MS)
    assert a.samples.invoke == (10 * MS,) * 4
    assert a.facts.load_seconds == pytest.approx(0.05)
    (comparison,) = result.comparisons
    assert (comparison.base, comparison.candidate) == ("a", "b")
    assert comparison.invoke.value.estimate == 0.5
    assert comparison.invoke.value.low == comparison.invoke.value.high == 0.5
    assert comparison.total.value.estimate == pytest.approx(8 / 13)
    assert result.overhead == 0.0


def test_preprocess_and_postprocess_are_timed_where_given(tmp_path):
    bench = Bench(tmp_path)
    plain = bench.candidate("a", steady(10))

    def preprocess():
        bench.clock.now += 7 * MS
        return plain.x

    def postprocess(_logits):
        bench.clock.now += 3 * MS

    candidate = Candidate(name="a", open=plain.open, x=plain.x, preprocess=preprocess, postprocess=postprocess)
    samples = measure([candidate], FAST, instruments=bench.instruments).candidates[0].samples
    assert samples.preprocess == (7 * MS,) * 4
    assert samples.postprocess == (3 * MS,) * 4
    assert samples.total == (23 * MS,) * 4


def test_warm_up_runs_until_stable_and_is_not_sampled(tmp_path):
    bench = Bench(tmp_path)
    durations = itertools.chain([200 * MS, 60 * MS, 30 * MS, 15 * MS, 11 * MS, 10 * MS], steady(10))
    result = measure([bench.candidate("a", durations)], FAST, instruments=bench.instruments)
    facts = result.candidates[0].facts
    assert facts.warmup_stable
    # Windows of two: the medians (11, 10) and (10, 10) are the first neighbours within 5 %.
    assert len(facts.warmup_ns) == 8
    assert set(result.candidates[0].samples.invoke) == {10 * MS}
    assert Disturbance.SLOW_FIRST_RUN in {finding.kind for finding in result.candidates[0].noise.findings}


def test_a_warm_up_that_never_settles_ends_with_its_time(tmp_path):
    bench = Bench(tmp_path)
    growing = (MS * 2**power for power in itertools.count())
    settings = msgspec.structs.replace(FAST, warmup_seconds=1.0, min_rounds=1, max_rounds=1)
    facts = measure([bench.candidate("a", growing)], settings, instruments=bench.instruments).candidates[0].facts
    assert not facts.warmup_stable
    assert 1e9 <= sum(facts.warmup_ns) < 3e9


@pytest.mark.parametrize(
    ("budget", "minimum", "maximum", "expected"),
    [(1.0, 5, 500, 77), (0.01, 5, 500, 5), (1.0, 5, 30, 30)],
)
def test_rounds_end_with_budget_minimum_and_maximum(tmp_path, budget, minimum, maximum, expected):
    bench = Bench(tmp_path)
    settings = msgspec.structs.replace(FAST, budget_seconds=budget, min_rounds=minimum, max_rounds=maximum)
    seen = []
    result = measure(
        [bench.candidate("a", steady(10))],
        settings,
        instruments=bench.instruments,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.candidates[0].samples.rounds == expected  # one round takes 13 ms
    assert [done for done, _ in seen] == list(range(1, expected + 1))
    assert all(total == expected for _, total in seen)


def test_a_crash_loses_no_round_that_was_finished(tmp_path):
    bench, path = Bench(tmp_path), tmp_path / "samples.jsonl"

    def breaks():
        yield from itertools.repeat(20 * MS, 4 + 2 * 6)
        raise RuntimeError("the runtime died")

    with pytest.raises(RuntimeError):
        measure(
            [bench.candidate("a", steady(10)), bench.candidate("b", breaks())],
            msgspec.structs.replace(FAST, min_rounds=50),
            journal=path,
            instruments=bench.instruments,
        )
    result = recover(path)
    assert not result.complete
    assert [entry.samples.rounds for entry in result.candidates] == [6, 6]
    assert result.comparisons[0].invoke.value.estimate == 2.0


def test_the_journal_of_a_complete_run_gives_the_same_figures(tmp_path):
    bench, path = Bench(tmp_path), tmp_path / "samples.jsonl"
    rng = np.random.default_rng(0)
    noisy = (int(value) for value in rng.normal(10 * MS, MS, 1000))
    result = measure(
        [bench.candidate("a", noisy), bench.candidate("b", steady(5))], FAST, journal=path, instruments=bench.instruments
    )
    again = recover(path)
    assert [entry.samples for entry in again.candidates] == [entry.samples for entry in result.candidates]
    assert again.comparisons == result.comparisons
    # Power was lost in the middle of a line.
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_journal(path).rounds) == 3


def test_what_is_not_a_journal_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_text("hello\n")
    with pytest.raises(DataError, match="not a journal"):
        recover(path)
    path.write_bytes(msgspec.json.encode(Round(turns=())) + b"\n")
    with pytest.raises(DataError, match="header"):
        recover(path)
    bench = Bench(tmp_path)
    with pytest.raises(OutputError, match="Cannot write"):
        measure([bench.candidate("a", steady(1))], FAST, journal=tmp_path / "no" / "x", instruments=bench.instruments)


def test_a_result_survives_json(tmp_path):
    bench = Bench(tmp_path)
    result = measure([bench.candidate("a", steady(10)), bench.candidate("b", steady(5))], FAST, instruments=bench.instruments)
    assert msgspec.json.decode(msgspec.json.encode(result), type=BenchResult) == result


def test_load_of_other_processes_is_found(tmp_path):
    readings = iter([LoadReading(0.0, 0.0, 0.0, 2), LoadReading(10.0, 19.0, 10.0, 2)])
    bench = Bench(tmp_path, load=lambda: next(readings))
    noise = measure([bench.candidate("a", steady(10))], FAST, instruments=bench.instruments).candidates[0].noise
    assert not noise.quiet
    load = next(finding for finding in noise.findings if finding.kind is Disturbance.OTHER_LOAD)
    assert "0.9 of 2 cores" in load.what


def test_names_must_differ_and_settings_make_sense(tmp_path):
    bench = Bench(tmp_path)
    with pytest.raises(UsageError, match="differ"):
        measure([bench.candidate("a", steady(1)), bench.candidate("a", steady(1))], FAST)
    with pytest.raises(UsageError, match="max_rounds"):
        BenchSettings(min_rounds=10, max_rounds=5)


def test_process_is_pinned_while_measuring_and_released_after(tmp_path):
    bench = Bench(tmp_path)
    before = os.sched_getaffinity(0)
    cpu = max(before)
    seen = []
    plain = bench.candidate("a", steady(1))

    def open_session():
        seen.append((os.sched_getaffinity(0), gc.isenabled()))
        return plain.open()

    candidate = Candidate(name="a", open=open_session, x=plain.x)
    result = measure([candidate], msgspec.structs.replace(FAST, cpus=(cpu,)), instruments=bench.instruments)
    assert seen[0][0] == {cpu}
    assert result.cpus == (cpu,)
    assert os.sched_getaffinity(0) == before
    assert gc.isenabled()
    with pytest.raises(UsageError, match="not available"):
        measure([candidate], msgspec.structs.replace(FAST, cpus=(4096,)), instruments=bench.instruments)
