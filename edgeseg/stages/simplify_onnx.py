"""Constant folding and clean-up of an ONNX graph, until every tensor has a static shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import OutputError, StageError, missing_extra
from edgeseg.graph import Format, Graph

if TYPE_CHECKING:
    import onnx

__all__ = ["SimplifyResult", "simplify"]

STAGE = "simplify_onnx"


@dataclass(frozen=True)
class SimplifyResult:
    graph: Graph
    nodes_before: int
    nodes_after: int


def simplify(graph: Graph, out: Path) -> SimplifyResult:
    """Simplify an ONNX graph with onnxslim and infer every shape.

    The numbers are unchanged up to float rounding (constants are folded, a batch norm right after a convolution too).

    Raises:
        StageError: onnxslim fails, the result is not valid ONNX, or a tensor's shape stays unknown.
        OutputError: ``out`` cannot be written.
        EnvironmentLack: onnxslim is not installed.
    """
    try:
        import onnxslim
    except ImportError as error:
        raise missing_extra("onnxslim", "torch", "to simplify an ONNX graph") from error
    import onnx

    model = onnx.load_model(str(graph.path))
    before = len(model.graph.node)
    try:
        slim = onnxslim.slim(model)
        slim = onnx.shape_inference.infer_shapes(slim, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(slim, full_check=True)
    except Exception as error:
        raise StageError(
            f"onnxslim failed on {graph.path.name}: {type(error).__name__}: {error}",
            hint="Export the model with another opset, or give edgeseg an ONNX file that is simplified already.",
            stage=STAGE,
        ) from error
    unknown = _without_static_shape(slim.graph)
    if unknown:
        raise StageError(
            f"{len(unknown)} tensors have no static shape ({', '.join(unknown[:3])}).",
            hint="Make the model's computations independent of the image's content: no size that is computed from it.",
            stage=STAGE,
        )
    try:
        onnx.save_model(slim, str(out))
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {error.strerror}.", hint="Check the folder's permissions and free space."
        ) from error
    return SimplifyResult(Graph.of(out, Format.ONNX, pixels=graph.pixels), before, len(slim.graph.node))


def _without_static_shape(graph: onnx.GraphProto) -> list[str]:
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    names = [name for node in graph.node for name in node.output if name]
    return [name for name in names if name not in values or not _is_static(values[name])]


def _is_static(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
