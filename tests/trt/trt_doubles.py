"""Where the API tables and the stand-ins are, and how a test gets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VERSIONS = ("8.5.3", "8.6.0", "10.3.0", "10.16.1", "11.4.0")
DOUBLES = Path(__file__).with_name("doubles")
TABLES = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared")) / "tensorrt" / "api"


def table_path(version: str) -> Path:
    path = TABLES / f"{version}.json"
    if not path.is_file():
        pytest.skip(f"there is no API table {path} (set EDGESEG_DATA)")
    return path


def table(version: str) -> dict[str, list[str] | None]:
    return json.loads(table_path(version).read_text())


def fake_environment(version: str, folder: Path, mode: str = "", reported: str = "") -> dict[str, str]:
    """Environment variables under which ``import tensorrt`` gives the stand-in of a version."""
    made = {
        "PYTHONPATH": str(DOUBLES),
        "EDGESEG_FAKE_TRT": str(table_path(version)),
        "EDGESEG_FAKE_TRT_MODE": mode,
        "EDGESEG_FAKE_TRT_CALLS": str(folder / "calls"),
    }
    return made | ({"EDGESEG_FAKE_TRT_VERSION": reported} if reported else {})


def fake_python(version: str, folder: Path, mode: str = "", reported: str = "") -> str:
    """An executable that runs this Python with the stand-in: what EDGESEG_TRT_PYTHON would name."""
    path = folder / "python-with-tensorrt"
    settings = " ".join(f"{key}='{value}'" for key, value in fake_environment(version, folder, mode, reported).items())
    path.write_text(f'#!/bin/sh\nexec env {settings} {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def build_libcuda(folder: Path) -> str:
    """Compile the stand-in for the driver's library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for libcuda with")
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(DOUBLES / "libcuda.c")], check=True)
    return str(library)
