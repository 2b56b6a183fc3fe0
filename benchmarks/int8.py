"""Accuracy and speed of every target on real trained models: prints a table and writes it as JSON.

    EDGESEG_DATA=... python benchmarks/int8.py --suite benchmarks/suites/trained.toml [--only ESPNet] [--targets A,B]
        [--tune-for integer-only]

Each INT8 file is compared with the float file of the same runtime that edgeseg makes from the same model: mIoU against PyTorch on
the evaluation images, time as the ratio of medians of interleaved runs, with 1 and 2 threads.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from edgeseg.api import CompileOptions, compile_model, evaluate
from edgeseg.artifact import Artifact, load_artifact
from edgeseg.bench.interleave import interleaved_medians
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.data.pairs import open_evaluation
from edgeseg.spec import TuneFor
from edgeseg.spec_file import load_spec
from edgeseg.subject import open_subject

HERE = Path(__file__).parent
FLOAT = {"tflite": "tflite-fp32", "onnx": "onnx-fp32"}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    file: str
    spec: str
    calibration: str
    images: str
    masks: str
    regions: str | None = None
    calibration_regions: str | None = None
    calibration_masks: str | None = None


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: list[Entry]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    target: str
    images: int
    calibration_images: int
    reference_miou: float
    miou: float
    drop: float
    reference_dice: float
    dice: float
    agreement: float
    bytes: int
    mac_share: float | None
    compile_seconds: float
    ratio_1_thread: float | None
    ratio_2_threads: float | None
    notes: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    rows: tuple[Row, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "trained.toml")
    parser.add_argument("--only", default="")
    parser.add_argument("--targets", default="tflite-fp32,tflite-int8,onnx-fp32,onnx-int8")
    parser.add_argument("--count", type=int, default=100, help="calibration images")
    parser.add_argument("--with-masks", action="store_true", help="calibration images with their masks; the default is without")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--tune-for", default="here", help="of tflite-int8; its rows are named by it")
    parser.add_argument("--limit", type=int, help="evaluation images; all by default")
    parser.add_argument("--work", type=Path, default=Path("build/int8"))
    parser.add_argument("--out", type=Path, help="JSON file to write; rows are added to what is there")
    parser.add_argument("--latency-only", action="store_true", help="time the INT8 files of an earlier run again")
    asked = parser.parse_args()
    data = Path(os.environ.get("EDGESEG_DATA", HERE.parent.parent / "shared"))
    suite = msgspec.toml.decode(asked.suite.read_bytes(), type=Suite)
    rows: list[Row] = []
    for entry in suite.model:
        if asked.only and asked.only.lower() not in entry.name.lower():
            continue
        rows += timed_again(entry, data, asked) if asked.latency_only else run_entry(entry, data, asked)
        if asked.out:
            write(asked.out, rows)
    show(rows)


def run_entry(entry: Entry, data: Path, asked: argparse.Namespace) -> list[Row]:
    spec = load_spec(HERE / "specs" / entry.spec)
    calibration = msgspec.structs.replace(
        spec.calibration,
        images=str(data / entry.calibration),
        regions=str(data / entry.calibration_regions) if entry.calibration_regions else None,
        masks=str(data / entry.calibration_masks) if entry.calibration_masks and asked.with_masks else None,
        count=asked.count,
    )
    spec = msgspec.structs.replace(spec, calibration=calibration)
    rows, floats = [], {}
    targets = asked.targets.split(",")
    for target in sorted(targets, key=lambda one: "int8" in one):
        started = time.monotonic()
        tune_for = TuneFor(asked.tune_for) if target == "tflite-int8" else TuneFor.HERE
        name = target if tune_for is TuneFor.HERE else f"{target}, {tune_for}"
        output = folder_of(entry, name, asked.work)
        options = CompileOptions(output=output, effort=asked.effort, use_cache=False, tune_for=tune_for)
        artifact = compile_model(data / entry.file, target, spec=spec, options=options).artifact
        seconds = time.monotonic() - started
        runtime = target.split("-")[0]
        if target in FLOAT.values():
            floats[runtime] = artifact
        result = evaluate(
            artifact,
            reference=data / entry.file,
            images=str(data / entry.images),
            masks=str(data / entry.masks),
            regions=str(data / entry.regions) if entry.regions else None,
            limit=asked.limit,
            threads=2,
        )
        assert result.reference is not None
        assert result.drop is not None
        assert result.agreement is not None
        paired = "int8" in target and runtime in floats
        one, two = (ratio(artifact, floats[runtime], entry, data, threads) if paired else None for threads in (1, 2))
        manifest = artifact.manifest
        rows.append(
            Row(
                model=entry.name,
                target=name,
                images=result.images,
                calibration_images=manifest.calibration.images if manifest.calibration else 0,
                reference_miou=100 * result.reference.scores.miou,
                miou=100 * result.subject.scores.miou,
                drop=result.drop,
                reference_dice=100 * result.reference.scores.dice[-1],
                dice=100 * result.subject.scores.dice[-1],
                agreement=result.agreement.agreement,
                bytes=manifest.files[0].bytes,
                mac_share=manifest.int8.mac_share if manifest.int8 else None,
                compile_seconds=seconds,
                ratio_1_thread=one,
                ratio_2_threads=two,
                notes=manifest.stages[-1].notes,
            )
        )
        show(rows[-1:])
    return rows


def timed_again(entry: Entry, data: Path, asked: argparse.Namespace) -> list[Row]:
    """The INT8 rows of an earlier run with new times, each file against the float file beside it."""
    found = []
    for row in msgspec.json.decode(asked.out.read_bytes(), type=Table).rows:
        if row.model != entry.name or "int8" not in row.target:
            continue
        runtime = row.target.split("-")[0]
        candidate, baseline = (load_artifact(folder_of(entry, name, asked.work)) for name in (row.target, FLOAT[runtime]))
        one, two = (ratio(candidate, baseline, entry, data, threads) for threads in (1, 2))
        found.append(msgspec.structs.replace(row, ratio_1_thread=one, ratio_2_threads=two))
        show(found[-1:])
    return found


def folder_of(entry: Entry, name: str, work: Path) -> Path:
    return work / f"{Path(entry.file).stem}-{name.replace(', ', '-')}"


def ratio(candidate: Artifact, baseline: Artifact, entry: Entry, data: Path, threads: int) -> float:
    spec = candidate.manifest.spec
    regions = str(data / entry.regions) if entry.regions else None
    samples = open_evaluation(spec, Path(), images=str(data / entry.images), masks=str(data / entry.masks), regions=regions)
    image = next(iter(samples.load())).prepared.input
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_subject(one.path).open(threads)) for one in (baseline, candidate)]
        before, after = interleaved_medians(sessions, image, rounds=40)
    return after / before


def show(rows: list[Row]) -> None:
    for row in rows:
        times = (
            ""
            if row.ratio_1_thread is None
            else f"  time/float {row.ratio_1_thread:.2f} (1 thread) {row.ratio_2_threads:.2f} (2)"
        )
        print(
            f"{row.model:26s} {row.target:12s} mIoU {row.miou:6.2f} of {row.reference_miou:6.2f}  drop {row.drop:+.2f}  "
            f"dice {row.dice:.2f} of {row.reference_dice:.2f}  equal {row.agreement:.3%}  {row.bytes / 1e6:.2f} MB  "
            f"{row.compile_seconds:.0f} s{times}  {'; '.join(row.notes)}",
            flush=True,
        )


def write(path: Path, rows: list[Row]) -> None:
    """Rows take the places of those of the same model and target; new ones go to the end."""
    known: tuple[Row, ...] = ()
    if path.is_file():
        known = msgspec.json.decode(path.read_bytes(), type=Table).rows
    merged = {(row.model, row.target): row for row in (*known, *rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(command="python benchmarks/int8.py", machine=machine_facts(), rows=tuple(merged.values()))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
