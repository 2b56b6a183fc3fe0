"""Build model.engine from the ONNX files beside this script.

Needs an NVIDIA GPU, its driver and tensorrt (8.5 to 11), nothing else. TensorRT 10 and later obey the types in the file
(model.*fp16.onnx where there is one); 8.x read the other file and are given precision flags. An engine runs on the kind of GPU and
the TensorRT version it was built with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

WORKSPACE_MIB = 2048
BATCH = (1, 1, 1)
SIZES = None
LEVEL = None
VERSION_COMPATIBLE = False
HARDWARE_COMPATIBLE = False
TF32 = False


def main() -> None:
    """Read the options, parse the file, build, write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--workspace", type=int, default=WORKSPACE_MIB, help="device memory a kernel may use, MiB")
    options.add_argument("--batch", type=int, nargs=3, default=BATCH, help="least, usual, most images; for a dynamic batch")
    options.add_argument("--level", type=int, default=LEVEL, help="optimisation level, 0 to 5")
    options.add_argument("--timing-cache", type=Path, help="file that keeps the measurements of kernels")
    given = options.parse_args()
    try:
        import tensorrt as trt
    except ImportError as error:
        sys.exit(f"This Python cannot import tensorrt: {error}")

    folder = Path(__file__).resolve().parent
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
    if not TF32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if not typed and half.is_file() and hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if not typed and int8 and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)
    if VERSION_COMPATIBLE and hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if HARDWARE_COMPATIBLE and hasattr(trt, "HardwareCompatibilityLevel") and hasattr(config, "hardware_compatibility_level"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if given.level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = given.level
    source_tensor = network.get_input(0)
    declared = tuple(source_tensor.shape)
    if -1 in declared:
        profile = builder.create_optimization_profile()
        counts = given.batch if declared[0] == -1 else declared[:1] * 3
        sizes = SIZES or (declared[2:],) * 3
        profile.set_shape(source_tensor.name, *((counts[i], declared[1], *sizes[i]) for i in range(3)))
        config.add_optimization_profile(profile)
    kept = given.timing_cache
    if kept is not None:
        config.set_timing_cache(config.create_timing_cache(kept.read_bytes() if kept.is_file() else b""), True)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit("TensorRT could not build the engine; its messages are above.")
    if kept is not None:
        kept.write_bytes(config.get_timing_cache().serialize())
    (folder / "model.engine").write_bytes(plan)
    print(f"model.engine built from {source.name} with TensorRT {trt.__version__}")


if __name__ == "__main__":
    main()
