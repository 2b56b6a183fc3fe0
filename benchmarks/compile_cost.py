"""What a compile costs: seconds and peak memory in all and by stage, the cached repeat, and `edgeseg --help`.

    python benchmarks/compile_cost.py MODEL --spec SPEC --images FOLDER [--count 100] [--effort quick] [--out FILE]

Every figure is of a process of its own (wall seconds; peak resident memory of the largest process).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from edgeseg.artifact import load_artifact
from edgeseg.bench.machine import MachineFacts, machine_facts


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    seconds: float
    peak_mb: float


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    model: str
    target: str
    effort: str
    calibration_images: int
    machine: MachineFacts
    runs: tuple[Cost, ...]
    stages: tuple[Cost, ...]


def run(what: str, command: list[str], environment: dict[str, str]) -> Cost:
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    return Cost(what=what, seconds=time.monotonic() - started, peak_mb=usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--target", default="tflite-int8")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    tool = [sys.executable, "-m", "edgeseg"]
    work = Path(tempfile.mkdtemp(prefix="edgeseg-cost-"))
    try:
        environment = {**os.environ, "EDGESEG_CACHE": str(work / "cache")}
        compile_ = [*tool, "compile", str(asked.model), "--target", asked.target, "--spec", str(asked.spec)]
        compile_ += ["--images", asked.images, "--count", str(asked.count), "--effort", asked.effort, "-o", str(work / "out")]
        runs = [
            run("--help", [*tool, "--help"], environment),
            run("compile, empty cache", compile_, environment),
            run("compile, cached", compile_, environment),
        ]
        stages = load_artifact(work / "out").manifest.stages
    finally:
        shutil.rmtree(work)
    costs = Costs(
        model=asked.model.name,
        target=asked.target,
        effort=asked.effort,
        calibration_images=asked.count,
        machine=machine_facts(),
        runs=tuple(runs),
        stages=tuple(Cost(what=stage.name, seconds=stage.seconds, peak_mb=stage.peak_mb) for stage in stages),
    )
    for one in (*costs.runs, *costs.stages):
        print(f"{one.what:24s} {one.seconds:8.2f} s {one.peak_mb:8.0f} MiB")
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=1) + b"\n")


if __name__ == "__main__":
    main()
