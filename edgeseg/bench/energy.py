"""Energy counters of the machine, where it has any that we may read."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Protocol

import msgspec

from edgeseg.errors import EnvironmentLack

__all__ = ["EnergyMeter", "EnergyUse", "NvmlMeter", "RaplMeter"]


class EnergyUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``joules_per_run`` is None where the machine does not tell; ``source`` says which counter, or why there is none.

    RAPL counts the whole CPU package and NVML the whole GPU, other processes and idle power included: compare candidates of one
    run only.
    """

    joules_per_run: float | None
    source: str


class EnergyMeter(Protocol):
    """Counters read before and after. ``source`` says which, or why there are none."""

    source: str

    @property
    def available(self) -> bool: ...

    def read(self) -> tuple[int, ...]: ...

    def joules_between(self, before: tuple[int, ...], after: tuple[int, ...]) -> float: ...


class RaplMeter:
    """Running Average Power Limit counters of Intel and AMD CPUs (Linux powercap: microjoules that wrap around).

    Args:
        root: the powercap folder; another one in tests.
    """

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        # intel-rapl:0 is a package; intel-rapl:0:1 a part of it, contained in it already.
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones: list[tuple[Path, int]] = []
        names = []
        denied = False
        for zone in zones:
            try:
                int((zone / "energy_uj").read_text())
                self._zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
                names.append((zone / "name").read_text().strip())
            except PermissionError:
                denied = True
            except (OSError, ValueError):
                continue
        if self._zones:
            self.source = "RAPL " + ", ".join(names)
        elif denied:
            self.source = "not available: the RAPL counters may be read by root only"
        else:
            self.source = "not available: this machine shows no RAPL counters"

    @property
    def available(self) -> bool:
        return bool(self._zones)

    def read(self) -> tuple[int, ...]:
        """Counters now, in microjoules, one a package; empty where not available."""
        return tuple(int(path.read_text()) for path, _ in self._zones)

    def joules_between(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two readings less than one wrap-around apart (minutes)."""
        total = 0
        for (_, limit), first, last in zip(self._zones, before, after, strict=True):
            total += last - first if last >= first else last - first + limit
        return total / 1e6


class NvmlMeter:
    """The total energy counter of an NVIDIA GPU, by the driver's NVML (``nvmlDeviceGetTotalEnergyConsumption``: millijoules since
    the driver was loaded; GPUs from Volta on).

    Args:
        index: of the GPU, in NVML's order (that of ``nvidia-smi``).
        library: NVML's; another one in tests.
    """

    def __init__(self, index: int = 0, library: str = "libnvidia-ml.so.1") -> None:
        self._handle = ctypes.c_void_p()
        self._nvml: ctypes.CDLL | None = None
        try:
            nvml = ctypes.CDLL(library)
        except OSError as error:
            self.source = f"not available: there is no NVML ({error})"
            return
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._handle)):
            self.source = "not available: NVML does not start"
            return
        self._nvml = nvml
        status = self._status(ctypes.c_ulonglong())
        if status:
            self._nvml = None
            self.source = f"not available: this GPU does not count its energy (NVML says {status})"
            return
        self.source = "NVML total energy of the GPU"

    @property
    def available(self) -> bool:
        return self._nvml is not None

    def read(self) -> tuple[int, ...]:
        """The counter now, in millijoules; empty where not available.

        Raises:
            EnvironmentLack: it answered before and does no more (the GPU was lost).
        """
        if self._nvml is None:
            return ()
        millijoules = ctypes.c_ulonglong()
        status = self._status(millijoules)
        if status:
            raise EnvironmentLack(f"The GPU's energy counter stopped answering (NVML says {status}).", hint="Try nvidia-smi.")
        return (millijoules.value,)

    def joules_between(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two readings."""
        return sum(last - first for first, last in zip(before, after, strict=True)) / 1e3

    def _status(self, millijoules: ctypes.c_ulonglong) -> int:
        assert self._nvml is not None
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules)))
