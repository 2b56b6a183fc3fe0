"""TensorRT engines on an NVIDIA GPU.

Where this Python has tensorrt the engine runs in this process, in the GPU's primary context, beside torch. Where another one has it
(``EDGESEG_TRT_PYTHON``), the engine runs there and tensors travel through shared memory; ``device_times`` is the same in both.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import EnvironmentLack, ModelError, SpecError
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import Layout
from edgeseg.tensor_io import input_array, logits_array
from edgeseg.trt.driver import LIBRARY, WORKER, TrtPython, look_around

if TYPE_CHECKING:
    from edgeseg.trt.runner import EngineRunner

__all__ = ["EngineOptions", "TensorRTSession", "open_tensorrt"]


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine is run.

    Attributes:
        batch: images a run; each run gets the fed image that many times. The engine must have been built for it; 0 takes the
            fewest that it was built for.
        graph: record the run once as a CUDA graph and replay it.
        stream: a CUDA stream of the caller's, as an integer (torch: ``torch.cuda.Stream().cuda_stream``); 0 makes one.
            Only where the engine runs in this process.
        memory: "pycuda", "cuda-python" or "ctypes"; empty takes the first that is installed.
        device: index of the GPU.
    """

    batch: int = 0
    graph: bool = False
    stream: int = 0
    memory: str = ""
    device: int = 0


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Answer(msgspec.Struct, frozen=True):
    error: str = ""
    version: str = ""
    info: tuple[_Tensor, ...] = ()
    milliseconds: tuple[float, ...] = ()


class _Engine(Protocol):
    """One loaded engine, wherever it runs. Tensors are C-contiguous arrays of the engine's own types, batch included."""

    version: str
    tensors: tuple[_Tensor, ...]

    def write(self, array: npt.NDArray[np.generic]) -> None: ...

    def execute(self) -> None: ...

    def read(self) -> npt.NDArray[np.generic]: ...

    def time(self, runs: int) -> tuple[float, ...]: ...

    def close(self) -> None: ...


class TensorRTSession:
    """``edgeseg.session.Session`` on TensorRT; ``open_tensorrt`` makes one. ``invoke`` waits for the GPU."""

    def __init__(self, engine: _Engine, info: SessionInfo, *, pixels: bool, batch: int) -> None:
        self._engine = engine
        self._info = info
        self._pixels = pixels
        self._batch = batch
        self._ran = False

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        target = self._info.inputs[0]
        array = input_array(x, target, pixels=self._pixels, layout=Layout.NCHW)
        if array.shape[1:] != target.shape[1:]:
            raise SpecError(
                f"{self._info.file} takes {target.shape}, but an image was prepared as {array.shape}.",
                hint="Correct 'shape' under [input] in edgeseg.toml.",
            )
        self._engine.write(np.ascontiguousarray(np.repeat(array, self._batch, axis=0)))

    def invoke(self) -> None:
        self._engine.execute()
        self._ran = True

    def fetch(self) -> Float32:
        if not self._ran:
            raise ModelError("No output to fetch.", hint="Call invoke() first.")
        return logits_array(self._engine.read()[:1], self._info.outputs[0], layout=Layout.NCHW)

    @property
    def device_clock(self) -> str:
        return "CUDA events"

    def device_times(self, runs: int) -> tuple[float, ...]:
        """Milliseconds of each of ``runs`` runs by CUDA events: the GPU's time for a whole batch, without the host's."""
        return self._engine.time(runs)

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_tensorrt(path: Path, *, pixels: bool = False, options: EngineOptions | None = None) -> TensorRTSession:
    """Open an engine.

    Args:
        pixels: the engine takes raw pixels (normalisation inside it), not normalised values.

    Raises:
        EnvironmentLack: no CUDA driver, no such GPU, or no tensorrt.
        ModelError: TensorRT refuses the engine (another version, another GPU), or it is not a segmentation model's.
    """
    options = options or EngineOptions()
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", hint="Check the path of the engine.")
    around = look_around()
    if around.driver is None or around.tensorrt is None:
        assert around.lack is not None
        raise around.lack
    count = len(around.driver.gpus)
    if not 0 <= options.device < count:
        raise EnvironmentLack(f"There is no GPU {options.device}; this machine has {count}.", hint="Count from 0.")
    python = around.tensorrt
    engine: _Engine = _Here(path, options) if python.is_this_one else _Elsewhere(path, options, python)
    source, result = engine.tensors
    info = SessionInfo(
        runtime="tensorrt",
        version=engine.version,
        file=str(path),
        device=f"cuda:{options.device} {around.driver.gpus[options.device].name}",
        inputs=(TensorInfo(source.name, source.dtype, source.shape),),
        outputs=(TensorInfo(result.name, result.dtype, result.shape),),
    )
    return TensorRTSession(engine, info, pixels=pixels, batch=source.shape[0])


def _refused(path: Path, reason: str) -> ModelError:
    hint = "An engine runs on the kind of GPU and the TensorRT version it was built with; build it here."
    if "memory" in reason.lower():
        hint = "End other programs on the GPU, or run a smaller batch."
    return ModelError(f"TensorRT does not run {path}: {reason}", hint=hint)


class _Here:
    """In this process."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        import tensorrt

        from edgeseg.trt.memory import open_memory
        from edgeseg.trt.runner import EngineRunner
        from edgeseg.trt.worker import JobError, load_engine, make_logger

        said: list[str] = []
        memory = None
        try:
            memory = open_memory(options.memory, options.device, LIBRARY)  # its GPU is the one the engine loads on
            with memory.current():
                engine = load_engine(tensorrt, path.read_bytes(), make_logger(tensorrt, said.append))
            self._runner: EngineRunner = EngineRunner(
                tensorrt, engine, memory, options.batch, options.graph, stream=options.stream
            )
        except (JobError, RuntimeError, ValueError, ImportError) as error:
            if memory is not None:
                memory.close()
            raise _refused(path, f"{error}{_last(said)}") from error
        self.version: str = tensorrt.__version__
        self.tensors = msgspec.convert(self._runner.describe(), tuple[_Tensor, ...])

    def write(self, array: npt.NDArray[np.generic]) -> None:
        self._runner.write(array.data)

    def execute(self) -> None:
        self._runner.execute()

    def read(self) -> npt.NDArray[np.generic]:
        array = np.empty(self.tensors[1].shape, self.tensors[1].dtype)
        self._runner.read(array.data)
        return array

    def time(self, runs: int) -> tuple[float, ...]:
        return tuple(self._runner.time(runs))

    def close(self) -> None:
        self._runner.close()


def _last(said: list[str]) -> str:
    return f" ({said[-1]})" if said else ""


class _Elsewhere:
    """In a process under another Python: requests and answers are lines, tensors lie in a shared file."""

    def __init__(self, path: Path, options: EngineOptions, python: TrtPython) -> None:
        shared = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(prefix="edgeseg-trt-", dir=shared if shared.is_dir() else None)
        self._path = path
        file = Path(self._folder.name) / "tensors"
        file.touch()
        self._log = (Path(self._folder.name) / "log").open("w+b")
        self._child = subprocess.Popen(
            [python.executable, str(WORKER), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        try:
            answer = self._ask(
                "open",
                engine=str(path.resolve()),
                shared=str(file),
                memory=options.memory,
                device=options.device,
                batch=options.batch,
                graph=options.graph,
            )
        except ModelError:
            self._end()
            raise
        self.version = answer.version
        self.tensors = answer.info
        source, result = (np.dtype(t.dtype).itemsize * int(np.prod(t.shape)) for t in answer.info)
        self._input = np.memmap(file, np.uint8, "r+", 0, (source,))
        self._output = np.memmap(file, np.uint8, "r", source, (result,))

    def _ask(self, verb: str, **request: str | int | bool) -> _Answer:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        line = ""
        try:
            self._child.stdin.write(json.dumps({"verb": verb, **request}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            pass  # it has ended; its last words are in the log
        if not line:
            self._log.seek(0)
            words = self._log.read().decode("utf-8", "replace").strip().splitlines()
            raise _refused(self._path, f"its process ended. Last words: {(words or ['none'])[-1]}")
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error:
            raise _refused(self._path, answer.error)
        return answer

    def write(self, array: npt.NDArray[np.generic]) -> None:
        self._input[:] = array.view(np.uint8).reshape(-1)
        self._ask("feed")

    def execute(self) -> None:
        self._ask("invoke")

    def read(self) -> npt.NDArray[np.generic]:
        self._ask("fetch")
        result = self.tensors[1]
        return np.array(self._output).view(result.dtype).reshape(result.shape)

    def time(self, runs: int) -> tuple[float, ...]:
        return self._ask("time", runs=runs).milliseconds

    def close(self) -> None:
        if self._child.poll() is None:
            self._ask("close")
        self._end()

    def _end(self) -> None:
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # the process has ended: there is nobody to tell
                    stream.close()
        if self._child.poll() is None:
            try:
                self._child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._log.close()
        self._folder.cleanup()
