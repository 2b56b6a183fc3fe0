"""The veto's words."""

import pytest

from edgeseg.stages.verdict import VETO, speed_notes


@pytest.mark.parametrize(("ratio", "vetoed"), [(0.41, False), (0.99, False), (1.0, True), (1.7, True)])
def test_int8_that_is_not_faster_is_named(ratio: float, vetoed: bool) -> None:
    notes = speed_notes(ratio, "tflite")
    assert notes[0].startswith(f"{ratio:.2f} of the float time")
    assert any(note.startswith(VETO) and "tflite-fp16" in note for note in notes) is vetoed
