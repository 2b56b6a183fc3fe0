"""onnxruntime's static Q/DQ quantization with its defaults: S8 activations and weights, per-channel, min/max ranges.

python onnxruntime_static.py quantize --onnx MODEL --calibration FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    """What the strided calibrators ask for too: a length, and a part of the images."""

    def __init__(self, folder: Path, name: str) -> None:
        self.paths = sorted(folder.glob("*.npy"))
        self.left = iter(self.paths)
        self.name = name

    def __len__(self) -> int:
        return len(self.paths)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.paths[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        path = next(self.left, None)
        return None if path is None else {self.name: np.load(path)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["quantize"])
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="one .npy an image, float32 (1, C, H, W)")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    ready, float_file, int8 = (asked.out / name for name in ("prepared.onnx", "float.onnx", "int8.onnx"))
    float_file.write_bytes(asked.onnx.read_bytes())
    quant_pre_process(str(asked.onnx), str(ready), skip_symbolic_shape=True)
    reader = Reader(asked.calibration, onnx.load(str(ready)).graph.input[0].name)
    quantize_static(
        str(ready),
        str(int8),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        # Without this the ranges of all images are kept in memory at once; the ranges themselves are the same. It must divide
        # their number.
        extra_options={"CalibStridedMinMax": max(step for step in range(1, 11) if len(reader) % step == 0)},
    )
    (asked.out / "versions.json").write_text(json.dumps({"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}))


if __name__ == "__main__":
    main()
