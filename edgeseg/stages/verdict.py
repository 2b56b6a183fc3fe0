"""The veto: INT8 that is not faster than float is never shipped in silence."""

from __future__ import annotations

__all__ = ["VETO", "predicted_notes", "speed_notes"]

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


def predicted_notes(ratio: float, processor: str) -> tuple[str, ...]:
    """The same for a ratio that stored operator costs of another processor predict.

    >>> predicted_notes(0.5, "arm-dotprod")
    ('0.50 of the float time: predicted for arm-dotprod, not measured there',)
    """
    notes = (f"{ratio:.2f} of the float time: predicted for {processor}, not measured there",)
    if ratio < 1.0:
        return notes
    return (
        *notes,
        f"{VETO}: int8 is not predicted to be faster than float on {processor}; tflite-fp16 or tflite-fp32 serves better",
    )
