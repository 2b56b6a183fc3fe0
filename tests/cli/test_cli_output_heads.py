"""``--output labels`` and ``small-logits``: what ships decides as the file with all logits does, and every verb reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from shell import edgeseg, refused
from workshop import Workshop

from edgeseg.artifact import load_artifact


def compiled(workshop: Workshop, tmp_path: Path, target: str, head: str) -> Path:
    out = tmp_path / f"{target}-{head}"
    options = ("-t", target, "-o", out, "--output", head, "--effort", "quick")
    done = edgeseg("compile", workshop.model("tiny.pt2"), *options, cwd=tmp_path)
    assert done.code == 0, done.err
    return out


def scores(path: Path) -> dict[str, Any]:
    done = edgeseg("eval", path, "--json", cwd=path.parent)
    assert done.code == 0, done.err
    return cast("dict[str, Any]", done.document())


@pytest.mark.parametrize(
    ("target", "head"),
    [("tflite-fp32", "small-logits"), ("tflite-int8", "labels"), ("onnx-fp32", "labels"), ("onnx-int8", "small-logits")],
)
def test_a_file_with_another_head(
    artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path, target: str, head: str
) -> None:
    path = compiled(workshop, tmp_path, target, head)
    manifest = load_artifact(path).manifest
    (shown,) = manifest.outputs
    assert manifest.head is not None
    assert manifest.head.form == head
    if head == "labels":
        assert shown.dtype == "uint8"
        assert sorted(shown.shape) == [1, 1, 32, 32]
        assert manifest.head.resizes == ()
    else:
        assert sorted(shown.shape) == [1, 3, 16, 16]
        assert [rule.size for rule in manifest.head.resizes] == [(32, 32)]
    assert manifest.stages[-1].name == "head"
    assert any("of the time with all logits" in note for note in manifest.stages[-1].notes)
    whole, changed = scores(artifact(target)), scores(path)
    exact = "fp32" in target
    tolerance = 1e-6 if exact else 0.02  # the search may have chosen another mixture this time
    assert changed["subject"]["scores"]["miou"] == pytest.approx(whole["subject"]["scores"]["miou"], abs=tolerance)
    assert changed["agreement"]["agreement"] >= (0.9999 if exact else 0.9)


def test_a_resize_that_rounded_to_int8_may_leave_the_file(workshop: Workshop, tmp_path: Path) -> None:
    """Done outside it does not round: a few decisions at ties differ, and nothing else may. Of a net that nobody trained many are
    near a tie, whatever the machine."""
    torch.manual_seed(0)
    parts = (torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1))
    net = torch.nn.Sequential(*parts, torch.nn.Upsample(scale_factor=2, mode="bilinear"))
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 32, 32),)), tmp_path / "unsure.pt2")
    options = ("-t", "tflite-int8", "-o", "small", "--output", "small-logits", "--policy", "full", "--io", "int8", "--json")
    spec = workshop.folder / "edgeseg.toml"
    done = edgeseg("compile", tmp_path / "unsure.pt2", "--spec", spec, *options, cwd=tmp_path)
    assert done.code == 0, done.err
    head = load_artifact(tmp_path / "small").manifest.stages[-1]
    assert head.agreement is not None
    assert head.agreement.snr_db > 30
    assert head.agreement.argmax < 1
    assert scores(tmp_path / "small")["agreement"]["agreement"] > 0.9


def test_other_verbs_read_it(workshop: Workshop, tmp_path: Path) -> None:
    path = compiled(workshop, tmp_path, "tflite-fp32", "labels")
    for command in (
        ("bench", path, "--budget", "0.1", "--rounds", "2"),
        ("drift", path),
        ("inspect", path / "model.tflite"),
        ("gate", path, "--rule", "miou:-50pt,size:4MB"),
        ("report", path, "--html", tmp_path / "report.html"),
    ):
        done = edgeseg(*command, cwd=tmp_path)
        assert done.code in ((0, 5) if command[0] == "gate" else (0,)), (command[0], done)
        assert "Traceback" not in done.err


def test_what_cannot_be(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("tiny.pt2")
    refused(
        edgeseg("compile", model, "-t", "tflite-int8", "--output", "labels", "--output", "small-logits", cwd=tmp_path),
        2,
        "labels and small-logits cannot both be",
    )
    refused(
        edgeseg("compile", model, "-t", "tensorrt-int8", "--output", "labels", "--allow-unbuilt", cwd=tmp_path),
        2,
        "tensorrt-int8 gives logits only",
    )
