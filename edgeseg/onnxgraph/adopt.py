"""Bringing a given ONNX file into edgeseg's form: batch 1, static, ``input`` and ``logits`` in NCHW."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import ModelError, SpecError, StageError
from edgeseg.facts import lower_ir_version
from edgeseg.outputs import choose_name, logits_layout
from edgeseg.spec import Layout, ModelSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["Adopted", "adopt"]

# Per-channel QuantizeLinear came with opset 13.
_LOWEST_OPSET = 13
_RESIZE_WITH_CENTERS = 11  # the opset from which Resize says where pixels' centres lie


@dataclass(frozen=True)
class Adopted:
    model: onnx.ModelProto
    notes: tuple[str, ...]


def adopt(path: Path, spec: ModelSpec, *, opset: int, output_name: str | None, stage: str) -> Adopted:
    """Read an ONNX file and fix its batch, sizes, names and layout to what the spec says.

    The opset is kept unless it is older than 13; then it becomes ``opset``.

    Raises:
        ModelError: the file is damaged, does not run, or has other inputs and outputs than a segmentation model.
        SpecError: its input or output does not fit the spec.
        StageError: its opset is too old and cannot be converted.
    """
    import onnx

    model = _load(path)
    lower_ir_version(model)
    notes: list[str] = []
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version < _LOWEST_OPSET:
        enlarged = {node.output[0] for node in model.graph.node if node.op_type in {"Upsample", "Resize"}}
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except Exception as error:
            raise StageError(
                f"{path} has opset {version}, and it cannot be converted to {opset}: {error}",
                hint=f"Export the model again with opset {_LOWEST_OPSET} or later.",
                stage=stage,
            ) from error
        if version < _RESIZE_WITH_CENTERS:
            _keep_asymmetric(model, enlarged)
        notes.append(f"opset {version} converted to {opset}")
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelError(
            f"{path} takes {len(inputs)} inputs ({', '.join(value.name for value in inputs)}); edgeseg compiles models "
            "that take one image.",
            hint="Make the other inputs constants.",
        )
    _fix_shape(inputs[0], spec, path)
    shapes = _run_shapes(model, inputs[0].name, spec, path)
    chosen = choose_name(shapes, output_name, what=str(path))
    layout = logits_layout(shapes[chosen], spec, what=str(path))
    _keep_only(graph, inputs[0], chosen)
    _rename(graph, inputs[0].name, "input", flip=spec.input.layout is Layout.NHWC, at_input=True)
    _rename(graph, chosen, "logits", flip=layout is Layout.NHWC, at_input=False)
    batch, *rest = shapes[chosen]
    final = (batch, *rest) if layout is Layout.NCHW else (batch, rest[2], rest[0], rest[1])
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, final))
    del graph.value_info[:]
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path} is not valid ONNX: {error}", hint="Export the model again.") from error
    return Adopted(model, tuple(notes))


def _keep_asymmetric(model: onnx.ModelProto, enlarged: set[str]) -> None:
    """Say of resizes from before opset 11 that they count from the corner, rounding down: onnx's converter leaves the newer
    operator's defaults, half pixels, in their place."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "Resize" and node.output[0] in enlarged:
            said = {one.name for one in node.attribute}
            meant = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            node.attribute.extend(helper.make_attribute(name, value) for name, value in meant.items() if name not in said)


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model: onnx.ModelProto = onnx.load_model(str(path))  # external data becomes part of the message
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is not valid ONNX: {error}", hint="Export the model again.") from error
    return model


def _fix_shape(value: onnx.ValueInfoProto, spec: ModelSpec, path: Path) -> None:
    import onnx

    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(
            f"{path}: input '{value.name}' is {onnx.TensorProto.DataType.Name(tensor.elem_type)}; float32 is needed.",
            hint="Start from the float model.",
        )
    declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    fits = len(declared) == 4 and all(have in (None, 0, want) for have, want in zip(declared, spec.input.shape, strict=True))
    if not fits:
        shown = tuple("?" if length is None else length for length in declared)
        raise SpecError(
            f"{path} takes an input of shape {shown}, but edgeseg.toml says {spec.input.shape}.",
            hint="Correct 'shape' and 'layout' under [input], or export the model for that size.",
        )
    for dim, length in zip(tensor.shape.dim, spec.input.shape, strict=True):
        dim.dim_value = length


def _run_shapes(model: onnx.ModelProto, name: str, spec: ModelSpec, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs, from a run: shape inference alone often ends at a Reshape."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {name: np.zeros(spec.input.shape, np.float32)})
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot run {path} on an input of shape {spec.input.shape}: {error}",
            hint="Correct 'shape' under [input] in edgeseg.toml, or export the model again.",
        ) from error
    return {key: tuple(value.shape) for key, value in zip(names, values, strict=True)}


def _keep_only(graph: onnx.GraphProto, source: onnx.ValueInfoProto, output: str) -> None:
    """Drop the other outputs (whose operators the simplifier removes) and initializers listed as inputs."""
    kept_input, kept_output = type(source)(), type(source)()
    kept_input.CopyFrom(source)
    kept_output.CopyFrom(next(value for value in graph.output if value.name == output))
    del graph.input[:], graph.output[:]
    graph.input.append(kept_input)
    graph.output.append(kept_output)


def _rename(graph: onnx.GraphProto, old: str, new: str, *, flip: bool, at_input: bool) -> None:
    """Give the graph's input or output its name; with ``flip`` a Transpose makes it NCHW."""
    import onnx

    value = graph.input[0] if at_input else graph.output[0]
    if old != new:
        _rename_tensor(graph, new, f"{new}_original")  # an inner tensor may have taken the name
    if not flip:
        _rename_tensor(graph, old, new)
        value.name = new
        return
    inner = f"{old}_nhwc"
    _rename_tensor(graph, old, inner)
    value.name = new
    if at_input:
        lengths = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for dim, length in zip(value.type.tensor_type.shape.dim, (lengths[0], lengths[3], *lengths[1:3]), strict=True):
            dim.dim_value = length
        graph.node.insert(0, onnx.helper.make_node("Transpose", [new], [inner], perm=[0, 2, 3, 1]))
    else:
        graph.node.append(onnx.helper.make_node("Transpose", [inner], [new], perm=[0, 3, 1, 2]))


def _rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename in the graph and in the bodies of its If and Loop operators, which see the outer names."""
    if old == new:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _rename_tensor(body, old, new)
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new
