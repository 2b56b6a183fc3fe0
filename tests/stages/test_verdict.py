"""The veto's words."""

import pytest

from edgeseg.artifact import SpeedRecord
from edgeseg.stages.verdict import VETO, speed_notes


@pytest.mark.parametrize("vetoed", [False, True])
def test_int8_that_is_not_faster_is_named_with_its_cause(vetoed: bool) -> None:
    speed = SpeedRecord(
        against="tflite-fp32",
        ratios=(0.97, 1.1 if vetoed else 0.99),
        vetoed=vetoed,
        causes=("float islands: 9 conversions",) if vetoed else (),
        better="tflite-fp16" if vetoed else None,
    )
    notes = speed_notes(speed)
    assert notes[0].startswith("0.97 of the float time")
    assert any(note.startswith(VETO) and "tflite-fp16" in note for note in notes) is vetoed
    assert any(note.startswith(VETO) and "9 conversions" in note for note in notes) is vetoed
