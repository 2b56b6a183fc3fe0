"""Real, healthy sets give no false findings. What is true of them is found: a car that waits gives near duplicates."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from edgeseg.data.calibration import open_calibration
from edgeseg.lint import Code, LintReport, calibration_pictures, lint_calibration, open_judged
from edgeseg.spec import (
    CalibrationSpec,
    ClassesSpec,
    ColorOrder,
    EvaluationSpec,
    InputSpec,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
    Resize,
)

ROOT = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared")) / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ROOT.is_dir(), reason=f"EDGESEG_DATA is not set and there is no {ROOT}"),
]

CAMVID = ModelSpec(
    input=InputSpec(shape=(1, 3, 384, 480)),
    classes=ClassesSpec(names=("a", "b")),
    preprocess=PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=Resize.PAD),
    calibration=CalibrationSpec(images="camvid/train/images", count=184),
    evaluation=EvaluationSpec(images="camvid/val/images", masks="camvid/val/masks"),
)
DRIVE = ModelSpec(
    input=InputSpec(shape=(1, 3, 512, 512)),
    classes=ClassesSpec(names=("background", "vessel")),
    preprocess=PreprocessSpec(resize=Resize.STRETCH, crop_to_region=True),
    output=OutputSpec(kind=OutputKind.SIGMOID),
    calibration=CalibrationSpec(images="drive/images/2*.tif", regions="drive/fov"),
    evaluation=EvaluationSpec(
        images="drive/images/3*.tif",
        masks="drive/masks",
        regions="drive/fov",
        image_suffix="_training",
        region_suffix="_training_mask",
    ),
)


def lint(spec: ModelSpec, base: Path = ROOT) -> LintReport:
    return lint_calibration(spec, calibration_pictures(open_calibration(spec, base)), open_judged(spec, base))


@pytest.mark.parametrize("color", [ColorOrder.RGB, ColorOrder.BGR])
def test_camvid_train_against_val_has_near_duplicates_only(color: ColorOrder) -> None:
    """Frames are a second or two apart, at traffic lights nothing moves; the drives differ in light (dusk and noon)."""
    preprocess = msgspec.structs.replace(CAMVID.preprocess, color=color)
    report = lint(msgspec.structs.replace(CAMVID, preprocess=preprocess))
    assert [one.code for one in report.findings] == [Code.NEAR_DUPLICATES]
    assert len(report.findings[0].images) < 0.1 * report.images
    # Only frames that follow each other closely in one drive look the same.
    assert all(one[:6] == other[:6] for one, other in report.findings[0].twins)


def test_different_retinas_are_not_near_duplicates() -> None:
    report = lint(DRIVE)
    assert report.findings == ()


def test_camvid_saved_with_red_and_blue_exchanged(tmp_path: Path) -> None:
    for path in sorted((ROOT / "camvid/train/images").glob("*.png"))[::6]:
        red, green, blue = Image.open(path).convert("RGB").split()
        Image.merge("RGB", (blue, green, red)).save(tmp_path / path.name, compress_level=1)
    spec = msgspec.structs.replace(CAMVID, calibration=CalibrationSpec(images=str(tmp_path)))
    assert Code.COLOR_ORDER in {one.code for one in lint(spec).findings}


def test_retinas_are_of_another_kind_than_streets() -> None:
    spec = msgspec.structs.replace(
        CAMVID,
        preprocess=msgspec.structs.replace(CAMVID.preprocess, resize=Resize.STRETCH),
        calibration=CalibrationSpec(images="drive/images"),
    )
    found = {one.code: one for one in lint(spec).findings}
    assert len(found[Code.DIFFERENT_KIND].images) == 20


def test_a_hundred_pictures_take_seconds_and_little_memory() -> None:
    spec = msgspec.structs.replace(CAMVID, calibration=CalibrationSpec(images="camvid/train/images", count=100))
    pictures = calibration_pictures(open_calibration(spec, ROOT))
    began = time.process_time()
    lint_calibration(spec, pictures)
    assert time.process_time() - began < 10
    peaks = []
    for count in (20, 80):
        tracemalloc.start()
        lint_calibration(spec, pictures[:count])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 60 * 50_000
