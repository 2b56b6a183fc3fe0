"""edgeseg: from a trained PyTorch segmentation model to a checked INT8 file.

The public names below are loaded when first used; importing this package loads no torch, onnx, tensorflow or tensorrt.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeseg.api import CompileOptions, compile_model, evaluate
    from edgeseg.artifact import Artifact, Manifest, load_artifact
    from edgeseg.errors import EdgesegError
    from edgeseg.spec import ModelSpec, Target
    from edgeseg.spec_file import load_spec

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "CompileOptions",
    "EdgesegError",
    "Manifest",
    "ModelSpec",
    "Target",
    "__version__",
    "compile_model",
    "evaluate",
    "load_artifact",
    "load_spec",
]

_HOMES = {
    "Artifact": "edgeseg.artifact",
    "CompileOptions": "edgeseg.api",
    "EdgesegError": "edgeseg.errors",
    "Manifest": "edgeseg.artifact",
    "ModelSpec": "edgeseg.spec",
    "Target": "edgeseg.spec",
    "compile_model": "edgeseg.api",
    "evaluate": "edgeseg.api",
    "load_artifact": "edgeseg.artifact",
    "load_spec": "edgeseg.spec_file",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'edgeseg' has no attribute '{name}'")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
