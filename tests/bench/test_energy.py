"""Energy counters: a powercap folder, and a library that stands for NVML where there is no GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from scripted import MS, Bench

from edgeseg.bench import BenchSettings, Instruments, measure
from edgeseg.bench.energy import NvmlMeter, RaplMeter

# The total grows by 250 mJ with every reading; %d is what the status of a reading is.
NVML = """
static unsigned long long total = 1000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *) 7; return index > 0 ? 6 : 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *mj) {
    *mj = total += 250;
    return handle == (void *) 7 ? %d : 2;
}
"""


def build(folder: Path, status: int) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for NVML")
    source, library = folder / f"nvml{status}.c", folder / f"nvml{status}.so"
    source.write_text(NVML % status)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def test_joules_of_a_gpu_go_with_the_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    instruments = Instruments(
        clock=bench.clock,
        load=bench.instruments.load,
        machine=bench.instruments.machine,
        energy=NvmlMeter(0, build(tmp_path, 0)),
    )
    settings = BenchSettings(budget_seconds=0.0, min_rounds=3, warmup_window=2)
    candidate = bench.candidate("a", iter([MS] * 100))
    energy = measure([candidate], settings, instruments=instruments).candidates[0].energy
    assert energy.joules_per_run == pytest.approx(0.25)
    assert energy.source == "NVML total energy of the GPU"


def test_gpus_that_do_not_tell(tmp_path: Path) -> None:
    assert "there is no NVML" in NvmlMeter(0, "libnvidia-ml-not-here.so.1").source
    assert "does not count its energy (NVML says 3)" in NvmlMeter(0, build(tmp_path, 3)).source
    other = NvmlMeter(1, build(tmp_path, 0))
    assert "does not start" in other.source
    assert not other.available
    assert other.read() == ()


def test_rapl_counters_that_wrap_around_and_those_that_are_not_there(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, value in (("name", "package-0"), ("max_energy_range_uj", "1000000"), ("energy_uj", "900000")):
        (zone / name).write_text(f"{value}\n")
    meter = RaplMeter(tmp_path)
    before = meter.read()
    (zone / "energy_uj").write_text("400000\n")
    assert meter.joules_between(before, meter.read()) == pytest.approx(0.5)
    assert "no RAPL" in RaplMeter(tmp_path / "none").source
