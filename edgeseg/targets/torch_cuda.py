"""The baselines on an NVIDIA GPU: PyTorch in float32, TF32, float16, bfloat16 and compiled, and ONNX Runtime's CUDA provider."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeseg.errors import EnvironmentLack, ModelError, SpecError
from edgeseg.model import Model
from edgeseg.reference import nchw_shape, reference_module
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import Layout, ModelSpec
from edgeseg.tensor_io import input_array, logits_array

if TYPE_CHECKING:
    import onnxruntime
    import torch

__all__ = ["CudaMode", "CudaOptions", "OnnxCudaSession", "TorchCudaSession", "open_onnx_cuda", "open_torch_cuda"]

_WARM_UPS = 3  # PyTorch asks for a few runs on a side stream before it records a graph


class CudaMode(StrEnum):
    """The arithmetic. FP32 is true float32; TF32 rounds factors to 10 bits of significand; COMPILE is torch.compile in float16."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"
    COMPILE = "compile"


@dataclass(frozen=True)
class CudaOptions:
    """``graph``: record the run as a CUDA graph and replay it. ``batch``: the fed image that many times. ``compiled``: by
    torch.compile in the mode's arithmetic."""

    mode: CudaMode = CudaMode.FP32
    compiled: bool = False
    batch: int = 1
    graph: bool = False
    device: int = 0


class TorchCudaSession:
    """``edgeseg.session.Session`` on PyTorch's CUDA; ``open_torch_cuda`` makes one. ``invoke`` waits for the GPU."""

    def __init__(self, module: torch.nn.Module, example: torch.Tensor, info: SessionInfo, options: CudaOptions) -> None:

        self._module = module
        self._options = options
        self._info = info
        self._input = example
        self._output: torch.Tensor | None = None
        self._recorded: torch.cuda.CUDAGraph | None = None
        if options.graph:
            with self._here():
                self._record()

    def _here(self) -> torch.cuda.device:
        """Streams, events and graphs belong to the GPU that is current where they are made: this session's, not the thread's."""
        import torch

        return torch.cuda.device(self._options.device)

    def _record(self) -> None:
        import torch

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            self._forward()
        self._recorded = recorded

    def _forward(self) -> None:
        import torch

        tf32 = self._options.mode is CudaMode.TF32
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        with torch.inference_mode():
            self._output = self._module(self._input)

    def _launch(self) -> None:
        if self._recorded is not None:
            self._recorded.replay()
        else:
            self._forward()

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        import torch

        if x.values.shape[1:] != tuple(self._input.shape[1:]):
            raise SpecError(
                f"An image was prepared as {x.values.shape}, but the model takes {tuple(self._input.shape)}.",
                hint="Correct 'shape' under [input] in edgeseg.toml.",
            )
        self._input.copy_(torch.from_numpy(np.ascontiguousarray(x.values)))
        torch.cuda.synchronize(self._options.device)

    def invoke(self) -> None:
        import torch

        with self._here():
            self._launch()
        torch.cuda.synchronize(self._options.device)

    def fetch(self) -> Float32:
        if self._output is None:
            raise ModelError("No output to fetch.", hint="Call invoke() first.")
        return np.ascontiguousarray(self._output[:1].float().cpu().numpy(), dtype=np.float32)

    @property
    def device_clock(self) -> str:
        return "CUDA events"

    def device_times(self, runs: int) -> tuple[float, ...]:
        """Milliseconds of each of ``runs`` runs by CUDA events: the GPU's time for a whole batch."""
        import torch

        taken = []
        with self._here():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            for _ in range(runs):
                begin.record()
                self._launch()
                end.record()
                end.synchronize()
                taken.append(float(begin.elapsed_time(end)))
        return tuple(taken)

    def close(self) -> None:
        self._output = None
        self._recorded = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_torch_cuda(model: Model, spec: ModelSpec, options: CudaOptions | None = None) -> TorchCudaSession:
    """Open the trained model on a GPU.

    Raises:
        EnvironmentLack: PyTorch finds no GPU, or none of that index.
        ModelError: the model does not run there.
        SpecError: the model refuses the input that the spec describes.
    """
    import torch

    options = options or CudaOptions()
    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "finds no GPU"
        raise EnvironmentLack(
            f"PyTorch {torch.__version__} {why}.", hint="Install a CUDA build of PyTorch on a machine with an NVIDIA GPU."
        )
    if not 0 <= options.device < torch.cuda.device_count():
        raise EnvironmentLack(
            f"There is no GPU {options.device}; PyTorch sees {torch.cuda.device_count()}.",
            hint="Count from 0: --device cuda:0.",
        )
    module, output_shape = reference_module(model, spec)
    dtype = {CudaMode.FP16: torch.float16, CudaMode.COMPILE: torch.float16, CudaMode.BF16: torch.bfloat16}.get(
        options.mode, torch.float32
    )
    device = torch.device("cuda", options.device)
    shape = (options.batch, *nchw_shape(spec.input)[1:])
    try:
        module = module.to(device=device, dtype=dtype, memory_format=torch.channels_last)
        if options.compiled or options.mode is CudaMode.COMPILE:
            module = torch.compile(module)
        example = torch.zeros(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        info = SessionInfo(
            runtime=f"torch-{options.mode.value}{'-compile' if options.compiled else ''}{'-graph' if options.graph else ''}",
            version=str(torch.__version__),
            file=str(model.path),
            device=f"cuda:{options.device} {torch.cuda.get_device_name(device)}",
            inputs=(TensorInfo("input", str(dtype).removeprefix("torch."), shape),),
            outputs=(TensorInfo("logits", str(dtype).removeprefix("torch."), (options.batch, *output_shape[1:])),),
        )
        session = TorchCudaSession(module, example, info, options)
        session.invoke()
    except RuntimeError as error:
        raise ModelError(
            f"{model.path} does not run in {options.mode} on {device} with batch {options.batch}: {_first_line(error)}",
            hint="Exported programs keep the batch and type they were exported with; try batch 1, fp32, or the state_dict.",
        ) from error
    return session


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class OnnxCudaSession:
    """``edgeseg.session.Session`` on ONNX Runtime's CUDA provider, with input and output kept on the GPU."""

    def __init__(self, runner: onnxruntime.InferenceSession, info: SessionInfo, *, pixels: bool, device: int) -> None:
        self._runner = runner
        self._info = info
        self._pixels = pixels
        self._device = device
        self._binding = runner.io_binding()
        self._ran = False

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        import onnxruntime

        source, result = self._info.inputs[0], self._info.outputs[0]
        array = input_array(x, source, pixels=self._pixels, layout=Layout.NCHW)
        array = np.ascontiguousarray(np.repeat(array, source.shape[0], axis=0))
        self._binding.bind_ortvalue_input(source.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", self._device))
        self._binding.bind_output(result.name, "cuda", self._device)

    def invoke(self) -> None:
        self._runner.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        self._ran = True

    def fetch(self) -> Float32:
        if not self._ran:
            raise ModelError("No output to fetch.", hint="Call invoke() first.")
        return logits_array(self._binding.copy_outputs_to_cpu()[0][:1], self._info.outputs[0], layout=Layout.NCHW)

    def device_times(self, runs: int) -> tuple[float, ...]:
        """Milliseconds of each of ``runs`` runs by the host's clock, the wait for the GPU included: the stream is not ours."""
        taken = []
        for _ in range(runs):
            started = time.perf_counter_ns()
            self.invoke()
            taken.append((time.perf_counter_ns() - started) / 1e6)
        return tuple(taken)

    def close(self) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_onnx_cuda(path: Path, *, pixels: bool = False, device: int = 0) -> OnnxCudaSession:
    """Open an ONNX file on ONNX Runtime's CUDA provider; its batch is the file's.

    Raises:
        EnvironmentLack: this ONNX Runtime has no CUDA provider, or it does not start.
        ModelError: it refuses the file.
    """
    import onnxruntime

    hint = "Install onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA GPU, CUDA and cuDNN."
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise EnvironmentLack(f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider.", hint=hint)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        runner = onnxruntime.InferenceSession(
            str(path), options, providers=[("CUDAExecutionProvider", {"device_id": device}), "CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses {path}: {str(error).strip()}", hint="Build the file again.") from error
    if "CUDAExecutionProvider" not in runner.get_providers():
        # ONNX Runtime goes on with the CPU without an error where CUDA's libraries are missing.
        raise EnvironmentLack("ONNX Runtime's CUDA provider does not start.", hint=hint)
    source, result = runner.get_inputs()[0], runner.get_outputs()[0]
    types = {"tensor(float)": "float32", "tensor(float16)": "float16"}
    info = SessionInfo(
        runtime="onnxruntime-cuda",
        version=onnxruntime.__version__,
        file=str(path),
        device=f"cuda:{device}",
        inputs=(TensorInfo(source.name, types[source.type], tuple(source.shape)),),
        outputs=(TensorInfo(result.name, types[result.type], tuple(result.shape)),),
    )
    return OnnxCudaSession(runner, info, pixels=pixels, device=device)
