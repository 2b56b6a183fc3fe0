"""Calibration images with masks: what INT8 loses is measured against the truth, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import edgeseg
from workshop import IMAGES, Workshop


def test_the_loss_on_masks_is_the_one_that_eval_finds(workshop: Workshop, tmp_path: Path) -> None:
    """The workshop evaluates on the photos it calibrates with."""
    done = edgeseg(
        *(
            "compile",
            workshop.model("tiny.onnx"),
            "-t",
            "tflite-int8",
            "--effort",
            "quick",
            "--budget",
            "5",
            "-o",
            tmp_path / "out",
        ),
        *("--masks", workshop.folder / "labels"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    chosen = json.loads((tmp_path / "out" / "search.json").read_text())["chosen"]
    evaluated = edgeseg("eval", tmp_path / "out", "--json", cwd=tmp_path)
    assert evaluated.code == 0, evaluated.err
    assert chosen["masks"][0] == pytest.approx(json.loads(evaluated.out)["drop"], abs=1e-3)
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"][-1]["notes"]
    assert any(f"on the masks of {IMAGES} calibration images" in note for note in notes)


def test_onnx_int8_is_held_to_the_masks_too(workshop: Workshop, tmp_path: Path) -> None:
    done = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "onnx-int8", "--budget", "5", "-o", tmp_path / "out", "--json"),
        *("--masks", workshop.folder / "labels"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    notes = json.loads(done.out)["manifest"]["stages"][-1]["notes"]
    (said,) = (note for note in notes if f"on the masks of {IMAGES} calibration images" in note)
    drop = json.loads(edgeseg("eval", tmp_path / "out", "--json", cwd=tmp_path).out)["drop"]
    assert float(said.split()[1]) == pytest.approx(drop, abs=0.006)


@pytest.mark.parametrize(("masks", "said"), [("nowhere", "There is no folder or file"), ("photos", "has no palette")])
def test_masks_that_are_none_are_refused(workshop: Workshop, tmp_path: Path, masks: str, said: str) -> None:
    done = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-int8", "--effort", "quick", "-o", tmp_path / "out"),
        *("--masks", workshop.folder / masks),
        cwd=tmp_path,
    )
    assert done.code == 1, done.out
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
