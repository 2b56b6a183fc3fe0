"""``edgeseg calib lint`` as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from picture_sets import PictureSet, jpeg, numbered

from edgeseg.data.embedded import embedded_root
from edgeseg.lint import Code, LintReport


def edgeseg(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgeseg", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment)


def test_a_clean_set_is_said_to_be_clean(pictures: PictureSet) -> None:
    done = edgeseg("calib", "lint", cwd=pictures.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "30 calibration images, against 24 evaluation images: 0 error(s), 0 warning(s).\n"


def test_warnings_alone_pass_and_errors_exit_with_3(pictures: PictureSet) -> None:
    pictures.save("again.png", jpeg(pictures.pixels("c11.png"), 40))
    passed = edgeseg("calib", "lint", "edgeseg.toml", cwd=pictures.root)
    assert passed.returncode == 0
    assert "warning near-duplicates:" in passed.stdout
    pictures.change(numbered(3), lambda p: np.full_like(p, 90))
    failed = edgeseg("calib", "lint", "edgeseg.toml", cwd=pictures.root)
    assert failed.returncode == 3
    assert failed.stderr == ""
    assert failed.stdout.index("error constant:") < failed.stdout.index("warning near-duplicates:")
    assert "c03.png" in failed.stdout


def test_json_is_one_document_of_the_report(pictures: PictureSet, tmp_path: Path) -> None:
    pictures.change(numbered(3), lambda p: np.full_like(p, 90))
    done = edgeseg("calib", "lint", pictures.root / "edgeseg.toml", "--json", cwd=tmp_path)
    assert done.returncode == 3
    report = msgspec.convert(json.loads(done.stdout), LintReport)
    assert (report.schema, [one.code for one in report.findings]) == (1, [Code.CONSTANT])


def test_images_on_the_command_line_replace_those_of_the_spec(pictures: PictureSet) -> None:
    overlapping = edgeseg("calib", "lint", "--images", "val", "--json", cwd=pictures.root)
    assert overlapping.returncode == 3
    report = msgspec.json.decode(overlapping.stdout, type=LintReport)
    assert [one.code for one in report.findings] == [Code.IN_EVALUATION]
    assert len(report.findings[0].images) == report.images == 24
    other = edgeseg("calib", "lint", "--images", "val", "--eval-images", "calibration", cwd=pictures.root)
    assert (other.returncode, other.stdout) == (
        0,
        "24 calibration images, against 30 evaluation images: 0 error(s), 0 warning(s).\n",
    )


def test_a_model_brings_the_spec_beside_it(pictures: PictureSet, tmp_path: Path) -> None:
    (pictures.root / "model.pt2").write_bytes(b"never opened")
    done = edgeseg("calib", "lint", pictures.root / "model.pt2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_is_not_there_is_one_clear_error(pictures: PictureSet) -> None:
    done = edgeseg("calib", "lint", "--eval-images", "nowhere", cwd=pictures.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "evaluation images" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def deep(pictures: PictureSet, *arguments: str) -> LintReport:
    shutil.copy(embedded_root() / "scenes.pt2", pictures.root / "scenes.pt2")
    done = edgeseg("calib", "lint", "scenes.pt2", "--deep", "--json", *arguments, cwd=pictures.root)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=LintReport)


def test_deep_finds_both_halves_of_a_sound_set_alike(pictures: PictureSet) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    report = deep(pictures)
    assert report.findings == ()
    assert report.halves is not None
    assert report.halves.images == 30
    assert max(report.halves.drops) < 2.0
    assert report.halves.agreement > 0.98


def test_deep_names_a_set_whose_halves_lead_to_different_files(pictures: PictureSet) -> None:
    """One half has never seen light: its ranges clip what the other half's pictures need."""
    pytest.importorskip("torch", reason="torch is not installed")
    for name in numbered(*range(2, 30)):
        pictures.path(name).unlink()
    pictures.change(numbered(0), lambda p: (p // 6).astype(np.uint8))
    report = deep(pictures)
    assert Code.UNSTABLE_OUTCOME in {one.code for one in report.findings}
    assert report.halves is not None
    low, high = sorted(report.halves.drops)
    assert high > low + 0.5
    assert report.halves.unstable > report.halves.tensors // 2


def test_deep_wants_a_model(pictures: PictureSet) -> None:
    done = edgeseg("calib", "lint", "--deep", cwd=pictures.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--deep" in done.stderr
    assert "Traceback" not in done.stderr
