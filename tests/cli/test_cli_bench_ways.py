"""``edgeseg bench`` on files without edgeseg.toml, in several ways to run PyTorch, with profiles, and cut off for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from shell import COMMAND, edgeseg, environment, refused
from workshop import Workshop

QUICK = ("--budget", "0", "--rounds", "4", "--no-memory")
HAS_GPU = shutil.which("nvidia-smi") is not None


def deciding_onnx(path: Path, size: int | str) -> Path:
    """A network that ends in its decision (int64, no logits), with a batch that is left open and two outputs."""
    kernel = np.random.default_rng(0).normal(0, 0.1, (2, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
            helper.make_node("ArgMax", ["y"], ["decision"], axis=1, keepdims=0),
        ],
        "deciding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 3, size, 24))],
        [
            helper.make_tensor_value_info("decision", TensorProto.INT64, ("batch", size, 24)),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 2, size, 24)),
        ],
        [numpy_helper.from_array(kernel, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_files_without_a_spec_are_fed_noise_and_the_report_says_so(
    artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path
) -> None:
    deciding_onnx(tmp_path / "deciding.onnx", 16)
    shutil.copy(artifact("tflite-fp32") / "model.tflite", tmp_path / "foreign.tflite")
    shutil.copy(workshop.model("tiny.pt2"), tmp_path / "tiny.pt2")
    done = edgeseg("bench", "deciding.onnx", "foreign.tflite", "tiny.pt2", *QUICK, "--profile", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.document()
    assert report["image"] == "noise"
    assert [note.split(" was fed")[0] for note in report["notes"]] == ["deciding.onnx", "foreign.tflite", "tiny.pt2"]
    (run,) = report["runs"]
    first, tflite, torch = run["candidates"]
    assert "1x3x16x24" in first["facts"]["fed"]

    # ONNX Runtime names each node it ran, and where.
    assert {"Conv", "ArgMax"} <= {one["kind"] for one in first["profile"]["operators"]}
    assert set(first["facts"]["placement"]["places"]) == {"CPUExecutionProvider"}
    assert first["facts"]["placement"]["operators"] == len(first["profile"]["operators"])

    # LiteRT: every operator of the file once, and the delegate took all of this one in one piece.
    operators = tflite["profile"]["operators"]
    placement = tflite["facts"]["placement"]
    assert len(operators) == placement["operators"] == placement["places"]["XNNPACK"]
    assert placement["partitions"] == 1
    assert all(one["microseconds"] is not None for one in operators)
    assert "alone" in tflite["profile"]["method"]

    assert any("conv" in one["kind"] for one in torch["profile"]["operators"])
    assert all(one["profile"]["whole_us"] > 0 for one in run["candidates"])


def test_sizes_that_a_file_leaves_open(tmp_path: Path, workshop: Workshop) -> None:
    deciding_onnx(tmp_path / "open.onnx", "height")
    refused(edgeseg("bench", "open.onnx", *QUICK, cwd=tmp_path), 2, "leaves its input's size open", "--shape")
    refused(edgeseg("bench", "open.onnx", *QUICK, "--shape", "1,3,32,25", cwd=tmp_path), 2, "takes (-1, 3, -1, 24)")
    done = edgeseg("bench", "open.onnx", *QUICK, "--shape", "1,3,32,24", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "1x3x32x24" in done.document()["runs"][0]["candidates"][0]["facts"]["fed"]
    shutil.copy(workshop.model("script.pt"), tmp_path / "script.pt")
    refused(edgeseg("bench", "script.pt", *QUICK, cwd=tmp_path), 2, "does not say the size", "--shape")


def test_ways_to_run_pytorch_and_the_one_that_is_impossible(workshop: Workshop, tmp_path: Path) -> None:
    """torch.compile runs a TorchScript file as it is: no row may claim that it was compiled."""
    script = workshop.model("script.pt")
    flags = ("--spec", workshop.spec, *QUICK, "--torch", "eager,bf16,compile")
    done = edgeseg("bench", script, *flags, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.document()
    (run,) = report["runs"]
    assert [one["facts"]["name"] for one in run["candidates"]] == ["script.pt eager", "script.pt bf16"]
    assert [one["facts"]["info"]["runtime"] for one in run["candidates"]] == ["torch", "torch-bf16"]
    assert run["candidates"][1]["facts"]["info"]["inputs"][0]["dtype"] == "bfloat16"
    (absent,) = report["absent"]
    assert absent["name"] == "script.pt compile"
    assert "captured nothing" in absent["why"]
    refused(edgeseg("bench", script, "--spec", workshop.spec, "--torch", "compile", cwd=tmp_path), 1, "captured nothing")
    refused(edgeseg("bench", script, "--torch", "fast", cwd=tmp_path), 2, "'fast'", "eager")
    refused(edgeseg("bench", script, "--torch", "eager,fp16+bf16", cwd=tmp_path), 2, "contradicts itself")
    refused(edgeseg("bench", script, "--torch", "fp16+graph", cwd=tmp_path), 2, "runs on a GPU only")


def test_torch_compile_without_a_compiler_says_what_to_install(workshop: Workshop, tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path), "CXX": "no-such-compiler"}
    flags = ("--spec", workshop.spec, *QUICK, "--torch", "compile")
    refused(edgeseg("bench", workshop.model("tiny.pt2"), *flags, cwd=tmp_path, env=nothing), 4, "C++ compiler", "g++")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiled_row(workshop: Workshop, tmp_path: Path) -> None:
    flags = ("--spec", workshop.spec, *QUICK, "--torch", "eager,compile")
    done = edgeseg("bench", workshop.model("tiny.pt2"), *flags, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert [one["facts"]["info"]["runtime"] for one in done.document()["runs"][0]["candidates"]] == ["torch", "torch-compile"]


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(workshop: Workshop, tmp_path: Path) -> None:
    refused(edgeseg("bench", workshop.model("tiny.pt2"), "--device", "cuda", cwd=tmp_path), 4, "no CUDA driver")
    refused(edgeseg("bench", workshop.model("tiny.pt2"), "--device", "gpu", cwd=tmp_path), 2, "Did you mean 'cpu'?")


def test_a_run_that_is_killed_loses_no_round(tmp_path: Path) -> None:
    deciding_onnx(tmp_path / "model.onnx", 16)
    command = [*COMMAND, "bench", "model.onnx", "--rounds", "10000000", "--no-memory", "-o", "bench.json"]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    journal = tmp_path / "bench.json.1t.jsonl"
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    whole_rounds = journal.read_bytes().count(b"\n") - 1  # the first line is the header
    found = edgeseg("bench", "--recover", journal, "--json", cwd=tmp_path)
    assert found.code == 0, found.err
    (run,) = found.document()["runs"]
    assert not run["complete"]
    assert len(run["candidates"][0]["samples"]["invoke"]) == whole_rounds
