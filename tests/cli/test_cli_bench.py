"""``edgeseg bench``: artifacts, foreign files and the model in one run, and runs that were cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
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


def _small_net(path: Path) -> None:
    """Six classes of 24x32 pixels."""
    tensor = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    weight = onnx.numpy_helper.from_array(np.ones((6, 3, 1, 1), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "small",
        [tensor(name="x", shape=(1, 3, 24, 32))],
        [tensor(name="y", shape=(1, 6, 24, 32))],
        [weight],
    )
    path.parent.mkdir(parents=True)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_file_of_another_size_is_fed_a_picture_of_its_own(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """Where the picture was not named: the first file's does not fit a spec that resizes nothing."""
    folder = tmp_path / "small"
    _small_net(folder / "small.onnx")
    (folder / "calib").mkdir()
    Image.new("RGB", (32, 24)).save(folder / "calib" / "own.png")
    names = ", ".join(f'"c{index}"' for index in range(6))
    (folder / "edgeseg.toml").write_text(
        f'schema = 1\n[input]\nshape = [1, 3, 24, 32]\n[classes]\nnames = [{names}]\n[calibration]\nimages = "calib"\n'
    )
    subjects = (embedded("onnx-fp32"), folder / "small.onnx")
    done = edgeseg("bench", *subjects, *QUICK, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "small.onnx was fed own.png, a picture of its own" in done.out
    refused(edgeseg("bench", *subjects, "--image", embedded_root() / "val/images/0000.png", *QUICK, cwd=tmp_path), 1, "24x32")


def test_the_spec_of_this_folder_is_not_for_every_file(tmp_path: Path) -> None:
    """A converted file from elsewhere with an input of another size is none of the network that edgeseg.toml here is about."""
    (tmp_path / "edgeseg.toml").write_text((embedded_root() / "edgeseg.toml").read_text())
    _small_net(tmp_path / "elsewhere" / "small.onnx")
    done = edgeseg("bench", "elsewhere/small.onnx", *QUICK, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "small.onnx was fed noise 1x3x24x32: no edgeseg.toml is for it" in done.out
    named = edgeseg("bench", "elsewhere/small.onnx", "--spec", "edgeseg.toml", *QUICK, cwd=tmp_path)
    assert named.code != 0, "a spec that is named must fit"
