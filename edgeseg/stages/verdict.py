"""The veto: INT8 that is not faster than float is never shipped in silence."""

from __future__ import annotations

__all__ = ["VETO", "speed_notes"]

VETO = "VETO"


def speed_notes(ratio: float, runtime: str) -> tuple[str, ...]:
    """What the manifest says of the measured ``time of INT8 / time of float``, one thread, interleaved on this machine.

    >>> speed_notes(0.5, "onnx")
    ('0.50 of the float time here, one thread',)
    """
    notes = (f"{ratio:.2f} of the float time here, one thread",)
    if ratio < 1.0:
        return notes
    others = f"{runtime}-fp32" if runtime == "onnx" else f"{runtime}-fp16 or {runtime}-fp32"
    return (*notes, f"{VETO}: int8 is not faster than float on this machine's runtime; {others} serves better here")
