"""The workshop, and artifacts compiled from it once in a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from shell import edgeseg
from workshop import Workshop, build_workshop

from edgeseg.data.embedded import embedded_root


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Shared and read-only."""
    return build_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def artifact(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``artifact("tflite-int8")``: its folder, compiled from tiny.pt2 when first asked for. Read-only."""
    folder = tmp_path_factory.mktemp("artifacts")

    def compiled(target: str) -> Path:
        path = folder / target
        if not path.exists():
            done = edgeseg("compile", workshop.model("tiny.pt2"), "-t", target, "--effort", "quick", "-o", path, cwd=folder)
            assert done.code == 0, done.err
        return path

    return compiled


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``embedded("onnx-int8")``: the embedded model's artifact, compiled when first asked for. Read-only."""
    folder = tmp_path_factory.mktemp("embedded")

    def compiled(target: str) -> Path:
        path = folder / target
        if not path.exists():
            model = embedded_root() / "scenes.pt2"
            done = edgeseg("compile", model, "-t", target, "--effort", "quick", "-o", path, cwd=folder)
            assert done.code == 0, done.err
        return path

    return compiled
