"""Device memory, streams, events and graphs of one GPU, in its primary context, which torch and TensorRT share.

The context is current only inside ``current()``: the caller's thread keeps its own GPU, and sessions on several GPUs can be used in
turn and closed in any order.

Everything can be had from the driver's own library through ctypes. Where pycuda or cuda-python is installed, memory comes from
them; handles are the same in all three, so streams, events and graphs stay here.

Standard library only (see ``worker``), Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol

    class DeviceMemory(Protocol):
        """What running an engine needs from CUDA. Addresses and handles are integers, sizes bytes, copies asynchronous. Everything
        but ``close`` is called inside ``current()``."""

        kind: str

        def current(self) -> AbstractContextManager[None]: ...

        def allocate(self, size: int) -> int: ...

        def allocate_host(self, size: int) -> int: ...

        def to_device(self, device: int, host: int, size: int, stream: int) -> None: ...

        def to_host(self, host: int, device: int, size: int, stream: int) -> None: ...

        def create_stream(self) -> int: ...

        def synchronize(self, stream: int) -> None: ...

        def create_event(self) -> int: ...

        def record(self, event: int, stream: int) -> None: ...

        def elapsed_ms(self, begin: int, end: int) -> float: ...

        def begin_capture(self, stream: int) -> None: ...

        def end_capture(self, stream: int) -> int: ...

        def launch(self, graph: int, stream: int) -> None: ...

        def close(self) -> None: ...


__all__ = ["KINDS", "CudaError", "DeviceMemory", "open_memory"]

KINDS = ("pycuda", "cuda-python", "ctypes")
"""In order of preference."""

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no hidden waiting for the default stream
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: other threads (torch's) may allocate meanwhile
_CUDA_PYTHON = ("cuda.bindings.driver", "cuda.cuda")
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaError(RuntimeError):
    """A call to the driver that failed, with the driver's own words."""


def open_memory(kind: str = "", device: int = 0, library: str = "libcuda.so.1") -> DeviceMemory:
    """Memory of a GPU, through the first of ``KINDS`` that is installed, or the one named.

    Raises:
        CudaError: no driver, no such GPU.
        ImportError: the package named is not installed.
        ValueError: no such kind.
    """
    makers = {"pycuda": _PycudaMemory, "cuda-python": _CudaPythonMemory, "ctypes": _CtypesMemory}
    if kind:
        if kind not in makers:
            raise ValueError(f"device memory is {' or '.join(KINDS)}, not '{kind}'")
        return makers[kind](device, library)
    for name, modules in (("pycuda", ("pycuda.driver",)), ("cuda-python", _CUDA_PYTHON)):
        if any(_installed(module) for module in modules):
            return makers[name](device, library)
    return _CtypesMemory(device, library)


def _installed(module: str) -> bool:
    """Without running it; other packages share the parent package ``cuda``."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the parent
        return False


class _CtypesMemory:
    """The driver API through ctypes. The primary context is retained until ``close``."""

    kind = "ctypes"

    def __init__(self, device: int, library: str) -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise CudaError(f"{library} cannot be loaded: {error}") from error
        self._undo: list[Callable[[], None]] = []
        self._call("cuInit", ctypes.c_uint(0))
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(device))
        self._context = self._handle("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._setup()
        except BaseException:
            self._release()
            raise

    def _setup(self) -> None:
        """For the kinds that bring their own allocator."""

    def _release(self) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's primary context the thread's, and give the thread back its own."""
        self._call("cuCtxPushCurrent_v2", ctypes.c_void_p(self._context))
        try:
            yield
        finally:
            self._handle("cuCtxPopCurrent_v2")

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self._cuda, name)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise CudaError(self._message(name, status))

    def _message(self, name: str, status: int) -> str:
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        hint = " (out of memory)" if status == _OUT_OF_MEMORY and "memory" not in reason else ""
        return f"{name}: {reason}{hint} (error {status})"

    def _handle(self, name: str, *arguments: object) -> int:
        """Call a function whose first argument receives a pointer."""
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    def allocate(self, size: int) -> int:
        address = self._handle("cuMemAlloc_v2", ctypes.c_size_t(size))
        self._undo.append(lambda: self._call("cuMemFree_v2", ctypes.c_void_p(address)))
        return address

    def allocate_host(self, size: int) -> int:
        """Page-locked memory, from which copies run beside kernels."""
        address = self._handle("cuMemHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))
        self._undo.append(lambda: self._call("cuMemFreeHost", ctypes.c_void_p(address)))
        return address

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync_v2", *_pointers(device, host), ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", *_pointers(host, device), ctypes.c_size_t(size), ctypes.c_void_p(stream))

    def create_stream(self) -> int:
        stream = self._handle("cuStreamCreate", ctypes.c_uint(_NON_BLOCKING))
        self._undo.append(lambda: self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream)))
        return stream

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def create_event(self) -> int:
        event = self._handle("cuEventCreate", ctypes.c_uint(0))
        self._undo.append(lambda: self._call("cuEventDestroy_v2", ctypes.c_void_p(event)))
        return event

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", *_pointers(event, stream))

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Waits for ``end``."""
        self._call("cuEventSynchronize", ctypes.c_void_p(end))
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), *_pointers(begin, end))
        return milliseconds.value

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_RELAXED))

    def end_capture(self, stream: int) -> int:
        """An executable graph of what was put into the stream since ``begin_capture``."""
        graph, recorded = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(recorded), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        self._undo.append(lambda: self._call("cuGraphExecDestroy", recorded))
        return recorded.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", *_pointers(graph, stream))

    def close(self) -> None:
        """Give everything back in the reverse order of taking it."""
        if not self._context:
            return
        with self.current():
            while self._undo:
                self._undo.pop()()
        self._context = 0
        self._release()


class _PycudaMemory(_CtypesMemory):
    """Allocations by pycuda."""

    kind = "pycuda"

    def _setup(self) -> None:
        self._driver = importlib.import_module("pycuda.driver")
        self._driver.init()
        self._own = self._driver.Device(self._device.value).retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """By pycuda, which must know which context is current."""
        self._own.push()
        try:
            yield
        finally:
            self._own.pop()

    def allocate(self, size: int) -> int:
        memory = self._driver.mem_alloc(size)
        self._undo.append(memory.free)
        return int(memory)


class _CudaPythonMemory(_CtypesMemory):
    """Allocations by NVIDIA's cuda-python, whose driver module has had two names."""

    kind = "cuda-python"

    def _setup(self) -> None:
        newest, older = _CUDA_PYTHON
        self._driver = importlib.import_module(newest if _installed(newest) else older)

    def allocate(self, size: int) -> int:
        address = self._checked("cuMemAlloc", self._driver.cuMemAlloc(size))
        self._undo.append(lambda: self._free(address))
        return int(address)  # type: ignore[call-overload,no-any-return]

    def _free(self, address: object) -> None:
        self._checked("cuMemFree", self._driver.cuMemFree(address))

    def _checked(self, name: str, answer: Sequence[object]) -> object:
        status = int(answer[0])  # type: ignore[call-overload]
        if status:
            raise CudaError(self._message(name, status))
        return answer[1] if len(answer) > 1 else None


def _pointers(*values: int) -> tuple[ctypes.c_void_p, ...]:
    return tuple(ctypes.c_void_p(value) for value in values)
