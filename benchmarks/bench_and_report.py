"""``edgeseg bench`` and ``edgeseg report`` over all trained models and foreign files, into one table with the machine's facts.

    EDGESEG_DATA=... python benchmarks/bench_and_report.py --out benchmarks/results/MACHINE/bench.json [--only NAME] [--resume]

Of every model in the suite the float and INT8 files for TFLite and ONNX Runtime are compiled (or taken from ``--artifacts`` as they
lie there) and measured in turn, in one run with the trained model, 1 and 2 threads. A file's time ratio is to the float file of its
own runtime, its change of mIoU is against the trained model, both with 95 % intervals; the verdict is that of ``miou:-0.5pt``.
Files of other tools are compared with the first of them. A page for each model goes to ``--work``. Results are written after each
model; ``--resume`` leaves out what is there from the same commit. On a machine without a GPU the CUDA rows say so.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from int8 import HERE, Entry, Suite
from PIL import Image

from edgeseg.api import CompileOptions, compile_model
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.bench.result import BenchResult
from edgeseg.bench.statistics import PairedRuns
from edgeseg.data.calibration import load_prepared
from edgeseg.data.sources import find_images
from edgeseg.drifting import DriftOptions
from edgeseg.interval import Interval
from edgeseg.preprocess import decide, restore
from edgeseg.report.page import TargetSection
from edgeseg.report.result import BenchReport
from edgeseg.reporting import ReportOptions, build_page, write_page
from edgeseg.session import infer
from edgeseg.spec import ModelSpec
from edgeseg.spec_file import load_spec
from edgeseg.subject import open_subject

TARGETS = ("tflite-fp32", "tflite-int8", "onnx-fp32", "onnx-int8")
NO_GPU = "not measured on a GPU"


class Foreign(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files of other tools, the float one first; ``images``: what they are judged on, by the first one's decisions."""

    name: str
    files: list[str]
    spec: str
    images: str


class ForeignSuite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    foreign: list[Foreign]


class Time(msgspec.Struct, frozen=True, kw_only=True):
    """``ratio``: to the file named ``base``, both from one run; None for the base itself. ``noise``: what disturbed the samples."""

    threads: int
    median_ms: float
    p99_ms: float
    rounds: int
    base: str | None
    ratio: Interval | None
    noise: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One file. ``miou`` (a fraction) and ``change`` are None for what nothing is judged against: the trained model, the first of
    foreign files."""

    model: str
    file: str
    bytes: int
    load_seconds: float
    peak_memory: int | None
    times: tuple[Time, ...]
    images: int | None
    miou: float | None
    change: Interval | None
    verdict: str | None
    worst_stage: str | None
    cuda: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One model or set of foreign files. ``truth``: what mIoU is against. ``page_bytes``: of the HTML report."""

    model: str
    commit: str | None
    truth: str
    page_bytes: int
    rows: tuple[Row, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    results: tuple[Result, ...]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """What is measured together. ``bases``: for each file the one that its time is compared with, by place; itself: none."""

    name: str
    files: tuple[Path, ...]
    bases: tuple[int, ...]
    reference: Path
    spec: Path
    images: str
    masks: str
    regions: str | None
    truth: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "trained.toml")
    parser.add_argument("--foreign", type=Path, default=HERE / "suites" / "foreign.toml")
    parser.add_argument("--only", default="", help="part of a model's name")
    parser.add_argument("--models", type=Path, help="a folder that holds models which EDGESEG_DATA lacks")
    parser.add_argument("--artifacts", type=Path, help="folder of artifacts <model>-<target> to take as they are")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="artifacts, pages and raw samples")
    parser.add_argument("--out", type=Path, help="JSON file to write; a model's result replaces the one that is there")
    parser.add_argument("--resume", action="store_true", help="leave out models whose result is of this commit")
    parser.add_argument("--limit", type=int, help="evaluation images; all by default")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of measuring times, for each number of threads")
    parser.add_argument("--prefix", default="", help="command that the timing run is started by, for a machine that is shared")
    parser.add_argument("--no-waterfall", action="store_true", help="pages without the stages between model and file")
    asked = parser.parse_args()
    data = Path(os.environ.get("EDGESEG_DATA", HERE.parent.parent / "shared"))
    asked.work.mkdir(parents=True, exist_ok=True)
    machine = machine_facts()
    done = set()
    if asked.resume and asked.out and asked.out.is_file():
        stored = msgspec.json.decode(asked.out.read_bytes(), type=Table)
        done = {result.model for result in stored.results if result.commit == machine.commit}
    models = msgspec.toml.decode(asked.suite.read_bytes(), type=Suite).model
    foreign = msgspec.toml.decode(asked.foreign.read_bytes(), type=ForeignSuite).foreign
    absent = []
    for entry in (*models, *foreign):
        if asked.only.lower() not in entry.name.lower() or entry.name in done:
            continue
        made = compiled(entry, data, asked) if isinstance(entry, Entry) else given(entry, data, asked)
        if made is None:
            absent.append(entry.name)
            print(f"{entry.name}: its file is not in EDGESEG_DATA or --models, left out", flush=True)
            continue
        result = measured(made, machine, asked)
        show(result)
        if asked.out:
            write(asked.out, machine, result, absent)
    if absent:
        sys.exit(f"Not measured: {', '.join(absent)}")


def compiled(entry: Entry, data: Path, asked: argparse.Namespace) -> Case | None:
    """The trained model and its files: compiled, from the cache where nothing has changed, or as they lie in ``--artifacts``."""
    places = [data / entry.file, *([asked.models / Path(entry.file).name] if asked.models else [])]
    model = next((place for place in places if place.is_file()), None)
    if model is None:
        return None
    spec = load_spec(HERE / "specs" / entry.spec)
    regions = str(data / entry.calibration_regions) if entry.calibration_regions else None
    calibration = msgspec.structs.replace(spec.calibration, images=str(data / entry.calibration), regions=regions, count=100)
    spec = msgspec.structs.replace(spec, calibration=calibration)
    files = []
    for target in TARGETS:
        folder = (asked.artifacts or asked.work) / f"{model.stem}-{target}"
        if not (asked.artifacts and folder.is_dir()):
            compile_model(model, target, spec=spec, options=CompileOptions(output=asked.work / folder.name))
            folder = asked.work / folder.name
        files.append(folder)
    return Case(
        entry.name,
        (model, *files),
        (0, 1, 1, 3, 3),
        model,
        HERE / "specs" / entry.spec,
        str(data / entry.images),
        str(data / entry.masks),
        str(data / entry.regions) if entry.regions else None,
        "the data set's masks",
    )


def given(entry: Foreign, data: Path, asked: argparse.Namespace) -> Case | None:
    """Foreign files as they are, and the first one's decisions as masks."""
    files = tuple(data / name for name in entry.files)
    if not all(file.is_file() for file in files):
        return None
    path = HERE / "specs" / entry.spec
    masks = asked.work / f"{files[0].stem}-decisions"
    write_decisions(files[0], load_spec(path), data / entry.images, masks)
    return Case(
        entry.name,
        files,
        (0,) * len(files),
        files[0],
        path,
        str(data / entry.images),
        str(masks),
        None,
        f"the decisions of {files[0].name}",
    )


def write_decisions(file: Path, spec: ModelSpec, images: Path, masks: Path) -> None:
    masks.mkdir(parents=True, exist_ok=True)
    with open_subject(file, spec).open(1) as session:
        for _, path in find_images([str(images)], Path(), what="images"):
            prepared = load_prepared(path, spec, None)
            labels = decide(restore(infer(session, prepared.input), prepared.placement, spec), spec)
            Image.fromarray(labels.astype(np.uint8)).save(masks / f"{path.stem}.png")


def measured(case: Case, machine: MachineFacts, asked: argparse.Namespace) -> Result:
    """``edgeseg bench`` in a process of its own, then the page, with that benchmark on it."""
    image = find_images([case.images], Path(), what="images")[0][1]
    region = find_images([case.regions], Path(), what="regions")[0][1] if case.regions else None
    report = bench(case, image, region, "cpu", asked)
    assert report is not None
    gpu = bench(case, image, region, "cuda", asked)
    judged = [place for place, file in enumerate(case.files) if file != case.reference]
    options = ReportOptions(
        spec=case.spec,
        reference=case.reference,
        drift=DriftOptions(
            images=case.images,
            masks=case.masks,
            regions=case.regions,
            limit=asked.limit,
            threads=2,
            waterfall=not asked.no_waterfall,
        ),
        bench=None,
    )
    page = build_page([case.files[place] for place in judged], options)
    path = asked.work / f"{case.reference.stem}.html"
    write_page(replace(page, bench=report), path)
    sections: list[TargetSection | None] = [None] * len(case.files)
    for place, section in zip(judged, page.targets, strict=True):
        sections[place] = section
    rows = tuple(row(case, place, report, section, gpu) for place, section in enumerate(sections))
    return Result(model=case.name, commit=machine.commit, truth=case.truth, page_bytes=path.stat().st_size, rows=rows)


def bench(case: Case, image: Path, region: Path | None, device: str, asked: argparse.Namespace) -> BenchReport | None:
    """None where this machine has no such device."""
    output = asked.work / f"{case.reference.stem}-{device}.json"
    command = [*shlex.split(asked.prefix), sys.executable, "-m", "edgeseg", "bench", *map(str, case.files), "--device", device]
    command += ["--spec", str(case.spec), "--image", str(image), *(["--region", str(region)] if region else [])]
    command += ["--threads", "1,2", "--budget", str(asked.budget), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if device != "cpu" and done.returncode == 4:
        return None
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")
    return msgspec.json.decode(output.read_bytes(), type=BenchReport)


def row(case: Case, place: int, report: BenchReport, section: TargetSection | None, gpu: BenchReport | None) -> Row:
    facts = report.runs[0].candidates[place].facts
    change = section.drift.drift.miou if section is not None else None
    waterfall = section.drift.waterfall if section is not None else None
    return Row(
        model=case.name,
        file=facts.name,
        bytes=facts.file_bytes or 0,
        load_seconds=facts.load_seconds,
        peak_memory=facts.memory.peak_over_interpreter if facts.memory is not None else None,
        times=tuple(time(run, place, case.bases[place]) for run in report.runs),
        images=section.drift.drift.images if section is not None else None,
        miou=change.candidate if change is not None else None,
        change=change.interval if change is not None else None,
        verdict=section.gate.outcome.value if section is not None else None,
        worst_stage=waterfall.culprit if waterfall is not None else None,
        cuda=NO_GPU if gpu is None else cuda(gpu, facts.name),
    )


def time(run: BenchResult, place: int, base: int) -> Time:
    own, other = run.candidates[place], run.candidates[base]
    pair = PairedRuns(
        other.samples.invoke, own.samples.invoke, own.samples.runs_per_turn, run.settings.resamples, run.settings.seed
    )
    return Time(
        threads=run.settings.threads,
        median_ms=own.invoke.median / 1e6,
        p99_ms=own.invoke.p99 / 1e6,
        rounds=own.samples.rounds,
        base=other.facts.name if base != place else None,
        ratio=pair.ratio().value if base != place else None,
        noise=tuple(finding.kind.value for finding in own.noise.findings),
    )


def cuda(report: BenchReport, name: str) -> str:
    """What a GPU's run says about a file."""
    for entry in report.runs[0].candidates:
        if entry.facts.name.startswith(name):
            return f"{(entry.device or entry.invoke).median / 1e6:.3f} ms"
    return next((one.why for one in report.absent if one.name.startswith(name)), "this file does not run on a GPU")


def show(result: Result) -> None:
    for one in result.rows:
        times = "  ".join(
            f"{found.threads}t {found.median_ms:8.2f} ms"
            + (f" {found.ratio.estimate:.3f} [{found.ratio.low:.3f}, {found.ratio.high:.3f}]" if found.ratio else "")
            for found in one.times
        )
        quality = ""
        if one.miou is not None:
            quality = f"  mIoU {100 * one.miou:.2f}  {one.verdict}"
        if one.change is not None:
            ends = [100 * end for end in (one.change.estimate, one.change.low, one.change.high)]
            quality += "  {:+.2f} [{:+.2f}, {:+.2f}]".format(*ends)
        print(f"{result.model:26s} {one.file:44s} {one.bytes / 1e6:6.2f} MB  {times}{quality}", flush=True)


def write(path: Path, machine: MachineFacts, result: Result, absent: list[str]) -> None:
    kept: tuple[Result, ...] = ()
    if path.is_file():
        stored = msgspec.json.decode(path.read_bytes(), type=Table)
        kept = tuple(one for one in stored.results if one.model != result.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(
        command="python benchmarks/bench_and_report.py", machine=machine, results=(*kept, result), absent=tuple(absent)
    )
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
