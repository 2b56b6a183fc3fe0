"""Tools that misbehave or are missing: a stand-in for the tool on the child's import path, never for edgeseg itself."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from shell import Outcome, edgeseg, refused
from workshop import Workshop


def stand_ins(folder: Path, **sources: str) -> str:
    """Modules with the given sources; the path to put on PYTHONPATH."""
    for name, source in sources.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(source)
    return str(folder)


def lowered_by(workshop: Workshop, folder: Path, onnx2tf: str, *flags: str) -> Outcome:
    """Compile with a stand-in for onnx2tf."""
    path = stand_ins(folder / "tools", onnx2tf=onnx2tf, tensorflow="", tf_keras="")
    return edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-fp32", "--lowering", "onnx2tf", "-o", "out", *flags),
        cwd=folder,
        env={"PYTHONPATH": path, "EDGESEG_CACHE": str(folder / "cache")},
    )


def kept_log(outcome: Outcome) -> Path:
    """The log that the message names; it must still be there."""
    named = re.search(r"whole log: (\S+)", outcome.said)
    assert named, outcome.said
    path = Path(named[1].rstrip("."))
    assert path.is_file(), f"{path} was removed"
    return path


@pytest.mark.parametrize(
    ("source", "phrase"),
    [
        ("import sys\ndef convert(**_):\n    print('ERROR: no rule for this node')\n    sys.exit(1)", "exit code 1"),
        ("import os, signal\ndef convert(**_):\n    os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os\ndef convert(**_):\n    os._exit(0)", "no result"),
        ("def convert(**_):\n    raise ValueError('axes do not match')", "axes do not match"),
        ("def convert(**_):\n    pass", "wrote 0"),
    ],
    ids=["leaves", "crashes", "vanishes", "raises", "writes nothing"],
)
def test_converter_crash(workshop: Workshop, tmp_path: Path, source: str, phrase: str) -> None:
    outcome = lowered_by(workshop, tmp_path, source)
    refused(outcome, 1, "lower_onnx2tf", phrase)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    kept_log(outcome)


def test_what_the_converter_said_is_shown_and_kept(workshop: Workshop, tmp_path: Path) -> None:
    source = "import sys\ndef convert(**_):\n    print('ERROR: no rule for this node')\n    sys.exit(1)"
    outcome = lowered_by(workshop, tmp_path, source)
    assert "no rule for this node" in outcome.said
    assert "no rule for this node" in kept_log(outcome).read_text()


def test_converter_hang(workshop: Workshop, tmp_path: Path) -> None:
    """It and the process it started are ended at the limit."""
    source = (
        "import subprocess, sys, pathlib\n"
        "def convert(**_):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "    child.wait()\n"
    )
    outcome = lowered_by(workshop, tmp_path, source, "--lowering-limit", "8s")
    refused(outcome, 1, "lower_onnx2tf", "8 s, its time limit", "--lowering-limit")
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "out").exists()


def test_converter_file_that_does_not_load(workshop: Workshop, tmp_path: Path) -> None:
    """It calls the conversion done; LiteRT refuses its file."""
    source = (
        "import pathlib\n"
        "def convert(*, output_folder_path, **_):\n"
        "    folder = pathlib.Path(output_folder_path)\n"
        "    folder.mkdir(exist_ok=True)\n"
        "    (folder / 'graph_float32.tflite').write_bytes(b'\\x18\\0\\0\\0TFL3' + bytes(200))\n"
    )
    refused(lowered_by(workshop, tmp_path, source), 1, "lower_onnx2tf", "reported success")
    assert not (tmp_path / "out").exists()


def test_converter_that_computes_something_else(workshop: Workshop, tmp_path: Path) -> None:
    """A file that loads and runs and is wrong: the check after the stage says no, with exit code 3."""
    done = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "tflite-fp32", "-o", "right", cwd=tmp_path)
    assert done.code == 0, done.err
    right = (tmp_path / "right" / "model.tflite").read_bytes()
    # The last convolution's bias, found by its bytes, which stand in the file as they do in the ONNX file.
    tensors = onnx.load(workshop.model("tiny.onnx")).graph.initializer
    bias = next(onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith("head.bias"))
    assert right.count(bias.tobytes()) == 1
    (tmp_path / "wrong.tflite").write_bytes(right.replace(bias.tobytes(), (bias + np.float32([9, -9, 9])).tobytes()))
    source = (
        "import pathlib, shutil\n"
        "def convert(*, output_folder_path, **_):\n"
        "    pathlib.Path(output_folder_path).mkdir(exist_ok=True)\n"
        f"    shutil.copy({str(tmp_path / 'wrong.tflite')!r}, pathlib.Path(output_folder_path) / 'graph_float32.tflite')\n"
    )
    refused(lowered_by(workshop, tmp_path, source), 3, "Stage 'lower' does not agree", "simplify", "dB", "Nothing was written")
    assert not (tmp_path / "out").exists()


WITHOUT = """\
# Makes modules as absent as if they had never been installed.
import sys

GONE = {names!r}


class _Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in GONE else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [_Without(finder) if hasattr(finder, "find_spec") else finder for finder in sys.meta_path]
"""


def without(folder: Path, *names: str) -> dict[str, str]:
    """Environment of a child in which these modules are not installed."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WITHOUT.format(names=names))
    return {"PYTHONPATH": str(folder), "EDGESEG_CACHE": str(folder / "cache")}


@pytest.mark.parametrize(
    ("module", "model", "target", "install"),
    [
        ("torch", "tiny.pt2", "onnx-fp32", "pip install 'edgeseg[torch]'"),
        ("onnxslim", "tiny.onnx", "onnx-fp32", "pip install 'edgeseg[torch]'"),
        ("ai_edge_litert", "tiny.onnx", "tflite-fp32", "pip install 'edgeseg[tflite]'"),
        ("ai_edge_litert", "tiny.onnx", "tflite-int8", "pip install 'edgeseg[tflite]'"),
    ],
)
def test_missing_extra(workshop: Workshop, tmp_path: Path, module: str, model: str, target: str, install: str) -> None:
    outcome = edgeseg(
        "compile", workshop.model(model), "-t", target, "-o", "out", cwd=tmp_path, env=without(tmp_path / "site", module)
    )
    refused(outcome, 4, f"'{module.replace('_', '-')}'", "not installed", install)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.parametrize("module", ["onnx2tf", "tensorflow", "tf_keras"])
def test_missing_onnx2tf(workshop: Workshop, tmp_path: Path, module: str) -> None:
    stand_ins(tmp_path / "site", **{name: "" for name in ("onnx2tf", "tensorflow", "tf_keras") if name != module})
    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-fp32", "--lowering", "onnx2tf", "-o", "out"),
        cwd=tmp_path,
        env=without(tmp_path / "site", module),
    )
    refused(outcome, 4, f"'{module}'", "pip install 'edgeseg[onnx2tf]'")
    assert not (tmp_path / "out").exists()


def test_doctor_and_targets_name_what_is_missing(tmp_path: Path) -> None:
    env = without(tmp_path / "site", "ai_edge_litert")
    outcome = edgeseg("doctor", "--json", cwd=tmp_path, env=env)
    assert outcome.code == 4
    document = outcome.document()
    assert isinstance(document, list)
    lacking = [entry for entry in document if entry["version"] is None]
    assert [entry["package"] for entry in lacking] == ["ai-edge-litert"]
    assert "edgeseg[tflite]" in lacking[0]["install"]
    targets = edgeseg("targets", "--json", cwd=tmp_path, env=env).document()
    assert isinstance(targets, list)
    assert {entry["target"]: entry["missing"] == [] for entry in targets} == {
        entry["target"]: not entry["target"].startswith("tflite") for entry in targets
    }


def test_onnx_artifacts_need_neither_torch_nor_tensorflow(workshop: Workshop, tmp_path: Path) -> None:
    """Loading an artifact and judging an ONNX file is the core."""
    assert edgeseg("compile", workshop.model("tiny.onnx"), "-t", "onnx-fp32", "-o", "out", cwd=tmp_path).code == 0
    env = without(tmp_path / "site", "torch", "tensorflow", "onnxscript", "onnxslim", "ai_edge_litert", "onnx2tf")
    outcome = edgeseg("eval", "out", "--json", cwd=tmp_path, env=env)
    assert outcome.code == 0, outcome.err
