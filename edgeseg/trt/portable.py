"""The kit that builds the engine elsewhere: a script that needs only tensorrt, trtexec's lines, and a calibration table.

The table is TensorRT's own text format: a line with version and algorithm, then ``name: hex`` with the scale (largest magnitude
/ 127) as the eight hex digits of its big-endian float32. It serves implicit quantization (``trtexec --int8 --calib``) of the
float graph in TensorRT 8 and 10; TensorRT 11 has none. Explicit Q/DQ, the file beside it, is the route that works in all of them.
"""

from __future__ import annotations

import re
import shlex
import struct
from pathlib import Path

from edgeseg.quantize.plan import QuantPlan
from edgeseg.trt.build import BuildSettings

__all__ = ["HALF_SUFFIX", "calibration_table", "trtexec_lines", "write_kit"]

HALF_SUFFIX = ".fp16.onnx"

_TABLE_VERSIONS = {"8": "8600", "10": "100300"}
"""Major version to the number in a table's first line: 8.6.0 and 10.3.0."""


def calibration_table(plan: QuantPlan, major: str) -> str:
    """The plan's activations as TensorRT's calibration cache.

    >>> from edgeseg.quantize.plan import TensorQuant
    >>> quant = TensorQuant(scale=(0.125,), zero_point=(0,))
    >>> print(calibration_table(QuantPlan(target="", tensors={"x": quant}, ops=()), "8"), end="")
    TRT-8600-EntropyCalibration2
    x: 3e000000
    """
    lines = [f"TRT-{_TABLE_VERSIONS[major]}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', quant.scale[0]).hex()}" for name, quant in plan.tensors.items()]
    return "\n".join(lines) + "\n"


def trtexec_lines(
    weak: str, precision: str, *, settings: BuildSettings | None = None, tensor: str = "", shape: tuple[int, ...] = ()
) -> dict[str, str]:
    """Major version to the command that builds the same engine with NVIDIA's own tool (8: 8.6).

    Args:
        tensor, shape: of the input, for a dynamic batch or size.

    >>> trtexec_lines("model.qdq.onnx", "int8")["11"]
    'trtexec --onnx=model.qdq.fp16.onnx --noTF32 --memPoolSize=workspace:2048 --saveEngine=model.engine'
    """
    settings = settings or BuildSettings()
    typed = weak if precision == "fp32" else weak.replace(".onnx", HALF_SUFFIX)
    flags = {"int8": " --int8 --fp16", "fp16": " --fp16", "fp32": ""}[precision]
    words = [] if settings.tf32 else ["--noTF32"]
    words.append(f"--memPoolSize=workspace:{settings.workspace_mib}")
    if settings.level is not None:
        words.append(f"--builderOptimizationLevel={settings.level}")
    if settings.version_compatible:
        words.append("--versionCompatible")
    if settings.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    if settings.timing_cache is not None:
        words.append("--timingCacheFile=timing.cache")
    if settings.dynamic or settings.sizes is not None:
        for flag, lengths in zip(("minShapes", "optShapes", "maxShapes"), settings.shapes(shape), strict=True):
            words.append(f"--{flag}={shlex.quote(tensor)}:{'x'.join(map(str, lengths))}")
    rest = " ".join([*words, "--saveEngine=model.engine"])
    return {
        "8": f"trtexec --onnx={weak}{flags} {rest}",
        "10": f"trtexec --onnx={typed} --stronglyTyped {rest}",
        "11": f"trtexec --onnx={typed} {rest}",
    }


def write_kit(
    folder: Path,
    weak: str,
    precision: str,
    plan: QuantPlan | None,
    *,
    settings: BuildSettings | None = None,
    tensor: str = "",
    shape: tuple[int, ...] = (),
) -> tuple[Path, ...]:
    """Write ``build_engine.py``, ``trtexec.txt`` and, for a plan, ``calibration-trt8.cache`` and ``-trt10``. Returns them.

    The script's defaults are these settings; ``tensor`` and ``shape`` are of the input.
    """
    settings = settings or BuildSettings()
    script = folder / "build_engine.py"
    text = Path(__file__).with_name("standalone.py").read_text("utf-8")
    script.write_text(_with_defaults(text, settings, shape), encoding="utf-8")
    commands = folder / "trtexec.txt"
    lines = trtexec_lines(weak, precision, settings=settings, tensor=tensor, shape=shape)
    text = "".join(f"# TensorRT {major}\n{line}\n" for major, line in lines.items())
    commands.write_text(text, encoding="utf-8")
    written = [script, commands]
    for major in _TABLE_VERSIONS if plan is not None and plan.tensors else ():
        assert plan is not None
        table = folder / f"calibration-trt{major}.cache"
        table.write_text(calibration_table(plan, major), encoding="utf-8")
        written.append(table)
    return tuple(written)


def _with_defaults(script: str, settings: BuildSettings, shape: tuple[int, ...]) -> str:
    """The script with these settings in place of its own, which stand in lines ``NAME = value``."""
    defaults = {
        "WORKSPACE_MIB": settings.workspace_mib,
        "BATCH": settings.batch,
        "SIZES": tuple(one[2:] for one in settings.shapes(shape)) if settings.sizes else None,
        "LEVEL": settings.level,
        "VERSION_COMPATIBLE": settings.version_compatible,
        "HARDWARE_COMPATIBLE": settings.hardware_compatible,
        "TF32": settings.tf32,
    }
    for name, value in defaults.items():
        script, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", script, flags=re.MULTILINE)
        assert count == 1, f"the script has no line '{name} = ...'"
    return script
