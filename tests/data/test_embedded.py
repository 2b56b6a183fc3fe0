"""The embedded samples: complete, small, drawn by the generator, and segmented well by the embedded model."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from edgeseg.data import scenes
from edgeseg.data.embedded import embedded_root
from edgeseg.spec import ModelSpec
from edgeseg.spec_file import load_spec

ROOT = embedded_root()
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_spec(ROOT / "edgeseg.toml")


def test_spec_describes_the_scenes(spec: ModelSpec) -> None:
    assert spec.input.shape == (1, 3, scenes.HEIGHT, scenes.WIDTH)
    assert spec.classes.names == scenes.CLASSES
    assert spec.classes.palette == scenes.PALETTE
    assert spec.classes.ignore_index == scenes.IGNORE


def test_spec_paths_are_relative_and_hold_24_pictures_each(spec: ModelSpec) -> None:
    assert spec.calibration.images is not None
    assert spec.evaluation.images is not None
    assert spec.evaluation.masks is not None
    for folder in (spec.calibration.images, spec.evaluation.images, spec.evaluation.masks):
        assert not Path(folder).is_absolute()
        assert len(list((ROOT / folder).glob("*.png"))) == 24
    assert spec.calibration.count == 24


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("split", ["calibration", "val"])
def test_pictures_are_those_of_the_generator(split: str) -> None:
    # Another BLAS or numpy may round a few pixels otherwise, hence the tolerance.
    for index in range(24):
        image, mask = scenes.render(scenes.SPLITS[split] + index)
        shipped = _picture(ROOT / split / f"images/{index:04d}.png")
        assert np.abs(shipped.astype(int) - image).mean() < 0.5
        if split == "val":
            assert (_picture(ROOT / f"val/masks/{index:04d}.png") != mask).mean() < 0.005


def test_no_picture_is_in_both_splits() -> None:
    seen = {path.read_bytes() for path in (ROOT / "calibration/images").iterdir()}
    assert seen.isdisjoint(path.read_bytes() for path in (ROOT / "val/images").iterdir())
    assert len(seen) == 24


def test_size_stays_small() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*.png")) < 1_500_000
    assert (ROOT / "scenes.pt2").stat().st_size < 1_000_000


def test_the_wheel_takes_every_file() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in settings["edgeseg.data.embedded"] for path in ROOT.glob(pattern)}
    here = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert packed == here


def test_the_model_file_holds_no_path_of_the_machine_that_made_it() -> None:
    content = (ROOT / "scenes.pt2").read_bytes()
    assert b"site-packages" not in content
    assert b"stack_trace" not in content


def test_the_model_segments_the_val_scenes(spec: ModelSpec) -> None:
    torch = pytest.importorskip("torch", reason="the embedded model needs torch")
    model = torch.export.load(ROOT / "scenes.pt2").module()
    mean, std = np.array(spec.preprocess.mean), np.array(spec.preprocess.std)
    truths, guesses = [], []
    for path in sorted((ROOT / "val/images").iterdir()):
        values = ((_picture(path) / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        with torch.no_grad():
            logits = model(torch.from_numpy(values))
        assert logits.shape == (1, len(scenes.CLASSES), scenes.HEIGHT, scenes.WIDTH)
        truth = _picture(ROOT / "val/masks" / path.name)
        counted = truth != scenes.IGNORE
        truths.append(truth[counted])
        guesses.append(logits.argmax(1)[0].numpy()[counted])
    per_class = jaccard_score(np.concatenate(truths), np.concatenate(guesses), average=None)
    assert per_class.mean() > 0.85
    assert per_class.min() > 0.70
