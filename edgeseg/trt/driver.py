"""What this machine has of CUDA and TensorRT, found without risking the process.

TensorRT ends a process that has no CUDA driver, and its wheels exist for some Pythons only. So the driver is
asked first, through ctypes, and tensorrt is looked for in a process of its own, under the interpreter that ``EDGESEG_TRT_PYTHON``
names, or this one.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeseg.errors import EnvironmentLack

__all__ = ["LIBRARY", "WORKER", "CudaDriver", "Environment", "Gpu", "TrtPython", "find_driver", "find_tensorrt", "look_around"]

LIBRARY = "libcuda.so.1"
WORKER = Path(__file__).with_name("worker.py")

_VARIABLE = "EDGESEG_TRT_PYTHON"
_OLDEST = (8, 5)  # execute_async_v3 and set_tensor_address came with it
_PROBE_LIMIT_S = 120.0
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """``capability``: as NVIDIA counts it, ``(9, 0)`` for an H100."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class CudaDriver:
    """``version``: the newest CUDA the driver runs, ``(12, 8)``."""

    version: tuple[int, int]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class TrtPython:
    """An interpreter that has tensorrt. ``version``: tensorrt's."""

    executable: str
    python: str
    version: str

    @property
    def is_this_one(self) -> bool:
        return self.executable == sys.executable


@dataclass(frozen=True)
class Environment:
    """``missing`` is empty where engines can be built; else a few words ("no CUDA driver"), with ``lack`` the whole error."""

    driver: CudaDriver | None = None
    tensorrt: TrtPython | None = None
    missing: str = ""
    lack: EnvironmentLack | None = None

    @property
    def text(self) -> str:
        """One line that changes whenever an engine would: part of the cache key."""
        if self.driver is None or self.tensorrt is None:
            return f"engine not built: {self.missing}"
        gpu = self.driver.gpus[0]
        return f"TensorRT {self.tensorrt.version} on {gpu.name}, driver for CUDA {'.'.join(map(str, self.driver.version))}"


class _Lack(EnvironmentLack):
    """``short``: for a status line."""

    def __init__(self, short: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.short = short


class _Answer(msgspec.Struct, frozen=True):
    python: str
    tensorrt: str
    error: str


def look_around(library: str = LIBRARY) -> Environment:
    """Driver and tensorrt, or what is missing. Never raises for a lack."""
    driver = None
    try:
        driver = find_driver(library)
        return Environment(driver, find_tensorrt())
    except _Lack as lack:
        return Environment(driver, None, lack.short, lack)


def find_driver(library: str = LIBRARY) -> CudaDriver:
    """Load the CUDA driver, start it and list its GPUs. It stays started in this process.

    Raises:
        EnvironmentLack: no driver, a driver that does not start, or no GPU.
    """
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        raise _Lack(
            "no CUDA driver",
            f"There is no CUDA driver on this machine ({error}).",
            hint="Run on a machine with an NVIDIA GPU and its driver; 'compile --allow-unbuilt' writes everything up to there.",
        ) from error
    status = int(cuda.cuInit(ctypes.c_uint(0)))
    if status:
        raise _Lack(
            "the CUDA driver does not start",
            f"The CUDA driver does not start: {_reason(cuda, status)} (cuInit gives {status}).",
            hint="Try nvidia-smi; in a container, give it the GPU (--gpus all).",
        )
    count, version = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if not count.value:
        raise _Lack(
            "no GPU", "The CUDA driver finds no GPU.", hint="Check CUDA_VISIBLE_DEVICES, and that the container was given one."
        )
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    return CudaDriver((version.value // 1000, version.value % 1000 // 10), gpus)


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(index))
    cuda.cuDeviceGetName(name, ctypes.c_int(len(name)), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), ctypes.c_int(_MAJOR), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), ctypes.c_int(_MINOR), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode(), (major.value, minor.value), memory.value)


def _reason(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
    return (text.value or b"it gives no reason").decode()


def find_tensorrt() -> TrtPython:
    """The interpreter that has tensorrt: the one ``EDGESEG_TRT_PYTHON`` names, else this one.

    Raises:
        EnvironmentLack: that interpreter does not run, has no tensorrt, or one that is too old.
    """
    named = os.environ.get(_VARIABLE, "")
    executable = named or sys.executable
    answer = _ask(executable)
    if not answer.tensorrt:
        raise _Lack(
            "no tensorrt",
            f"Python {answer.python} at {executable} has no tensorrt ({answer.error}).",
            hint=f"Install it there (pip install tensorrt), or name another interpreter that has it with {_VARIABLE}.",
        )
    found = tuple(int(number) for number in re.findall(r"\d+", answer.tensorrt)[:2])
    if found < _OLDEST:
        raise _Lack(
            f"tensorrt {answer.tensorrt} is too old",
            f"Python at {executable} has tensorrt {answer.tensorrt}; edgeseg needs {'.'.join(map(str, _OLDEST))} or later.",
            hint="Install a newer tensorrt: 8.6, 10 and 11 are known to work.",
        )
    return TrtPython(executable, answer.python, answer.tensorrt)


def _ask(executable: str) -> _Answer:
    """What an interpreter says of itself."""
    hint = f"{_VARIABLE} must name a Python 3.8 or later that has tensorrt."
    try:
        done = subprocess.run(
            [executable, str(WORKER), "probe"], capture_output=True, text=True, timeout=_PROBE_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Lack("no tensorrt", f"The interpreter '{executable}' does not run: {error}.", hint=hint) from error
    lines = done.stdout.strip().splitlines()
    try:
        return msgspec.json.decode(lines[-1] if lines else "", type=_Answer)
    except msgspec.DecodeError as error:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _Lack("no tensorrt", f"'{executable}' could not be asked for tensorrt: {said}.", hint=hint) from error
