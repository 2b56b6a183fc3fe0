"""What int8 for TensorRT costs in mIoU on real trained models, in simulation: prints a table and writes it as JSON.

    EDGESEG_DATA=... python benchmarks/trt_simulation.py --out benchmarks/results/MACHINE/trt_simulation.json [--only ESPNet]

Each model is compiled for tensorrt-int8 on calibration images, and its Q/DQ graph is run by ONNX Runtime on the CPU: the same
integers as TensorRT's, other kernels. Reference is PyTorch, on all evaluation images. No engine is built and no time is taken: this
says what quantization does to the predictions and nothing about speed on a GPU.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import msgspec
from int8 import HERE, Entry, Suite

from edgeseg.api import CompileOptions, compile_model, evaluate
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import load_model
from edgeseg.spec_file import load_spec
from edgeseg.trt.opset import HALF_OPSET, WEAK_OPSET

SIMULATION = "simulation on onnxruntime CPU, not measured on a GPU"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """``drop``: points of mIoU lost against PyTorch. ``broken_rules``: of NVIDIA's, in both files."""

    model: str
    images: int
    calibration_images: int
    reference_miou: float
    miou: float
    drop: float
    agreement: float
    mac_share: float
    broken_rules: int
    compile_seconds: float
    notes: tuple[str, ...]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    label: str
    machine: MachineFacts
    rows: tuple[Row, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "trained.toml")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--count", type=int, default=100, help="calibration images")
    parser.add_argument("--limit", type=int, help="evaluation images; all by default")
    parser.add_argument("--work", type=Path, default=Path("build/trt-simulation"))
    parser.add_argument("--out", type=Path, help="JSON file to write; rows are added to what is there")
    asked = parser.parse_args()
    data = Path(os.environ.get("EDGESEG_DATA", HERE.parent.parent / "shared"))
    for entry in msgspec.toml.decode(asked.suite.read_bytes(), type=Suite).model:
        if asked.only.lower() not in entry.name.lower():
            continue
        row = measure(entry, data, asked)
        print(
            f"{row.model:26s} mIoU {row.miou:6.2f} of {row.reference_miou:6.2f}  drop {row.drop:+.2f}  equal {row.agreement:.3%}  "
            f"{row.mac_share:.1%} int8  {row.broken_rules} rules broken  {row.notes[0]}",
            flush=True,
        )
        if asked.out:
            write(asked.out, row)


def measure(entry: Entry, data: Path, asked: argparse.Namespace) -> Row:
    spec = load_spec(HERE / "specs" / entry.spec)
    calibration = msgspec.structs.replace(
        spec.calibration,
        images=str(data / entry.calibration),
        regions=str(data / entry.calibration_regions) if entry.calibration_regions else None,
        count=asked.count,
    )
    spec = msgspec.structs.replace(spec, calibration=calibration)
    started = time.monotonic()
    options = CompileOptions(output=asked.work / f"{Path(entry.file).stem}-tensorrt-int8", use_cache=False)
    artifact = compile_model(data / entry.file, "tensorrt-int8", spec=spec, options=options).artifact
    seconds = time.monotonic() - started
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
    assert artifact.manifest.int8 is not None
    assert artifact.manifest.calibration is not None
    files = (("model.qdq.onnx", WEAK_OPSET), ("model.qdq.fp16.onnx", HALF_OPSET))
    broken = sum(
        finding.refused for name, opset in files for finding in check_trt(load_model(artifact.path / name), max_opset=opset)
    )
    return Row(
        model=entry.name,
        images=result.images,
        calibration_images=artifact.manifest.calibration.images,
        reference_miou=100 * result.reference.scores.miou,
        miou=100 * result.subject.scores.miou,
        drop=result.drop,
        agreement=result.agreement.agreement,
        mac_share=artifact.manifest.int8.mac_share,
        broken_rules=broken,
        compile_seconds=seconds,
        notes=next(stage.notes for stage in artifact.manifest.stages if stage.name == "quantize"),
    )


def write(path: Path, row: Row) -> None:
    kept: tuple[Row, ...] = ()
    if path.is_file():
        kept = tuple(one for one in msgspec.json.decode(path.read_bytes(), type=Table).rows if one.model != row.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(command="python benchmarks/trt_simulation.py", label=SIMULATION, machine=machine_facts(), rows=(*kept, row))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
