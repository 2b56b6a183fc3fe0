"""``--tune-for``: files for hardware that is not this machine, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from shell import edgeseg
from workshop import Workshop


def compile_for(workshop: Workshop, folder: Path, *flags: str) -> Path:
    done = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-int8", "--effort", "quick", "-o", folder / "out", *flags),
        cwd=folder,
    )
    assert done.code == 0, done.err
    return folder / "out"


@pytest.mark.parametrize(("flags", "dtype"), [((), np.int8), (("--io", "uint8"), np.uint8)])
def test_integer_only_has_no_float_anywhere(workshop: Workshop, tmp_path: Path, flags: tuple[str, ...], dtype: type) -> None:
    out = compile_for(workshop, tmp_path, "--tune-for", "integer-only", *flags)
    loaded = Interpreter(str(out / "model.tflite"), experimental_preserve_all_tensors=True)
    loaded.allocate_tensors()
    assert loaded.get_input_details()[0]["dtype"] is dtype
    assert loaded.get_output_details()[0]["dtype"] is dtype
    assert np.float32 not in {tensor["dtype"] for tensor in loaded.get_tensor_details()}
    evaluated = edgeseg("eval", out, "--json", cwd=tmp_path)
    assert evaluated.code == 0, evaluated.err
    assert abs(json.loads(evaluated.out)["drop"]) < 2.0


def test_stored_costs_predict_and_say_so(workshop: Workshop, tmp_path: Path) -> None:
    out = compile_for(workshop, tmp_path, "--tune-for", "arm-dotprod", "--io", "int8")
    notes = json.loads((out / "manifest.json").read_text())["stages"][-1]["notes"]
    assert "operator costs: stored table arm-dotprod" in notes
    assert any("predicted for arm-dotprod, not measured there" in note for note in notes)
    assert not any("of the float time here" in note for note in notes)
    explained = edgeseg("explain", out, cwd=tmp_path)
    assert "predicted for arm-dotprod, not measured there" in explained.out
    assert "Not measured by edgeseg" in explained.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-t", "tflite-fp32", "--tune-for", "x86-vnni"), "is for tflite-int8"),
        (("-t", "tflite-int8", "--tune-for", "integer-only", "--io", "float32"), "cannot take or give float32"),
        (
            ("-t", "tflite-int8", "--tune-for", "integer-only", "--policy", "float-ops=CONV_2D"),
            "integer-only hardware has none",
        ),
        (("-t", "tflite-int8", "--policy", "float-ops="), "There is no policy 'float-ops='"),
        (("-t", "onnx-int8", "--policy", "fast"), "There is no policy 'fast'"),
        (("-t", "onnx-int8", "--io", "int8"), "onnx-int8 takes and gives float32"),
        (("-t", "tensorrt-int8", "--io", "uint8"), "tensorrt-int8 takes and gives float32"),
        (("-t", "onnx-fp32", "--policy", "full"), "--policy is for INT8 targets"),
        (("-t", "tflite-int8", "--tune-for", "arm-dotprod", "--policy", "full"), "leaves nothing to choose"),
        (("-t", "onnx-int8", "--tune-for", "integer-only"), "is for tflite-int8"),
        (("-t", "tensorrt-int8", "--tune-for", "arm-dotprod"), "is for tflite-int8"),
    ],
)
def test_contradictions_are_usage_errors(workshop: Workshop, tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    done = edgeseg("compile", workshop.model("tiny.onnx"), *flags, "-o", "out", cwd=tmp_path)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()
