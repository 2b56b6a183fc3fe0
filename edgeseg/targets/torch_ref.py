"""The reference: the trained model itself, run by PyTorch on the CPU."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeseg.errors import ModelError, SpecError
from edgeseg.model import Model
from edgeseg.reference import nchw_shape, reference_module
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["TorchSession", "open_torch"]


class TorchSession:
    """``edgeseg.session.Session`` on PyTorch eager."""

    def __init__(self, module: torch.nn.Module, info: SessionInfo, shape: tuple[int, int, int, int]) -> None:
        import torch

        self._module = module
        self._info = info
        self._input = torch.zeros(shape)
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
        return np.ascontiguousarray(self._output.numpy(), dtype=np.float32)

    def close(self) -> None:
        self._output = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_torch(model: Model, spec: ModelSpec, *, threads: int = 1) -> TorchSession:
    """Open the trained model on PyTorch and try it once on zeros.

    Args:
        threads: PyTorch's intra-operator threads; they are set for the whole process.

    Raises:
        ModelError: the model has no PyTorch network, or its logits cannot be told from its other outputs.
        SpecError: the model refuses the input that the spec describes, or its output does not fit the spec.
    """
    import torch

    torch.set_num_threads(threads)
    module, output_shape = reference_module(model, spec)
    shape = nchw_shape(spec.input)
    info = SessionInfo(
        runtime="torch",
        version=str(torch.__version__),
        file=str(model.path),
        threads=threads,
        inputs=(TensorInfo("input", "float32", shape),),
        outputs=(TensorInfo("logits", "float32", output_shape),),
    )
    return TorchSession(module, info, shape)
