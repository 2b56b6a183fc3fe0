"""Clean calibration and evaluation sets of generated scenes, and ways to spoil them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseg.data.calibration import open_calibration
from edgeseg.data.scenes import CLASSES, HEIGHT, SPLITS, WIDTH, render
from edgeseg.lint import Finding, LintReport, calibration_pictures, lint_calibration, open_judged
from edgeseg.spec import CalibrationSpec, ClassesSpec, EvaluationSpec, InputSpec, ModelSpec, PreprocessSpec, Resize
from edgeseg.spec_file import dump_spec

UInt8 = npt.NDArray[np.uint8]

SPEC = ModelSpec(
    input=InputSpec(shape=(1, 3, HEIGHT, WIDTH)),
    classes=ClassesSpec(names=CLASSES),
    preprocess=PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=Resize.STRETCH),
    calibration=CalibrationSpec(images="calibration"),
    evaluation=EvaluationSpec(images="val", masks="masks"),
)
CALIBRATION, EVALUATION = 30, 24


def build(folder: Path) -> None:
    """Write the clean set: calibration/c00.png.., val/v00.png.., edgeseg.toml."""
    for split, name, count in (("calibration", "calibration", CALIBRATION), ("val", "val", EVALUATION)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(render(SPLITS[split] + index)[0]).save(
                folder / name / f"{name[0]}{index:02d}.png", compress_level=1
            )
    (folder / "edgeseg.toml").write_text(dump_spec(SPEC))


@dataclass(frozen=True)
class PictureSet:
    """A copy of the clean set, free to spoil."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / ("val" if name.startswith("v") else "calibration") / name

    def pixels(self, name: str) -> UInt8:
        return np.asarray(Image.open(self.path(name)).convert("RGB"))

    def save(self, name: str, pixels: UInt8) -> None:
        Image.fromarray(pixels).save(self.path(name))

    def change(self, names: list[str], how: Callable[[UInt8], UInt8]) -> tuple[str, ...]:
        """Replace pictures by what ``how`` makes of them."""
        for name in names:
            self.save(name, how(self.pixels(name)))
        return tuple(names)

    def lint(self, spec: ModelSpec = SPEC, *, seed: int = 0) -> LintReport:
        calibration = open_calibration(spec, self.root, seed=seed)
        return lint_calibration(spec, calibration_pictures(calibration), open_judged(spec, self.root), seed=seed)

    def only_finding(self, spec: ModelSpec = SPEC) -> Finding:
        """The one finding that there must be."""
        findings = self.lint(spec).findings
        assert len(findings) == 1, [(one.code, one.message, one.images) for one in findings]
        return findings[0]


def copied(clean: Path, folder: Path) -> PictureSet:
    shutil.copytree(clean, folder, dirs_exist_ok=True)
    return PictureSet(folder)


def numbered(*indices: int) -> list[str]:
    """Names of calibration pictures."""
    return [f"c{index:02d}.png" for index in indices]


def preprocess(**changes: object) -> ModelSpec:
    """The spec with another preprocessing."""
    return msgspec.structs.replace(SPEC, preprocess=msgspec.structs.replace(SPEC.preprocess, **changes))


def jpeg(pixels: UInt8, quality: int) -> UInt8:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "JPEG", quality=quality)
    return np.asarray(Image.open(memory))


def resized(pixels: UInt8, height: int, width: int) -> UInt8:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
