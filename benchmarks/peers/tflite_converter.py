"""The TFLite converter's full-integer quantization (int8 in and out), on the SavedModel that onnx2tf makes.

    python tflite_converter.py quantize --onnx MODEL --calibration FOLDER --out FOLDER

``float.tflite`` in the same folder is the float file of the same SavedModel, from which ai_edge_quantizer.py starts: it needs a
signature, which onnx2tf's own float file lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", TF_USE_LEGACY_KERAS="1", CUDA_VISIBLE_DEVICES="-1")

import numpy as np

SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"
"""onnx2tf fetches this array over the network unless it lies in the working folder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["quantize"])
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="one .npy an image, float32 (1, C, H, W)")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    out, images = asked.out.resolve(), sorted(asked.calibration.resolve().glob("*.npy"))
    os.chdir(out)
    np.save(SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
    shutil.copyfile(asked.onnx, "model.onnx")  # onnx2tf writes into its input
    import onnx2tf
    import tensorflow as tf

    onnx2tf.convert(
        input_onnx_file_path="model.onnx",
        output_folder_path="saved",
        output_signaturedefs=True,
        copy_onnx_input_output_names_to_tflite=False,
        not_use_onnxsim=True,  # the file is simplified already
        verbosity="error",
    )
    Path("float.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model("saved").convert())

    def calibration() -> Iterator[list[np.ndarray]]:
        for path in images:
            yield [np.load(path).transpose(0, 2, 3, 1)]

    converter = tf.lite.TFLiteConverter.from_saved_model("saved")
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    Path("int8.tflite").write_bytes(converter.convert())
    versions = {name: version(name) for name in ("tensorflow", "onnx2tf")}
    Path("versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
