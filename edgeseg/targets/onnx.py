"""ONNX files on ONNX Runtime's CPU provider."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from edgeseg.errors import ModelError, SpecError
from edgeseg.outputs import choose_name
from edgeseg.session import Float32, ModelInput, SessionInfo, TensorInfo
from edgeseg.spec import Layout
from edgeseg.tensor_io import as_labels, input_array, logits_array

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["OnnxSession", "open_onnx"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
}


class OnnxSession:
    """``edgeseg.session.Session`` on ONNX Runtime; ``open_onnx`` makes one."""

    def __init__(
        self,
        runner: onnxruntime.InferenceSession,
        info: SessionInfo,
        *,
        pixels: bool,
        input_layout: Layout,
        output_layout: Layout,
        profile_folder: tempfile.TemporaryDirectory[str] | None,
    ) -> None:
        self._runner = runner
        self._info = info
        self._pixels = pixels
        self._input_layout = input_layout
        self._output_layout = output_layout
        self._profile_folder = profile_folder
        self._output: npt.NDArray[np.generic] | None = None
        self._feeds: dict[str, npt.NDArray[np.generic]] = {}

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        target = self._info.inputs[0]
        array = input_array(x, target, pixels=self._pixels, layout=self._input_layout)
        if any(have != want for have, want in zip(array.shape, target.shape, strict=True) if want > 0):
            raise SpecError(
                f"{self._info.file} takes {target.shape} ({self._input_layout}), but an image was prepared as {array.shape}.",
                hint="Correct 'shape' under [input] in edgeseg.toml.",
            )
        self._feeds = {target.name: array}

    def invoke(self) -> None:
        self._output = self._runner.run([self._info.outputs[0].name], self._feeds)[0]

    def fetch(self) -> Float32:
        if self._output is None:
            raise ModelError("No output to fetch.", hint="Call invoke() first.")
        return logits_array(self._output, self._info.outputs[0], layout=self._output_layout)

    def finish_profile(self) -> Path:
        """End profiling and give ONNX Runtime's trace file (JSON), which lives until ``close``.

        Raises:
            ModelError: the session was not opened with ``profile=True``.
        """
        if self._profile_folder is None:
            raise ModelError(f"{self._info.file} was opened without profiling.", hint="Open it with profile=True.")
        return Path(self._runner.end_profiling())

    def close(self) -> None:
        self._output = None
        self._feeds = {}
        if self._profile_folder is not None:
            self._profile_folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_onnx(
    path: Path,
    *,
    threads: int = 1,
    pixels: bool = False,
    profile: bool = False,
    optimise: bool = True,
    input_layout: Layout = Layout.NCHW,
    output_layout: Layout = Layout.NCHW,
    output_name: str | None = None,
    labels: bool = False,
    any_output: bool = False,
) -> OnnxSession:
    """Open an ONNX file.

    Args:
        pixels: the file takes raw pixels (normalisation inside it), not normalised values.
        optimise: as an application would; False runs every operator as the file says: Q/DQ around float operators, no fusions.
        profile: record every operator's time; see ``OnnxSession.finish_profile``.
        input_layout, output_layout: how the file's tensors are ordered.
        output_name: the output with the logits, where there are several.
        labels: the output holds class indices, which are given as they are.
        any_output: the output may be of any type (a file that is timed and not judged).

    Raises:
        ModelError: ONNX Runtime refuses the file, or its inputs and outputs are not those of a segmentation model.
    """
    import onnxruntime

    folder: tempfile.TemporaryDirectory[str] | None = None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile:
        folder = tempfile.TemporaryDirectory(prefix="edgeseg-profile-")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder.name) / "onnxruntime")
    if not path.is_file():
        raise ModelError(f"There is no file {path}.", hint="Check the path of the ONNX file.")
    try:
        runner = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime refuses {path}: {str(error).strip()}", hint="Check it with onnx.checker, or build it again."
        ) from error
    if len(runner.get_inputs()) != 1:
        raise ModelError(
            f"{path} takes {len(runner.get_inputs())} inputs; a segmentation model takes one image.",
            hint="Make the other inputs constants.",
        )
    shapes = {item.name: _shape(item.shape) for item in runner.get_outputs()}
    chosen = choose_name(shapes, output_name, what=str(path))
    source, result = runner.get_inputs()[0], next(o for o in runner.get_outputs() if o.name == chosen)
    types = {source.type} if labels else {source.type, result.type}
    graph = _integer_graph(path) if types & {"tensor(uint8)", "tensor(int8)"} else None
    given = _output(result, path, _output_affine(graph, chosen) if graph and not labels else None, any_output)
    info = SessionInfo(
        runtime="onnxruntime",
        version=onnxruntime.__version__,
        file=str(path),
        threads=threads,
        inputs=(_tensor(source, path, _input_affine(graph, source.name) if graph else None),),
        outputs=(as_labels(given) if labels else given,),
    )
    return OnnxSession(
        runner,
        info,
        pixels=pixels,
        input_layout=input_layout,
        output_layout=output_layout,
        profile_folder=folder,
    )


def _shape(declared: list[int | str | None]) -> tuple[int, ...]:
    """Static lengths, and -1 for dynamic ones."""
    return tuple(length if isinstance(length, int) else -1 for length in declared)


def _tensor(node: onnxruntime.NodeArg, path: Path, affine: tuple[float, int] | None) -> TensorInfo:
    if node.type not in _DTYPES:
        raise ModelError(
            f"{path}: tensor '{node.name}' is {node.type}; edgeseg runs {', '.join(_DTYPES)}.",
            hint="Cast it inside the model.",
        )
    shape = _shape(node.shape)
    if affine is None:
        return TensorInfo(node.name, _DTYPES[node.type], shape)
    return TensorInfo(node.name, _DTYPES[node.type], shape, (affine[0],), (affine[1],))


def _output(node: onnxruntime.NodeArg, path: Path, affine: tuple[float, int] | None, any_output: bool) -> TensorInfo:
    if any_output and affine is None and node.type not in {"tensor(float)", "tensor(float16)"}:
        return TensorInfo(node.name, node.type, _shape(node.shape))  # no scale: handed on as it is
    return _tensor(node, path, affine)


def _integer_graph(path: Path) -> onnx.GraphProto:
    import onnx

    return onnx.load_model(str(path)).graph


def _input_affine(graph: onnx.GraphProto, name: str) -> tuple[float, int] | None:
    """Scale and zero point of an integer input: those of the DequantizeLinear that reads it."""
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == name:
            return _parameters(graph, node)
    return None


def _output_affine(graph: onnx.GraphProto, name: str) -> tuple[float, int] | None:
    """Scale and zero point of an integer output: those of the QuantizeLinear that writes it."""
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] == name:
            return _parameters(graph, node)
    return None


def _parameters(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[float, int] | None:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = [numpy_helper.to_array(constants[name]) for name in node.input[1:3] if name in constants]
    if not values or values[0].size != 1:
        return None
    zero_point = int(values[1].item()) if len(values) > 1 else 0
    return float(values[0].item()), zero_point
