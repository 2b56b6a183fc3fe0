"""``edgeseg compile --target tensorrt-*`` as a process, where driver and tensorrt are stand-ins that fail in one way each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_nets import filters, net, vector
from trt_doubles import build_libcuda, fake_python

from edgeseg.artifact import load_artifact
from edgeseg.data.embedded import embedded_root

ROOT = embedded_root()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net with its edgeseg.toml, and the driver's library."""
    made = tmp_path_factory.mktemp("command")
    model = net(
        "c = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(c) y = Conv(r, w2, b2)",
        {"w1": filters(8, 3), "b1": vector(8), "w2": filters(6, 8, 1, seed=1), "b2": vector(6, 1)},
        size=(128, 160),
    )
    onnx.save_model(model, str(made / "net.onnx"))
    text = (ROOT / "edgeseg.toml").read_text(encoding="utf-8")
    for place in ("calibration/images", "val/images", "val/masks"):
        text = text.replace(f'"{place}"', f'"{ROOT / place}"')
    (made / "edgeseg.toml").write_text(text, encoding="utf-8")
    build_libcuda(made)
    return made


def compile_here(folder: Path, python: str, *more: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "LD_LIBRARY_PATH": str(folder),
        "EDGESEG_TRT_PYTHON": python,
        "EDGESEG_CACHE": str(folder / "cache"),
        "COLUMNS": "400",
    }
    words = ("compile", str(folder / "net.onnx"), "-t", "tensorrt-fp32", "-o", str(folder / "artifact"), "--count", "4", *more)
    return subprocess.run(
        [sys.executable, "-m", "edgeseg", *words], capture_output=True, text=True, env={**os.environ, **settings}, check=False
    )


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("refuse", ("NVIDIA's parser refuses model.onnx", "UNSUPPORTED_NODE: non-zero zero points", "check-trt")),
        ("memory", ("memory ran out while the engine was built", "OutOfMemory", "a smaller workspace")),
        ("crash", ("crashed (SIGSEGV)",)),
    ],
)
def test_a_build_that_fails_is_one_error_and_leaves_no_artifact(
    mode: str, words: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    done = compile_here(folder, fake_python("8.6.0", tmp_path, mode))
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())  # wrapped for the terminal
    for word in words:
        assert word in said
    assert "Traceback" not in done.stderr
    assert not (folder / "artifact").exists()
    if "TensorRT's log: " in said:
        assert Path(said.split("TensorRT's log: ")[1].split()[0]).is_file()


@pytest.mark.parametrize(
    ("reported", "why"), [("8.4.1.5", "tensorrt 8.4.1.5 is too old"), (None, "no tensorrt")], ids=["old", "none"]
)
def test_what_is_missing_beside_the_driver_leaves_the_kit(reported: str | None, why: str, folder: Path, tmp_path: Path) -> None:
    python = sys.executable if reported is None else fake_python("8.5.3", tmp_path, reported=reported)
    done = compile_here(folder, python, "--allow-unbuilt")
    assert done.returncode == 0, done.stderr
    assert f"engine not built: {why}" in done.stdout
    assert load_artifact(folder / "artifact").manifest.status == f"engine not built: {why}"
    assert compile_here(folder, python).returncode == 4
    for path in sorted((folder / "artifact").iterdir()):
        path.unlink()
    (folder / "artifact").rmdir()
