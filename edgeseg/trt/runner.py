"""Run a TensorRT engine: addresses set by tensor name, one stream, and a CUDA graph where asked for.

Standard library only (see ``worker``): ``trt`` is the tensorrt module.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType
    from typing import TypedDict

    import tensorrt

    from edgeseg.trt.memory import DeviceMemory

    class TensorFacts(TypedDict):
        """``dtype`` as numpy calls it."""

        name: str
        dtype: str
        shape: list[int]


__all__ = ["EngineRunner"]

# TensorRT's name of an element type: numpy's name, bytes.
_TYPES = {"FLOAT": ("float32", 4), "HALF": ("float16", 2), "INT8": ("int8", 1), "UINT8": ("uint8", 1), "INT32": ("int32", 4)}


class _Tensor:
    """One input or output with its buffers on both sides. ``size``: bytes."""

    def __init__(self, name: str, kind: str, shape: tuple[int, ...], memory: DeviceMemory) -> None:
        if kind not in _TYPES:
            raise ValueError(f"tensor {name} is {kind}; edgeseg feeds and reads {', '.join(_TYPES)}")
        self.name = name
        self.shape = shape
        self.dtype, self.size = _TYPES[kind]
        for length in shape:
            self.size *= length
        self.device = memory.allocate(self.size)
        self.host = memory.allocate_host(self.size)

    def facts(self) -> TensorFacts:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


class EngineRunner:
    """One engine, one context, one stream. Not for several threads.

    Args:
        batch: images a run; the engine must have been built for it. 0: the fewest that it takes.
        graph: record the run once as a CUDA graph and replay it.
        stream: run in this stream of the caller's instead of a new one.

    Raises:
        ValueError: the engine does not take that batch, or has not one input and one output.
        RuntimeError: TensorRT or CUDA refuses; CUDA's words are in the message.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: tensorrt.ICudaEngine,
        memory: DeviceMemory,
        batch: int = 0,
        graph: bool = False,
        stream: int = 0,
    ) -> None:
        self._memory = memory
        self._engine = engine
        with memory.current():
            self._prepare(trt, engine, batch, graph, stream)

    def _prepare(self, trt: ModuleType, engine: tensorrt.ICudaEngine, batch: int, graph: bool, stream: int) -> None:
        memory = self._memory
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError("TensorRT made no execution context: device memory is short")
        self._stream = stream or memory.create_stream()
        self._graph = 0
        self._events: tuple[int, int] | None = None
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"the engine has inputs {inputs} and outputs {outputs}; one of each is needed")
        declared = tuple(engine.get_tensor_shape(inputs[0]))
        if -1 in declared[1:]:  # any size in a range: the usual one, which the images are prepared for
            declared = (declared[0], *tuple(engine.get_tensor_profile_shape(inputs[0], 0)[1])[1:])
        if not batch:
            batch = declared[0] if declared[0] != -1 else engine.get_tensor_profile_shape(inputs[0], 0)[0][0]
        if declared[0] not in (-1, batch):
            raise ValueError(f"the engine was built for batch {declared[0]}, not {batch}")
        shape = (batch, *declared[1:])
        if not self._context.set_input_shape(inputs[0], shape):
            raise ValueError(f"the engine does not take an input of shape {shape}")
        self.input = self._tensor(inputs[0])
        self.output = self._tensor(outputs[0])
        for tensor in (self.input, self.output):
            if not self._context.set_tensor_address(tensor.name, tensor.device):
                raise RuntimeError(f"TensorRT does not take the memory of tensor {tensor.name}")
        self._enqueue()  # the first run loads kernels and may allocate, neither of which a graph can record
        memory.synchronize(self._stream)
        if graph:
            memory.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                self._graph = memory.end_capture(self._stream)

    def _tensor(self, name: str) -> _Tensor:
        kind = self._engine.get_tensor_dtype(name).name
        return _Tensor(name, kind, tuple(self._context.get_tensor_shape(name)), self._memory)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeError("execute_async_v3 failed; TensorRT's log says why")

    def describe(self) -> list[TensorFacts]:
        """The input, then the output."""
        return [self.input.facts(), self.output.facts()]

    def write(self, content: bytes | memoryview) -> None:
        """Copy the input (a contiguous buffer of ``input.size`` bytes) to the device."""
        flat = memoryview(content).cast("B")
        if flat.nbytes != self.input.size:
            raise ValueError(f"the input has {flat.nbytes} bytes, the engine takes {self.input.size}")
        ctypes.memmove(self.input.host, flat.tobytes(), self.input.size)
        with self._memory.current():
            self._memory.to_device(self.input.device, self.input.host, self.input.size, self._stream)
            self._memory.synchronize(self._stream)

    def _launch(self) -> None:
        if self._graph:
            self._memory.launch(self._graph, self._stream)
        else:
            self._enqueue()

    def execute(self) -> None:
        """One run, waited for."""
        with self._memory.current():
            self._launch()
            self._memory.synchronize(self._stream)

    def read(self, target: bytearray | memoryview) -> None:
        """Copy the output into a writable buffer of ``output.size`` bytes."""
        with self._memory.current():
            self._memory.to_host(self.output.host, self.output.device, self.output.size, self._stream)
            self._memory.synchronize(self._stream)
        memoryview(target).cast("B")[:] = ctypes.string_at(self.output.host, self.output.size)

    def time(self, runs: int) -> list[float]:
        """Milliseconds of each of ``runs`` runs between two CUDA events: the device's time, without the host's."""
        taken = []
        with self._memory.current():
            self._events = self._events or (self._memory.create_event(), self._memory.create_event())
            begin, end = self._events
            for _ in range(runs):
                self._memory.record(begin, self._stream)
                self._launch()
                self._memory.record(end, self._stream)
                taken.append(self._memory.elapsed_ms(begin, end))
        return taken

    def close(self) -> None:
        """Give everything back, the context before the memory it uses."""
        with self._memory.current():
            self._context = None
            self._engine = None
        self._memory.close()
