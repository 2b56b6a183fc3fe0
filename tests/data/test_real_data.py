"""The real images of EDGESEG_DATA: all of them load, and their masks say what they should."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.calibration import open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.spec import (
    CalibrationSpec,
    ClassesSpec,
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
    classes=ClassesSpec(
        names=("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "Sign", "Fence", "Car", "Pedestrian", "Bicyclist"),
        ignore_index=11,
    ),
    preprocess=PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=Resize.PAD),
    calibration=CalibrationSpec(images="camvid/train/images"),
    evaluation=EvaluationSpec(images="camvid/val/images", masks="camvid/val/masks"),
)
DRIVE = ModelSpec(
    input=InputSpec(shape=(1, 3, 512, 512)),
    classes=ClassesSpec(names=("background", "vessel"), mask_values=(0, 255), ignore_index=None),
    preprocess=PreprocessSpec(resize=Resize.STRETCH, crop_to_region=True),
    output=OutputSpec(kind=OutputKind.SIGMOID),
    calibration=CalibrationSpec(images="drive/images", regions="drive/fov"),
    evaluation=EvaluationSpec(
        images="drive/images",
        masks="drive/masks",
        regions="drive/fov",
        image_suffix="_training",
        mask_suffix="_manual1",
        region_suffix="_training_mask",
    ),
)
NUCLEI = ModelSpec(
    input=InputSpec(shape=(1, 3, 256, 256)),
    classes=ClassesSpec(names=("background", "nucleus")),
    preprocess=PreprocessSpec(resize=Resize.LETTERBOX),
    calibration=CalibrationSpec(images="nuclei/images"),
    evaluation=EvaluationSpec(images="nuclei/images", masks="nuclei/masks"),
)


@pytest.mark.parametrize(
    ("spec", "calibrates", "judges"), [(CAMVID, 100, 101), (DRIVE, 20, 20), (NUCLEI, 58, 58)], ids=["camvid", "drive", "nuclei"]
)
def test_everything_loads(spec: ModelSpec, calibrates: int, judges: int) -> None:
    drawn = open_calibration(spec, ROOT)
    shape = (1, 3, spec.input.height, spec.input.width)
    assert [x.values.shape for x in drawn] == [shape] * calibrates
    counts = np.zeros(spec.num_classes + 1, int)
    samples = 0
    for loaded in open_evaluation(spec, ROOT).load():
        assert loaded.truth.shape == loaded.prepared.placement.source
        counts += np.bincount(loaded.truth.ravel() + 1, minlength=counts.size)
        samples += 1
    assert samples == judges
    assert (counts[1:] > 0).all()  # every class is there
    if spec is DRIVE:
        assert 0.08 < counts[2] / counts[1:].sum() < 0.16  # vessels take about an eighth of the field of view
