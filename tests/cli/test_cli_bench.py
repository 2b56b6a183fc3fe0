"""``edgeseg bench``: artifacts, foreign files and the model in one run, and runs that were cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shell import edgeseg, refused

from edgeseg.data.embedded import embedded_root

QUICK = ("--budget", "0", "--rounds", "6", "--no-memory")


def test_artifacts_a_foreign_file_and_the_model(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """One run for each number of threads; every figure follows from the raw samples."""
    small, large = embedded("onnx-int8"), embedded("onnx-fp32")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes((large / "model.onnx").read_bytes())
    root = embedded_root()
    spec = root / "edgeseg.toml"
    output = tmp_path / "bench.json"
    subjects = (large, small, foreign, root / "scenes.pt2")
    done = edgeseg("bench", *subjects, "--spec", spec, "--threads", "1,2", *QUICK, "-o", output, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.document()
    assert report == json.loads(output.read_text())
    assert report["image"] == "0000.png"
    assert [run["settings"]["threads"] for run in report["runs"]] == [1, 2]
    run = report["runs"][0]
    names = [one["facts"]["name"] for one in run["candidates"]]
    assert names == ["scenes-onnx-fp32", "scenes-onnx-int8", "foreign.onnx", "scenes.pt2"]
    assert [one["facts"]["info"]["runtime"] for one in run["candidates"]] == ["onnxruntime"] * 3 + ["torch"]
    assert [one["facts"]["file_bytes"] for one in run["candidates"]][1] == (small / "model.onnx").stat().st_size
    base, int8 = (one["samples"]["invoke"] for one in run["candidates"][:2])
    assert len(base) == len(int8) == 6
    assert run["candidates"][1]["invoke"]["median"] == np.median(int8)
    ratio = run["comparisons"][0]["invoke"]["value"]
    assert ratio["estimate"] == pytest.approx(np.median(np.array(int8) / np.array(base)))
    assert ratio["low"] <= ratio["estimate"] <= ratio["high"]
    assert not list(tmp_path.glob("*.jsonl")), "journals are part of the result once it is written"


def test_table_and_end_to_end(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    done = edgeseg("bench", embedded("onnx-fp32"), "--end-to-end", "--budget", "0", "--rounds", "3", cwd=tmp_path)
    assert done.code == 0, done.err
    for column in ("preprocess", "end to end", "peak memory", "base"):
        assert column in " ".join(done.out.split()), column
    assert "few-samples" in done.out
    assert "MB" in done.out


def test_a_run_that_was_cut_off_is_recovered(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """The journal of a run that cannot write its result at the end still holds every round."""
    output = tmp_path / "bench.json"
    output.mkdir()
    failed = edgeseg("bench", embedded("onnx-fp32"), embedded("onnx-int8"), *QUICK, "-o", output, cwd=tmp_path)
    refused(failed, 1, "Cannot write")
    journal = tmp_path / "bench.json.1t.jsonl"
    found = edgeseg("bench", "--recover", journal, "--json", cwd=tmp_path)
    assert found.code == 0, found.err
    (run,) = found.document()["runs"]
    assert run["complete"] is False
    assert all(len(one["samples"]["invoke"]) == 6 for one in run["candidates"])


def test_refusals(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    artifact = embedded("onnx-fp32")
    refused(edgeseg("bench", cwd=tmp_path), 2, "at least one file")
    refused(edgeseg("bench", artifact, artifact, cwd=tmp_path), 2, "each once")
    refused(edgeseg("bench", artifact, "--threads", "two", cwd=tmp_path), 2, "'two'", "1,2")
    refused(edgeseg("bench", artifact, "--threads", "0", cwd=tmp_path), 2, "at least 1")
    refused(edgeseg("bench", tmp_path / "none.onnx", cwd=tmp_path), 1, "none.onnx")
