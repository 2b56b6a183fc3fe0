"""What this machine can build and run, found without importing anything heavy."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata, util

import msgspec

from edgeseg.spec import Target

__all__ = ["Requirement", "TargetStatus", "requirements", "target_statuses"]


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """A package that some part of edgeseg needs. ``version`` is None where it is not installed."""

    package: str
    version: str | None
    needed_for: str
    install: str


class TargetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``missing``: packages to install before the target can be built."""

    target: str
    file: str
    missing: tuple[str, ...]
    install: str


# module, distribution, extra, what for
_PACKAGES = (
    ("torch", "torch", "torch", "loading and exporting PyTorch models"),
    ("onnxscript", "onnxscript", "torch", "exporting by torch.export"),
    ("onnxslim", "onnxslim", "torch", "simplifying exported graphs"),
    ("onnx", "onnx", "", "reading and writing ONNX"),
    ("onnxruntime", "onnxruntime", "", "running ONNX files"),
    ("ai_edge_litert", "ai-edge-litert", "tflite", "running and writing TFLite files"),
    ("flatbuffers", "flatbuffers", "tflite", "writing TFLite files"),
    ("scipy", "scipy", "tflite", "choosing which operators run in int8"),
    ("onnx2tf", "onnx2tf", "onnx2tf", "lowering graphs that the direct route does not know"),
    ("tensorflow", "tensorflow", "onnx2tf", "lowering graphs that the direct route does not know"),
)
_COMPILE = ("torch", "onnxscript", "onnxslim", "onnx", "onnxruntime")
_NEEDS = {"tensorrt": _COMPILE, "onnx": _COMPILE, "tflite": (*_COMPILE, "ai_edge_litert", "flatbuffers", "scipy")}
_FILES = {"tensorrt": "model.engine", "onnx": "model.onnx", "tflite": "model.tflite"}


def requirements() -> tuple[Requirement, ...]:
    """Every package beyond the core, with the command that installs it."""
    found = []
    for module, distribution, extra, purpose in _PACKAGES:
        version = _version(module, distribution)
        install = f"pip install 'edgeseg[{extra}]'" if extra else "pip install edgeseg"
        found.append(Requirement(package=distribution, version=version, needed_for=purpose, install=install))
    return tuple(found)


def _version(module: str, distribution: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    # The same module comes in several distributions: onnxruntime in onnxruntime-gpu, tensorflow in tensorflow-cpu.
    names = [distribution, *metadata.packages_distributions().get(module, [])]
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "unknown"


def target_statuses() -> tuple[TargetStatus, ...]:
    """Every target and what it lacks here."""
    statuses = []
    for target in Target:
        missing = tuple(module for module in _NEEDS[target.runtime] if util.find_spec(module) is None)
        extra = "tflite" if target.runtime == "tflite" else "torch"
        statuses.append(
            TargetStatus(
                target=target.value,
                file=_FILES[target.runtime],
                missing=missing,
                install=f"pip install 'edgeseg[{extra}]'" if missing else "",
            )
        )
    return tuple(statuses)


def python_text() -> str:
    """Python and machine in one line."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
