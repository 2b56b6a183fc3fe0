"""The veto: INT8 that is not faster than float is never shipped in silence."""

from __future__ import annotations

from edgeseg.artifact import SpeedRecord

__all__ = ["VETO", "predicted_notes", "speed_notes"]

VETO = "VETO"


def speed_notes(speed: SpeedRecord) -> tuple[str, ...]:
    """What the manifest says of a measured race, in words.

    >>> speed_notes(SpeedRecord(against="onnx-fp32", ratios=(0.5, 0.6), vetoed=False))
    ('0.50 of the float time here with 1 thread, 0.60 with 2',)
    """
    shown = ", ".join(f"{ratio:.2f} with {count}" for count, ratio in enumerate(speed.ratios[1:], 2))
    notes = (f"{speed.ratios[0]:.2f} of the float time here with 1 thread" + (f", {shown}" if shown else ""),)
    if not speed.vetoed:
        return notes
    return (
        *notes,
        f"{VETO}: int8 is not faster than {speed.against} on this machine's runtime; {speed.better} serves better here",
        *(f"{VETO} cause: {cause}" for cause in speed.causes),
    )


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
