"""A wheel that was installed elsewhere works like the clone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked and new files: setuptools writes its build folder into the source tree."""
    pytest.importorskip("setuptools", minversion="75", reason="building a wheel offline needs setuptools >= 75")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so which files belong to the source is unknown")
    source.mkdir()
    for name in listed.stdout.decode().split("\0"):
        if name:
            _copy(ROOT / name, source / name)
    _python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source), cwd=folder)
    return next(folder.glob("edgeseg-*.whl"))


def _copy(path: Path, target: Path) -> None:
    """Links stay links: edgeseg/calibration is one."""
    if not os.path.lexists(path):
        return  # removed from the working tree, still in the index
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
    else:
        target.write_bytes(path.read_bytes())


def _python(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_travels(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "edgeseg/__main__.py",
        "edgeseg/cli/compile.py",
        "edgeseg/calibration/camvid.toml",
        "edgeseg/calibration/embedded.toml",
        "edgeseg/data/embedded/edgeseg.toml",
        "edgeseg/data/embedded/scenes.pt2",
    ):
        assert needed in names
    for folder, suffix in (("calibration/images", ".png"), ("val/images", ".png"), ("val/masks", ".png")):
        found = [name for name in names if name.startswith(f"edgeseg/data/embedded/{folder}/") and name.endswith(suffix)]
        here = list((ROOT / "edgeseg" / "data" / "embedded" / folder).glob(f"*{suffix}"))
        assert len(found) == len(here) > 0
    # Every module of the source, and nothing that is not part of the package.
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "edgeseg").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "build/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """The demo and the manifests, from a folder that knows nothing of the source."""
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    _python("-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site), str(wheel), cwd=away)
    env = {"PYTHONPATH": str(site), "EDGESEG_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    where = _python("-P", "-c", "import edgeseg; print(edgeseg.__file__, edgeseg.__version__)", cwd=away, env=env).split()
    assert Path(where[0]).is_relative_to(site), "the source tree was imported, not the wheel"
    assert importlib.metadata.Distribution.at(next(site.glob("*.dist-info"))).version == where[1]
    listed = json.loads(_python("-P", "-m", "edgeseg", "data", "list", "--json", cwd=away, env=env))
    assert len(listed) >= len(list((ROOT / "calibration").glob("*.toml")))
    shown = json.loads(_python("-P", "-m", "edgeseg", "demo", "--json", cwd=away, env=env))
    assert shown
    made = {path.relative_to(away).as_posix() for path in away.rglob("*") if path.is_file()}
    assert {Path(name).name for name in made} >= {"model.tflite", "model.onnx", "manifest.json"}
