"""Sessions that are also timed by their device's own clock, on a scripted clock: there may be no GPU."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
from scripted import MS, Bench, ScriptedSession

from edgeseg.bench import BenchResult, BenchSettings, Candidate, measure, recover


class DeviceSession(ScriptedSession):
    """Its device takes 3 ms less than its host."""

    device_clock = "scripted"

    def device_times(self, runs: int) -> tuple[float, ...]:
        found = []
        for _ in range(runs):
            duration = next(self.durations)
            self.clock.now += duration
            found.append((duration - 3 * MS) / MS)
        return tuple(found)


def test_samples_and_ratios_by_the_devices_clock(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def candidate(name: str, ms: int) -> Candidate:
        plain = bench.candidate(name, iter(()))

        def open_session() -> DeviceSession:
            return DeviceSession(name, bench.clock, itertools.repeat(ms * MS), bench.order)

        return Candidate(name=name, open=open_session, x=plain.x)

    settings = BenchSettings(budget_seconds=0.0, min_rounds=5, runs_per_turn=2, warmup_window=2)
    journal = tmp_path / "samples.jsonl"
    candidates = [candidate("a", 13), candidate("b", 8), bench.candidate("cpu", itertools.repeat(20 * MS))]
    result = measure(candidates, settings, instruments=bench.instruments, journal=journal)
    a, _, cpu = result.candidates
    assert a.samples.device == (10 * MS,) * 10
    assert a.device is not None
    assert a.device.median == 10 * MS
    assert a.facts.device_clock == "scripted"
    assert (cpu.device, cpu.samples.device, cpu.facts.device_clock) == (None, (), "")
    against_b, against_cpu = result.comparisons
    assert against_b.device is not None
    assert against_b.device.value.estimate == 0.5
    assert against_b.invoke.value.estimate == pytest.approx(8 / 13)
    assert against_cpu.device is None
    assert result.overhead == 0.0
    assert recover(journal).comparisons == result.comparisons
    assert msgspec.json.decode(msgspec.json.encode(result), type=BenchResult) == result
