"""The seam between runtimes and everything that measures them.

A Session is one loaded file on one runtime. ``bench`` and ``metrics`` know this protocol and no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["DeviceTimed", "Float32", "ModelInput", "Session", "SessionInfo", "TensorInfo", "UInt8", "infer"]

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ModelInput:
    """One prepared image, in both forms that a file may take.

    Attributes:
        pixels: uint8 (1, H, W, C), after crop, resize, padding and colour order, before normalising. A file that takes raw
            pixels (uint8, or int8 = pixel - 128) is fed from this.
        values: float32 (1, C, H, W), normalised; what the PyTorch model takes (transposed where the spec's layout is NHWC).
    """

    pixels: UInt8
    values: Float32


@dataclass(frozen=True)
class TensorInfo:
    """An input or output tensor of a file. ``scale`` and ``zero_point`` are empty for float tensors."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True)
class SessionInfo:
    """What exactly is being run; goes with every figure."""

    runtime: str  # "torch", "onnxruntime", "litert", "tensorrt"
    version: str
    file: str
    device: str = "cpu"
    threads: int = 1
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()

    @property
    def where(self) -> str:
        """Runtime, version, and the device where it is not this machine's CPU."""
        return f"{self.runtime} {self.version}{'' if self.device == 'cpu' else f' on {self.device}'}"


@runtime_checkable
class Session(Protocol):
    """``feed`` copies an input in (conversion to the file's own type and layout included), ``invoke`` runs the file and nothing
    else, ``fetch`` gives the logits as float32 (1, C, h, w), dequantized where needed. Three steps, so that each can be timed."""

    @property
    def info(self) -> SessionInfo: ...

    def feed(self, x: ModelInput) -> None: ...

    def invoke(self) -> None: ...

    def fetch(self) -> Float32: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@runtime_checkable
class DeviceTimed(Protocol):
    """A Session that can also be timed by its device's own clock, without the host's share. ``device_clock`` names the clock;
    ``device_times`` gives the milliseconds of each of ``runs`` further runs on the input fed last."""

    @property
    def device_clock(self) -> str: ...

    def device_times(self, runs: int) -> tuple[float, ...]: ...


def infer(session: Session, x: ModelInput) -> Float32:
    """Feed, invoke, fetch. Returns float32 (1, C, h, w)."""
    session.feed(x)
    session.invoke()
    return session.fetch()
