"""What is measured, and its preparation on a machine without a GPU: quantized and float ONNX files, ready to build."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec

from edgeseg.data.calibration import open_calibration
from edgeseg.errors import EdgesegError
from edgeseg.model import load_model
from edgeseg.spec import CalibrationSpec, ClassesSpec, InputSpec, ModelSpec, PreprocessSpec, Resize
from edgeseg.spec_file import load_spec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_trt import SHIP, half_trt_stage, prepare_trt_stage, quantize_trt_stage
from edgeseg.stages.simplify_onnx import simplify

OPSET = 18
CALIBRATION_IMAGES = 64
RANDOM_IMAGES = 4
"""Ranges of random weights decide nothing but must be there."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``file`` with ``spec``, or ``network`` with ``size`` (height, width). Images, masks and regions: a folder or a glob."""

    name: str
    calibration: str
    file: str = ""
    spec: str = ""
    network: str = ""
    size: tuple[int, int] = (0, 0)
    images: str = ""
    masks: str = ""
    regions: str = ""
    calibration_regions: str = ""

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case: tuple[Case, ...]


class Prepared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``case.json`` in a prepared case's folder. ``failed`` says why there are no files."""

    case: Case
    spec: ModelSpec | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    failed: str = ""

    @property
    def trained(self) -> bool:
        return bool(self.case.file)


def data_root() -> Path:
    return Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[2].parent / "shared")).resolve()


def read_suite(path: Path, only: str = "") -> tuple[Case, ...]:
    cases = msgspec.toml.decode(path.read_bytes(), type=Suite).case
    return tuple(case for case in cases if only.lower() in case.name.lower())


def prepare(case: Case, suite: Path, folder: Path, *, images: int, progress: Callable[[str], None]) -> Prepared:
    """Everything that needs no GPU. A case that cannot be prepared says why, and the others go on."""
    started = time.monotonic()
    work = folder / case.folder
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    progress(f"{case.name}: preparing")
    try:
        spec, notes = _quantized(case, suite, work, images)
        prepared = Prepared(case=case, spec=spec, notes=notes, seconds=round(time.monotonic() - started, 1))
    except (EdgesegError, ModuleNotFoundError) as error:
        prepared = Prepared(case=case, failed=str(error))
    (work / "case.json").write_bytes(msgspec.json.format(msgspec.json.encode(prepared), indent=1))
    return prepared


def _quantized(case: Case, suite: Path, work: Path, images: int) -> tuple[ModelSpec, tuple[str, ...]]:
    root = data_root()
    spec = load_spec(suite.parent / case.spec) if case.file else _random_spec(case)
    source = root / case.file if case.file else _random_network(case, work)
    model = load_model(source)
    shutil.copyfile(source, work / f"model{source.suffix}") if case.file else None
    graph = simplify(export_onnx(model, spec, work / "export.onnx", opset=OPSET).graph, work / "float.onnx").graph
    count = images if case.file else min(images, RANDOM_IMAGES)
    around = str(root / case.calibration_regions) if case.calibration_regions else None
    calibration = open_calibration(spec, root, images=[str(root / case.calibration)], regions=around, count=count)
    int8, floats = work / "int8", work / "float"
    int8.mkdir()
    floats.mkdir()
    notes = quantize_trt_stage(graph, calibration, spec, int8).notes
    half_trt_stage(prepare_trt_stage(graph, floats).graph, calibration, floats)
    for name in ("export.onnx", "float.onnx", "int8/opset17.onnx"):
        (work / name).unlink()
    if case.images:
        _copy(root, work / "val", images=case.images, masks=case.masks, regions=case.regions)
    _copy(root, work / "probe", limit=1, images=case.calibration, regions=case.calibration_regions)
    return spec, notes


def _copy(root: Path, folder: Path, limit: int | None = None, **sources: str) -> None:
    """Copy the files of each source that is told into the folder of its name."""
    for name, source in sources.items():
        if source:
            (folder / name).mkdir(parents=True)
            for path in islice(_files(root, source), limit):
                shutil.copyfile(path, folder / name / path.name)


def _files(root: Path, source: str) -> list[Path]:
    """The files of a folder, or those that a pattern names."""
    found = (root / source).iterdir() if (root / source).is_dir() else root.glob(source)
    return sorted(path for path in found if path.is_file())


def _random_spec(case: Case) -> ModelSpec:
    height, width = case.size
    return ModelSpec(
        input=InputSpec(shape=(1, 3, height, width)),
        classes=ClassesSpec(names=tuple(f"class {n}" for n in range(11))),
        preprocess=PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=Resize.STRETCH),
        calibration=CalibrationSpec(count=CALIBRATION_IMAGES),
    )


def _random_network(case: Case, work: Path) -> Path:
    import torch
    from networks import build

    example = torch.zeros(1, 3, *case.size)
    path = work / "model.pt"
    with torch.inference_mode():
        network = build(case.network).eval()
        traced = (
            network if isinstance(network, torch.jit.ScriptModule) else torch.jit.trace(network, example, check_trace=False)
        )
    torch.jit.save(traced, path)
    return path


def artifacts(work: Path) -> tuple[Path, Path]:
    """Folders of the int8 and the float files of a prepared case."""
    return work / "int8" / SHIP, work / "float" / SHIP
