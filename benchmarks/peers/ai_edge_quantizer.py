"""ai-edge-quantizer's default static INT8 recipe (float in and out), on the float file of tflite_converter.py.

python ai_edge_quantizer.py quantize --float FILE --calibration FOLDER --out FOLDER
"""

from __future__ import annotations

import sys

# This file has the package's name: its own folder must not be searched first.
sys.path.pop(0)

import argparse
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

SIGNATURE = "serving_default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["quantize"])
    parser.add_argument("--float", type=Path, required=True, dest="source", help="float .tflite with a signature")
    parser.add_argument("--calibration", type=Path, required=True, help="one .npy an image, float32 (1, C, H, W)")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    source = asked.out / "float.tflite"
    shutil.copyfile(asked.source, source)
    name = next(iter(Interpreter(str(source)).get_signature_list()[SIGNATURE]["inputs"]))

    # A list: it goes through the images once to count them.
    images = [{name: np.load(path).transpose(0, 2, 3, 1)} for path in sorted(asked.calibration.glob("*.npy"))]
    work = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    work.quantize(work.calibrate({SIGNATURE: images})).export_model(str(asked.out / "int8.tflite"), overwrite=True)
    versions = {package: version(package) for package in ("ai-edge-quantizer", "ai-edge-litert")}
    (asked.out / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
