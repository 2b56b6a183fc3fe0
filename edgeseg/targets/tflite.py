"""TFLite files on LiteRT (XNNPACK by default)."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ModelError, SpecError, missing_extra
from edgeseg.noise import captured_stderr
from edgeseg.outputs import choose_name
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import Layout
from edgeseg.tensor_io import as_labels, input_array, logits_array

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

__all__ = ["TfliteSession", "open_tflite"]


class _Parameters(TypedDict):
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int32]
    quantized_dimension: int


class _Detail(TypedDict):
    """What LiteRT tells about a tensor."""

    name: str
    index: int
    shape: npt.NDArray[np.int32]
    dtype: type[np.generic]
    quantization_parameters: _Parameters


class TfliteSession:
    """``edgeseg.session.Session`` on LiteRT; ``open_tflite`` makes one."""

    def __init__(
        self,
        interpreter: Interpreter,
        info: SessionInfo,
        *,
        input_index: int,
        output_index: int,
        pixels: bool,
        output_layout: Layout | None,
    ) -> None:
        self._interpreter = interpreter
        self._info = info
        self._input_index = input_index
        self._output_index = output_index
        self._pixels = pixels
        self._output_layout = output_layout
        self._input_layout = Layout.NHWC

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        target = self._info.inputs[0]
        _, channels, height, width = x.values.shape
        if target.shape == (1, height, width, channels):
            self._input_layout = Layout.NHWC
        elif target.shape == (1, channels, height, width):
            self._input_layout = Layout.NCHW
        else:
            raise SpecError(
                f"{self._info.file} takes {target.shape}, but an image was prepared as {height}x{width} with "
                f"{channels} channels.",
                hint="Correct 'shape' under [input] in edgeseg.toml.",
            )
        self._interpreter.set_tensor(self._input_index, input_array(x, target, pixels=self._pixels, layout=self._input_layout))

    def invoke(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> Float32:
        array = self._interpreter.get_tensor(self._output_index)
        return logits_array(array, self._info.outputs[0], layout=self._output_layout or self._input_layout)

    def close(self) -> None:
        """Nothing to do: the interpreter goes with the session."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_tflite(
    path: Path,
    *,
    threads: int = 1,
    delegate: bool = True,
    pixels: bool = False,
    output_layout: Layout | None = None,
    output_name: str | None = None,
    labels: bool = False,
    any_output: bool = False,
) -> TfliteSession:
    """Open a TFLite file.

    Whether the file takes NHWC or NCHW is seen from the first image.

    Args:
        delegate: run on XNNPACK, as an application would; False runs LiteRT's own kernels.
        pixels: the file takes raw pixels (normalisation inside it), not normalised values.
        output_layout: how the output is ordered; None means as the input.
        output_name: the output with the logits, where there are several.
        labels: the output holds class indices, which are given as they are.
        any_output: the output may be of any type (a file that is timed and not judged).

    Raises:
        ModelError: LiteRT refuses the file, or its inputs and outputs are not those of a segmentation model.
        EnvironmentLack: LiteRT is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise missing_extra("ai_edge_litert", "tflite", f"to run {path}") from error

    if not path.is_file():
        raise ModelError(f"There is no file {path}.", hint="Check the path of the TFLite file.")
    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with captured_stderr() as messages:
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=threads, experimental_op_resolver_type=resolver)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"LiteRT refuses {path}: {_message(error, messages())}",
                hint="The file is damaged, or uses an operator in a way that LiteRT does not run. Build it again.",
            ) from error
    sources: list[_Detail] = interpreter.get_input_details()
    results: list[_Detail] = interpreter.get_output_details()
    if len(sources) != 1:
        raise ModelError(
            f"{path} takes {len(sources)} inputs; a segmentation model takes one image.",
            hint="Make the other inputs constants.",
        )
    shapes = {detail["name"]: tuple(int(n) for n in detail["shape"]) for detail in results}
    chosen = choose_name(shapes, output_name, what=str(path))
    result = next(detail for detail in results if detail["name"] == chosen)
    shown = _tensor(result)
    if labels:
        shown = as_labels(shown)
    elif any_output:
        shown = _handed_on(shown)
    info = SessionInfo(
        runtime="litert",
        version=importlib.metadata.version("ai-edge-litert"),
        file=str(path),
        threads=threads,
        inputs=(_tensor(sources[0]),),
        outputs=(shown,),
    )
    return TfliteSession(
        interpreter,
        info,
        input_index=sources[0]["index"],
        output_index=result["index"],
        pixels=pixels,
        output_layout=output_layout,
    )


def _message(error: Exception, written: str) -> str:
    """LiteRT's exception, and what it wrote to stderr beside it, which is often the more telling half."""
    said = [str(error), *(line.removeprefix("ERROR:") for line in written.splitlines() if line.startswith("ERROR:"))]
    return "; ".join(dict.fromkeys(line.strip().rstrip(".") for line in said)) + "."


def _handed_on(tensor: TensorInfo) -> TensorInfo:
    """An integer output without a scale is a decision, not logits: it is fetched as it is."""
    return tensor if tensor.scale or tensor.dtype.startswith("float") else replace(tensor, dtype=f"unscaled {tensor.dtype}")


def _tensor(detail: _Detail) -> TensorInfo:
    parameters = detail["quantization_parameters"]
    scales = tuple(float(scale) for scale in parameters["scales"])
    return TensorInfo(
        name=detail["name"],
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(int(length) for length in detail["shape"]),
        scale=scales,
        zero_point=tuple(int(point) for point in parameters["zero_points"]),
        axis=parameters["quantized_dimension"] if len(scales) > 1 else None,
    )
