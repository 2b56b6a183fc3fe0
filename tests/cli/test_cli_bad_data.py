"""Calibration and evaluation data that cannot be used: one clear error each, and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import Outcome, edgeseg, files_below, refused
from workshop import SIZE, Workshop


@pytest.fixture
def desk(workshop: Workshop, tmp_path: Path) -> Workshop:
    """A copy that the test may spoil."""
    folder = tmp_path / "desk"
    folder.mkdir()
    for name in ("edgeseg.toml", "tiny.onnx"):
        shutil.copy(workshop.folder / name, folder)
    for name in ("photos", "labels"):
        shutil.copytree(workshop.folder / name, folder / name)
    return Workshop(folder)


def compiled(desk: Workshop, *flags: str | Path, target: str = "onnx-int8") -> Outcome:
    return edgeseg("compile", desk.model("tiny.onnx"), "-t", target, *flags, cwd=desk.folder)


def judged(desk: Workshop, *flags: str | Path) -> Outcome:
    return edgeseg("eval", desk.model("tiny.onnx"), *flags, cwd=desk.folder)


def nothing_built(desk: Workshop) -> bool:
    return files_below(desk.folder / "build") == []


@pytest.mark.parametrize("target", ["onnx-fp32", "tflite-int8"])
def test_no_calibration_images_given(desk: Workshop, target: str) -> None:
    desk.spec.write_text(desk.spec.read_text().replace('[calibration]\nimages = "photos"\n', ""))
    refused(compiled(desk, target=target), 2, "No calibration images", "[calibration]", "edgeseg.toml")
    assert nothing_built(desk)


def test_empty_folder(desk: Workshop) -> None:
    (desk.folder / "bare").mkdir()
    refused(compiled(desk, "--images", "bare"), 1, "no calibration images in", "bare", "png")
    assert nothing_built(desk)


def test_folder_that_is_not_there(desk: Workshop) -> None:
    refused(compiled(desk, "--images", "phtos"), 1, "phtos", "Check the path")
    assert nothing_built(desk)


def test_corrupt_png_among_the_images(desk: Workshop) -> None:
    """Its header is right and its pixels are cut short, as after a broken download."""
    victim = desk.photos / "3.png"
    victim.write_bytes(victim.read_bytes()[:-300])
    refused(compiled(desk), 1, "3.png")
    assert nothing_built(desk)


def test_text_called_png_among_the_images(desk: Workshop) -> None:
    (desk.photos / "3.png").write_text("<html>404</html>")
    refused(compiled(desk), 1, "3.png", "image")
    assert nothing_built(desk)


def test_image_of_another_size(desk: Workshop) -> None:
    Image.new("RGB", (40, 32)).save(desk.photos / "3.png")
    refused(compiled(desk), 1, "3.png", "32x40", "resize")
    assert nothing_built(desk)


def test_corrupt_png_in_evaluation(desk: Workshop) -> None:
    victim = desk.photos / "3.png"
    victim.write_bytes(victim.read_bytes()[:-300])
    refused(judged(desk), 1, "3.png")


def test_mask_of_another_size(desk: Workshop) -> None:
    Image.fromarray(np.zeros((SIZE, SIZE - 2), np.uint8)).save(desk.labels / "5.png")
    refused(judged(desk), 1, "5.png", "32x30", "32x32")


def test_class_index_out_of_range(desk: Workshop) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[4, 7] = 9
    Image.fromarray(mask).save(desk.labels / "5.png")
    refused(judged(desk), 1, "5.png", "9")


def test_image_without_mask(desk: Workshop) -> None:
    (desk.labels / "5.png").unlink()
    refused(judged(desk), 1, "1 of 8 images", "5.png")


def test_no_evaluation_images_given(desk: Workshop) -> None:
    desk.spec.write_text(desk.spec.read_text().partition("[evaluation]")[0])
    refused(judged(desk), 2, "No evaluation images", "[evaluation]")


def test_unknown_key_in_the_spec(desk: Workshop) -> None:
    desk.spec.write_text(desk.spec.read_text().replace("names =", "nmaes ="))
    line = next(n for n, text in enumerate(desk.spec.read_text().splitlines(), 1) if "nmaes" in text)
    refused(compiled(desk), 2, f"edgeseg.toml:{line}:", "unknown key 'nmaes'", "Did you mean 'names'?")
    assert nothing_built(desk)


def test_impossible_value_in_the_spec(desk: Workshop) -> None:
    desk.spec.write_text(desk.spec.read_text().replace("shape = [1, 3, 32, 32]", "shape = [4, 3, 32, 32]"))
    refused(compiled(desk), 2, "edgeseg.toml:2:", "batch")
    assert nothing_built(desk)
