"""Where the time goes inside one file, by whatever its runtime can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeseg.bench.profile import Placement, Profile
from edgeseg.graph import Format
from edgeseg.inspection import file_format
from edgeseg.session import ModelInput, Session

__all__ = ["placement_of", "profile_of"]


def placement_of(open: Callable[[int], Session], file: Path, x: ModelInput, threads: int) -> Placement | None:
    """What the runtime makes of a .tflite or .onnx file on the CPU; None for anything else.

    Args:
        open: gives the Session that is measured.
        file: the file that it runs.
        x: what it is fed.
    """
    form = file_format(file)
    if form is Format.TFLITE:
        from edgeseg.profiling.tflite import tflite_placement

        return tflite_placement(file, threads)
    if form is Format.ONNX:
        from edgeseg.profiling.onnx import onnx_placement

        with open(threads) as session:
            return onnx_placement(file, session.info, x) if session.info.device == "cpu" else None
    return None


def profile_of(open: Callable[[int], Session], file: Path, x: ModelInput, threads: int) -> Profile | None:
    """Times of operators; None where the runtime gives none (TensorRT: see the engine's own inspector; ONNX Runtime on a GPU)."""
    form = file_format(file)
    with open(threads) as session:
        session.feed(x)
        if session.info.runtime.startswith("torch"):
            from edgeseg.profiling.torch import profile_torch

            return profile_torch(session)
        if session.info.device != "cpu":
            return None
        if form is Format.TFLITE:
            from edgeseg.profiling.tflite import profile_tflite

            return profile_tflite(file, session, threads)
        from edgeseg.profiling.onnx import profile_onnx

        return profile_onnx(file, session, x)
