from __future__ import annotations

import os
import platform
import re
import socket
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from edgeseg.bench.affinity import choose_cpus
from edgeseg.bench.energy import RaplMeter
from edgeseg.bench.machine import MachineFacts, machine_facts


def test_facts_are_those_of_this_machine():
    facts = machine_facts()
    assert facts.logical_cores == os.cpu_count()
    assert facts.python == platform.python_version()
    assert facts.versions["numpy"] == metadata.version("numpy")
    text = Path("/proc/meminfo").read_text()
    total = int(re.search(r"MemTotal:\s+(\d+)", text)[1]) * 1024
    assert facts.memory_bytes == total
    encoded = msgspec.json.encode(facts)
    assert msgspec.json.decode(encoded, type=MachineFacts) == facts
    assert socket.gethostname().encode() not in encoded


def test_chosen_cpus_are_allowed_and_as_many_as_threads():
    allowed = os.sched_getaffinity(0)
    for threads in (1, 2, 1000):
        chosen = choose_cpus(threads)
        assert set(chosen) <= allowed
        assert len(chosen) == min(threads, len(allowed))


def zone(root: Path, name: str, value: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder / "energy_uj"


def test_energy_counters_are_read_and_wrap_around(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", 900_000)
    zone(tmp_path, "intel-rapl:0:1", 5)
    meter = RaplMeter(tmp_path)
    assert meter.source == "RAPL package-0"
    before = meter.read()
    counter.write_text("950000\n")
    assert meter.joules_between(before, meter.read()) == pytest.approx(0.05)
    counter.write_text("100000\n")
    assert meter.joules_between(before, meter.read()) == pytest.approx(0.2)


def test_a_machine_without_counters_says_so(tmp_path):
    meter = RaplMeter(tmp_path)
    assert not meter.available
    assert meter.read() == ()
    assert "not available" in meter.source
