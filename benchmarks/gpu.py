"""TensorRT fp32 / fp16 / int8 against PyTorch and ONNX Runtime on one NVIDIA GPU: everything, in one command.

    python benchmarks/gpu.py                                    prepare, build, measure and report on this machine
    python benchmarks/gpu.py --rehearse                         the same without a GPU: nothing is timed, and the report says so
    python benchmarks/gpu.py pack --output gpu.tar.gz [--tensorrt CHUNKS] [--wheels DIR]     for a GPU machine without a network
    python benchmarks/gpu.py run --packed gpu.tar.gz            there: check, unpack, build, measure, report

Where that machine has no copy of this repository, the archive brings one: unpack it by hand and name its folder instead,
``python FOLDER/code/benchmarks/gpu.py run --packed FOLDER``.

The report goes to benchmarks/results/<GPU>/gpu.json, with a Markdown table beside it. ``--suite`` and ``--only`` choose the cases.
An int8 file is only advised where it is faster than the fp16 file built beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "gpu"), str(HERE.parent), str(HERE.parents[1] / "wheels")]

from cases import CALIBRATION_IMAGES, prepare, read_suite  # noqa: E402
from measuring import Plan, prepared_cases, run_case  # noqa: E402
from packing import Packed, pack, unpack  # noqa: E402
from report import NOT_MEASURED, GpuReport, write_report  # noqa: E402

from edgeseg.bench.energy import NvmlMeter  # noqa: E402
from edgeseg.bench.machine import machine_facts  # noqa: E402
from edgeseg.errors import EdgesegError, EnvironmentLack  # noqa: E402
from edgeseg.trt.build import BuildSettings  # noqa: E402
from edgeseg.trt.driver import Environment, look_around  # noqa: E402


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", choices=["all", "pack", "run"], default="all")
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "gpu.toml")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rehearse", action="store_true", help="walk the whole path on a CPU; no time is taken")
    parser.add_argument("--output", type=Path, help="pack: the archive; else the folder for the report")
    parser.add_argument("--packed", type=Path, help="run: the archive, or the folder it was unpacked into")
    parser.add_argument("--tensorrt", type=Path, help="pack: folder of chunks of a packed TensorRT")
    parser.add_argument("--wheels", type=Path, help="pack: folder of Python packages to put on the path there")
    parser.add_argument("--calibration", type=int, default=CALIBRATION_IMAGES, help="calibration images")
    parser.add_argument("--images", type=int, help="evaluation images (default: all)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of ten runs for every candidate")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--workspace", type=int, default=4096, help="MiB")
    parser.add_argument("--timing-cache", type=Path, help="folder that keeps TensorRT's kernel measurements")
    options = parser.parse_args(given)
    if options.verb == "pack" and options.output is None:
        parser.error("pack needs --output ARCHIVE")
    if (options.verb == "run") != (options.packed is not None):
        parser.error("run, and only run, needs --packed ARCHIVE")
    if min(options.rounds, options.calibration, *options.batches) < 1:
        parser.error("rounds, images and batches must be at least 1")
    return options


def environment(options: argparse.Namespace, unpacked: Path | None) -> Environment:
    """This machine's, or that of a rehearsal."""
    if options.rehearse:
        return Environment(None, None, "rehearsal", EnvironmentLack("This is a rehearsal.", hint="Leave out --rehearse."))
    python = unpacked / "trt" / "python" if unpacked else None
    if python is not None and python.is_file():
        os.environ["EDGESEG_TRT_PYTHON"] = str(python)
    found = look_around()
    if found.lack is not None:
        raise found.lack
    return found


def measure(cases: Path, options: argparse.Namespace, around: Environment) -> Path:
    plan = Plan(
        batches=tuple(options.batches),
        rounds=options.rounds,
        images=options.images,
        build=BuildSettings(workspace_mib=options.workspace, timing_cache=options.timing_cache),
    )
    energy = NvmlMeter()
    reports = []
    for work, prepared in prepared_cases(cases):
        say(f"{prepared.case.name}: {'rehearsing' if options.rehearse else 'building and measuring'}")
        reports.append(run_case(work, prepared, around, plan, energy))
    gpu = "rehearsal" if around.driver is None else re.sub(r"[^a-z0-9]+", "-", around.driver.gpus[0].name.lower())
    report = GpuReport(
        label=NOT_MEASURED if options.rehearse else "measured with CUDA events",
        machine=machine_facts(),
        environment=around.text,
        energy=energy.source,
        cases=tuple(reports),
    )
    folder = options.output if options.output is not None and options.verb != "pack" else HERE / "results" / gpu
    return write_report(report, folder / "gpu.json")


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    with tempfile.TemporaryDirectory(prefix="edgeseg-gpu-") as folder:
        cases = Path(folder) / "cases"
        unpacked = None
        if options.verb == "run":
            try:
                unpacked = unpack(options.packed, Path(folder) / "unpacked")
            except Packed as error:
                sys.exit(str(error))
            cases = unpacked / "cases"
        if options.verb == "all" and not options.rehearse:
            environment(options, None)  # a lack is better known before the cases are prepared than after
        if options.verb != "run":
            for case in read_suite(options.suite, options.only):
                prepared = prepare(case, options.suite, cases, images=options.calibration, progress=say)
                if prepared.failed:
                    say(f"  skipped: {prepared.failed}")
        if options.verb == "pack":
            say(f"{options.output} {pack(cases, options.output, tensorrt=options.tensorrt, wheels=options.wheels)}")
            return
        if options.verb == "all" and options.rehearse:
            # A rehearsal takes the way over the archive too.
            archive = Path(folder) / "gpu.tar.gz"
            pack(cases, archive, tensorrt=options.tensorrt, wheels=options.wheels)
            cases = unpack(archive, Path(folder) / "unpacked") / "cases"
        say(str(measure(cases, options, environment(options, unpacked))))


if __name__ == "__main__":
    try:
        main()
    except EdgesegError as error:
        say(f"{error.message} {error.hint}")
        sys.exit(error.exit_code)
