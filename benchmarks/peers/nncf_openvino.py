"""NNCF's post-training quantization on OpenVINO, preset ``performance`` or ``mixed``, and the runtime that judges its files.

    python nncf_openvino.py quantize --onnx MODEL --calibration FOLDER --out FOLDER --preset mixed
    python nncf_openvino.py serve --model FILE.xml --exchange FOLDER --threads 2
    python nncf_openvino.py time --model A.xml --model B.xml --image IMAGE.npy --threads 1 --rounds 40

``serve`` answers each line on its standard input: it runs FOLDER/input.npy and writes FOLDER/output.npy, then prints "done".
``time`` prints the median milliseconds of each model, run in turn, as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["quantize", "serve", "time"])
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--calibration", type=Path, help="one .npy an image, float32 (1, C, H, W)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", choices=["performance", "mixed"], default="performance")
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--exchange", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    {"quantize": quantize, "serve": serve, "time": measure}[asked.task](asked)


def quantize(asked: argparse.Namespace) -> None:
    import nncf

    model = openvino.convert_model(str(asked.onnx))
    openvino.save_model(model, str(asked.out / "float.xml"), compress_to_fp16=False)
    images = [np.load(path) for path in sorted(asked.calibration.glob("*.npy"))]
    quantized = nncf.quantize(
        model, nncf.Dataset(images), preset=nncf.QuantizationPreset(asked.preset), subset_size=len(images)
    )
    openvino.save_model(quantized, str(asked.out / "int8.xml"), compress_to_fp16=False)
    versions = {"openvino": openvino.__version__, "nncf": nncf.__version__}
    (asked.out / "versions.json").write_text(json.dumps(versions))


def compiled(path: Path, threads: int) -> openvino.InferRequest:
    """What is not int8 runs in float32: otherwise the plugin takes bfloat16 for the float file where the CPU has it."""
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()


def serve(asked: argparse.Namespace) -> None:
    request = compiled(asked.model[0], asked.threads)
    for _ in sys.stdin:
        result = request.infer([np.load(asked.exchange / "input.npy")])
        np.save(asked.exchange / "output.npy", next(iter(result.values())))
        print("done", flush=True)


def measure(asked: argparse.Namespace) -> None:
    requests = [compiled(path, asked.threads) for path in asked.model]
    image = openvino.Tensor(np.load(asked.image))
    for request in requests:
        request.set_input_tensor(image)
        for _ in range(5):
            request.infer()
    samples: list[list[int]] = [[] for _ in requests]
    for _ in range(asked.rounds):
        for request, times in zip(requests, samples, strict=True):
            started = time.perf_counter_ns()
            request.infer()
            times.append(time.perf_counter_ns() - started)
    print(json.dumps([float(np.median(times)) / 1e6 for times in samples]))


if __name__ == "__main__":
    main()
