"""``--time-limit`` holds for every INT8 target, and what it cut short is said; through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import edgeseg
from workshop import Workshop

CUT = {
    "tflite-int8": "time ran out while choosing ranges",
    "onnx-int8": "time ran out while choosing ranges",
    "tensorrt-int8": "time ran out while choosing ranges",
}


@pytest.mark.parametrize("target", CUT)
def test_what_time_ran_out_on_is_told_until_more_is_given(target: str, workshop: Workshop, tmp_path: Path) -> None:
    asked = ("compile", workshop.model("tiny.onnx"), "-t", target, "--allow-unbuilt", "-o", "out")
    if target == "tflite-int8":
        asked = (*asked, "--tune-for", "integer-only")
    cache = {"EDGESEG_CACHE": str(tmp_path / "cache")}
    done = edgeseg(*asked, "--time-limit", "0.001s", cwd=tmp_path, env=cache)
    assert done.code == 0, done.err
    notes = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]
    assert any(CUT[target] in stage["notes"] for stage in notes)
    assert CUT[target] in edgeseg("explain", "out", cwd=tmp_path).out
    assert CUT[target] in str(edgeseg("explain", "out", "--json", cwd=tmp_path).document())
    done = edgeseg(*asked, "--time-limit", "10m", cwd=tmp_path, env=cache)
    assert done.code == 0, done.err
    explained = edgeseg("explain", "out", cwd=tmp_path).out
    assert "time ran out" not in explained
    assert "measurements of an interrupted search" in explained
