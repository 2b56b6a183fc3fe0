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
    def __init__(self, folder: Path, name: str) -> None:
        self.count = len(list(folder.glob("*.npy")))
        self.paths = iter(sorted(folder.glob("*.npy")))
        self.name = name

    def __len__(self) -> int:  # the strided calibrators ask
        return self.count

    def get_next(self) -> dict[str, np.ndarray] | None:
        path = next(self.paths, None)
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
    name = onnx.load(str(ready)).graph.input[0].name
    quantize_static(
        str(ready),
        str(int8),
        Reader(asked.calibration, name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        # Without this the ranges of all images are kept in memory at once; the ranges themselves are the same.
        extra_options={"CalibStridedMinMax": 10},
    )
    (asked.out / "versions.json").write_text(json.dumps({"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}))


if __name__ == "__main__":
    main()
