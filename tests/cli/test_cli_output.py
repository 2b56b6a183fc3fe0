"""Results that cannot be written, and compiles that are cut short: one clear error, and never half an artifact."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shell import COMMAND, Outcome, edgeseg, environment, files_below, refused
from workshop import Workshop


def compiled(workshop: Workshop, folder: Path, output: str | Path, target: str = "onnx-int8") -> Outcome:
    return edgeseg(
        "compile", workshop.model("tiny.onnx"), "-t", target, "--effort", "quick", "--no-cache", "-o", output, cwd=folder
    )


def test_output_below_a_file(workshop: Workshop, tmp_path: Path) -> None:
    """A place where nobody, not even root, can make a folder."""
    (tmp_path / "file").touch()
    refused(
        compiled(workshop, tmp_path, "file/out"),
        1,
        "Could not write 'file/out'",
        "a file is where a folder is needed (file)",
        "--output",
    )
    assert files_below(tmp_path) == ["file"]


def test_output_with_an_impossible_name(workshop: Workshop, tmp_path: Path) -> None:
    refused(compiled(workshop, tmp_path, "x" * 300), 1, "Could not write", "too long")
    assert files_below(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the test above covers unwritable places for root")
def test_output_in_a_read_only_folder(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    refused(compiled(workshop, tmp_path, "locked/out"), 1, "locked", "Permission denied")


def test_folder_that_is_no_artifact_is_not_overwritten(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    refused(compiled(workshop, tmp_path, "thesis"), 1, "'thesis' exists and is not an artifact", "--output")
    assert files_below(tmp_path) == ["thesis/chapter1.txt"]


def test_current_folder_is_not_replaced(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    refused(compiled(workshop, tmp_path / "here", "."), 1, "current folder", "--output")
    assert files_below(tmp_path) == []


def test_older_artifact_is_replaced(workshop: Workshop, tmp_path: Path) -> None:
    assert compiled(workshop, tmp_path, "out", "onnx-fp32").code == 0
    assert compiled(workshop, tmp_path, "out", "onnx-int8").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "something hidden was left behind"
    assert '"onnx-int8"' in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.parametrize("which", ["first", "model", "largest"])
@pytest.mark.parametrize("target", ["onnx-int8", "tflite-int8"])
def test_disk_full(workshop: Workshop, tmp_path: Path, artifact: Callable[[str], Path], target: str, which: str) -> None:
    """Writing fails in the first stage, at the file to ship, or at the largest file of all (the manifest, say).

    A limit on the size of the files that the process may write makes ``write`` fail as a full disk does (EFBIG for ENOSPC).
    """
    good = artifact(target)
    sizes = {path.name: path.stat().st_size for path in good.iterdir()}
    limit = {"first": 1024, "model": sizes[f"model.{target.partition('-')[0]}"] - 1, "largest": max(sizes.values()) - 1}[which]
    keeper = tmp_path / "out"
    keeper.mkdir()

    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", target, "--effort", "quick", "--no-cache", "-o", "out"),
        cwd=tmp_path,
        preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    refused(outcome, 1, "File too large", "space")
    assert files_below(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "a work folder was left behind"


def test_disk_full_leaves_the_older_artifact(workshop: Workshop, tmp_path: Path) -> None:
    assert compiled(workshop, tmp_path, "out", "onnx-fp32").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "onnx-int8", "--no-cache", "-o", "out"),
        cwd=tmp_path,
        preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )
    refused(outcome, 1, "File too large")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_cache_that_cannot_be_written_costs_no_artifact(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "onnx-fp32", "-o", "out"),
        cwd=tmp_path,
        env={"EDGESEG_CACHE": str(tmp_path / "file" / "cache")},
    )
    assert outcome.code == 0, outcome.err
    assert "cache" in outcome.said
    assert "Traceback" not in outcome.err
    assert edgeseg("inspect", "out", cwd=tmp_path).code == 0


def _compile_until_working(workshop: Workshop, folder: Path, model: str) -> subprocess.Popen[str]:
    """A compile that has begun: its work folder exists and its stages run."""
    child = subprocess.Popen(
        [*COMMAND, "compile", str(workshop.model(model)), "-t", "onnx-fp32", "--no-cache", "-v", "-o", "out"],
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert child.stderr is not None
    first = next((line for line in child.stderr if "compile " in line), "")
    assert first, "the compile ended before it began"
    assert any(path.name.startswith(".out.partial-") for path in folder.iterdir())
    return child


def test_killed_midway(workshop: Workshop, tmp_path: Path) -> None:
    child = _compile_until_working(workshop, tmp_path, "tiny.pt2")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    stale = [path.name for path in tmp_path.iterdir()]
    assert len(stale) == 1
    assert stale[0].startswith(".out.partial-")
    refused(edgeseg("eval", stale[0], cwd=tmp_path), 1, "not an artifact")
    # The next compile works, and cleans up.
    assert compiled(workshop, tmp_path, "out", "onnx-fp32").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interrupted(workshop: Workshop, tmp_path: Path) -> None:
    child = _compile_until_working(workshop, tmp_path, "tiny.pt2")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    assert err.rstrip().endswith("edgeseg: stopped.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("instead", ["pass", "raise ImportError('initialization failed')"])
def test_an_interrupt_that_a_library_swallows_is_not_lost(workshop: Workshop, tmp_path: Path, instead: str) -> None:
    """As extensions do that run Python code: they drop what it raises or raise what they like. Here the user's own factory does."""
    (tmp_path / "swallowing.py").write_text(
        "import os, signal, tiny_net\n"
        "def build():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        f"        {instead}\n"
        "    return tiny_net.Net()\n"
    )
    before = {*tmp_path.iterdir()}
    done = edgeseg(
        *("compile", workshop.model("weights.pt"), "--factory", "swallowing:build", "-t", "onnx-fp32", "-o", "out"),
        cwd=tmp_path,
        env={"PYTHONPATH": f"{workshop.folder}{os.pathsep}{tmp_path}"},
    )
    assert done.code == 130
    assert done.err.rstrip().endswith("edgeseg: stopped.")
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before
