"""Facts about the machine that a figure was measured on. No host name, no user, no path."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

__all__ = ["KNOWN_FLAGS", "MachineFacts", "machine_facts"]

# Instruction sets that decide how fast int8 and float16 kernels are.
KNOWN_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert", "torch", "tensorrt", "onnx", "psutil")


class MachineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes with every figure.

    Attributes:
        flags: the instruction sets of interest that the CPU has.
        physical_cores: None where the system does not tell.
        governor: CPU frequency governor of the first CPU; None where the system does not tell (virtual machines).
        gpus: name, driver and memory of each NVIDIA GPU, as the driver's own tool tells them.
        versions: of the packages that compute, those installed.
        commit: of edgeseg's own checkout, with ``+`` where it has changes; None for an installed wheel.
    """

    cpu: str
    architecture: str
    flags: tuple[str, ...]
    logical_cores: int
    physical_cores: int | None
    memory_bytes: int
    governor: str | None
    gpus: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]
    commit: str | None
    schema: int = 1


def machine_facts() -> MachineFacts:
    """Facts about this machine. Takes some tens of milliseconds."""
    cpuinfo = _cpuinfo()
    present = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return MachineFacts(
        cpu=_cpu_name(cpuinfo),
        architecture=platform.machine(),
        flags=tuple(flag for flag in KNOWN_FLAGS if flag in present),
        logical_cores=os.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False),
        memory_bytes=psutil.virtual_memory().total,
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=_versions(),
        commit=_commit(Path(__file__).resolve().parents[2]),
    )


def _cpu_name(cpuinfo: dict[str, str]) -> str:
    """With family and model: virtual machines call processors of several generations alike.

    >>> _cpu_name({"model name": "AMD EPYC", "cpu family": "26", "model": "2"})
    'AMD EPYC (family 26, model 2)'
    """
    name = cpuinfo.get("model name") or platform.processor() or "unknown"
    told = [f"{short} {cpuinfo[key]}" for key, short in (("cpu family", "family"), ("model", "model")) if key in cpuinfo]
    return f"{name} ({', '.join(told)})" if told else name


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo."""
    text = _read(Path("/proc/cpuinfo")) or ""
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # The system does not have the file, or not for us: the fact is unknown.
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> tuple[str, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    text = _output([tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())


def _commit(root: Path) -> str | None:
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    head = _output([git, "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    if head is None:
        return None
    changed = _output([git, "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return head.strip() + ("+" if changed else "")


def _output(command: list[str]) -> str | None:
    """Standard output; None where the program fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
