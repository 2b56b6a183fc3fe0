"""Build model.engine from the ONNX files beside this script.

Needs an NVIDIA GPU, its driver and tensorrt (8.5 to 11), nothing else. TensorRT 10 and later obey the types in the file
(model.*fp16.onnx where there is one); 8.x read the other file and are given precision flags. An engine runs on the kind of GPU and
the TensorRT version it was built with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Read the options, parse the file, build, write."""
    import tensorrt as trt

    folder = Path(__file__).resolve().parent
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--workspace", type=int, default=2048, help="device memory a kernel may use, MiB (default: 2048)")
    options.add_argument("--tf32", action="store_true", help="allow float32 products at 10 bits of significand")
    given = options.parse_args()

    int8 = (folder / "model.qdq.onnx").is_file()
    weak = folder / ("model.qdq.onnx" if int8 else "model.onnx")
    half = weak.with_name(weak.name.replace(".onnx", ".fp16.onnx"))
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    bits = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        bits |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        bits |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    builder = trt.Builder(trt.Logger(trt.Logger.INFO))
    network = builder.create_network(bits)
    parser = trt.OnnxParser(network, builder.logger)
    source = half if typed and half.is_file() else weak
    if not parser.parse_from_file(str(source)):
        sys.exit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, given.workspace << 20)
    if not given.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if not typed and half.is_file() and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if not typed and int8 and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit("TensorRT could not build the engine; its messages are above.")
    (folder / "model.engine").write_bytes(plan)
    print(f"model.engine built from {source.name} with TensorRT {trt.__version__}")


if __name__ == "__main__":
    main()
