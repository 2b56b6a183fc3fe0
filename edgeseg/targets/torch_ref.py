"""The trained model itself, run by PyTorch on the CPU: eager in float32, which is the reference, or in another of its ways."""

from __future__ import annotations

import os
import shutil
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeseg.errors import EdgesegError, EnvironmentLack, ModelError, SpecError
from edgeseg.model import Model
from edgeseg.reference import nchw_shape, reference_module
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import ModelSpec
from edgeseg.targets.torch_variant import EAGER, TorchVariant

if TYPE_CHECKING:
    import torch

__all__ = ["TorchSession", "open_torch"]


class TorchSession:
    """``edgeseg.session.Session`` on PyTorch."""

    def __init__(self, module: torch.nn.Module, info: SessionInfo, example: torch.Tensor) -> None:
        self._module = module
        self._info = info
        self._input = example
        self._output: torch.Tensor | None = None

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        import torch

        if x.values.shape != tuple(self._input.shape):
            raise SpecError(
                f"An image was prepared as {x.values.shape}, but the model takes {tuple(self._input.shape)}.",
                hint="Correct 'shape' under [input] in edgeseg.toml.",
            )
        self._input.copy_(torch.from_numpy(np.ascontiguousarray(x.values)))

    def invoke(self) -> None:
        import torch

        with torch.inference_mode():
            self._output = self._module(self._input)

    def fetch(self) -> Float32:
        if self._output is None:
            raise ModelError("No output to fetch.", hint="Call invoke() first.")
        return np.ascontiguousarray(self._output.float().numpy(), dtype=np.float32)

    def close(self) -> None:
        self._output = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_torch(model: Model, spec: ModelSpec, *, threads: int = 1, variant: TorchVariant = EAGER) -> TorchSession:
    """Open the trained model on PyTorch and try it once on zeros.

    Args:
        threads: PyTorch's intra-operator threads; they are set for the whole process.
        variant: another than eager float32 changes ``model``: load it again for the next one.

    Raises:
        ModelError: the model has no PyTorch network, its logits cannot be told from its other outputs, or it does not run in
            this variant.
        SpecError: the model refuses the input that the spec describes, or its output does not fit the spec.
        EnvironmentLack: torch.compile needs a C++ compiler, and there is none.
    """
    import torch

    torch.set_num_threads(threads)
    module, output_shape = reference_module(model, spec)
    shape = nchw_shape(spec.input)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(variant.precision, torch.float32)
    element = str(dtype).removeprefix("torch.")
    info = SessionInfo(
        runtime="torch" if variant == EAGER else f"torch-{variant.label.replace('+', '-')}",
        version=str(torch.__version__),
        file=str(model.path),
        threads=threads,
        inputs=(TensorInfo("input", element, shape),),
        outputs=(TensorInfo("logits", element, output_shape),),
    )
    example = torch.zeros(shape, dtype=dtype)
    if variant == EAGER:
        return TorchSession(module, info, example)
    return TorchSession(_in_variant(module, example, model, variant), info, example)


def _in_variant(module: torch.nn.Module, example: torch.Tensor, model: Model, variant: TorchVariant) -> torch.nn.Module:
    """The module in another precision or compiled, run once so that whatever it cannot do is known now."""
    import torch

    if variant.needs_cuda:
        raise EnvironmentLack(f"PyTorch's '{variant.label}' needs a GPU.", hint="Add --device cuda on a machine with one.")
    if variant.compiled:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None and shutil.which("clang++") is None:
            raise EnvironmentLack(
                f"torch.compile needs a C++ compiler, and neither {compiler} nor clang++ is here.",
                hint="Install g++ (Debian: apt-get install g++), or leave 'compile' out of --torch.",
            )
    try:
        module = module.to(example.dtype)
        compiled = _compiled(module) if variant.compiled else module
        with torch.inference_mode():
            compiled(example)
    except EdgesegError:
        raise
    except Exception as error:  # whatever a compiler and foreign code raise
        raise ModelError(
            f"{model.path} does not run as {variant.label}: {type(error).__name__}: {_first_line(error)}",
            hint="Exported programs and scripts may hold the element type that they were made with; leave this variant out.",
        ) from error
    return compiled


def _compiled(module: torch.nn.Module) -> torch.nn.Module:
    """By the default compiler of torch.compile; counts what it captured, since it runs as it is what it does not understand."""
    import torch
    from torch._inductor.compile_fx import compile_fx

    seen = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nonlocal seen
        seen += 1
        return compile_fx(graph, inputs)

    compiled = torch.compile(module, backend=backend)

    class Checked(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = compiled(x)
            if not seen:
                raise ModelError(
                    "torch.compile captured nothing of this model and runs it as it is (a TorchScript file?).",
                    hint="Compile the .pt2 or the state_dict of the same model, or leave 'compile' out of --torch.",
                )
            return result

    return Checked()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
