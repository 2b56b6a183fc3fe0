"""Energy of an NVIDIA GPU by its own counter (NVML), through ctypes."""

from __future__ import annotations

import ctypes


class EnergyCounter:
    """``read`` gives joules since the driver was loaded, for the whole GPU; None where it does not tell (before Volta)."""

    def __init__(self, index: int = 0, library: str = "libnvidia-ml.so.1") -> None:
        self._handle = ctypes.c_void_p()
        self.source = "NVML total energy of the GPU"
        try:
            self._nvml: ctypes.CDLL | None = ctypes.CDLL(library)
        except OSError as error:
            self._nvml = None
            self.source = f"not available: {error}"
            return
        if self._nvml.nvmlInit_v2() or self._nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self._handle)):
            self._nvml = None
            self.source = "not available: NVML does not start"

    def read(self) -> float | None:
        if self._nvml is None:
            return None
        millijoules = ctypes.c_ulonglong()
        status = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules))
        return None if status else millijoules.value / 1e3
