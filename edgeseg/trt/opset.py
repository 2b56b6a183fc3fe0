"""ONNX versions and batch sizes: one graph in the forms that TensorRT's versions read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import StageError
from edgeseg.onnxgraph.view import GraphView, attribute
from edgeseg.session import Float32

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["HALF_OPSET", "LEAST_DB", "WEAK_OPSET", "as_written", "at_opset", "decibel", "with_batch"]

WEAK_OPSET = 17
"""The newest that TensorRT 8.5 and 8.6 read; 10 and 11 read it as well."""

HALF_OPSET = 19
"""The oldest in which QuantizeLinear takes float16; TensorRT 10 and 11 read it."""


_SET_ASIDE = "edgeseg.unchanged"
_STANDARD = {"", "ai.onnx"}


def at_opset(model: onnx.ModelProto, version: int, *, stage: str) -> onnx.ModelProto:
    """A copy in another opset.

    Raises:
        StageError: an operator has no equal in that opset.
    """
    import onnx

    copy = onnx.ModelProto()
    if GraphView(model).opset == version:
        copy.CopyFrom(model)
        return copy
    try:
        return _converted(model, version)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageError(
            f"the graph has opset {GraphView(model).opset} and cannot be written in {version}: {reason}",
            hint=f"Export it with opset {version}.",
            stage=stage,
        ) from error


def _converted(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """A copy by ONNX's converter, past what it stumbles over."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        # Written by PyTorch with its default, for which opset 17 has no attribute; the converter would keep it.
        if node.op_type.startswith("Reduce") and not attribute(node, "noop_with_empty_axes", 0):
            kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
    copy = _spelled_out(copy, version)
    view = GraphView(copy)
    aside = [node for node in copy.graph.node if node.op_type == "Pad" and len(node.input) < 4]
    aside += [node for node in copy.graph.node if node.op_type == "Split" and _with_lengths(view, copy, node)]
    # Opset 18 gave these kinds what they do not use here; the converter knows no way back, but leaves other domains be.
    for node in aside:
        node.domain = _SET_ASIDE
    if aside:
        copy.opset_import.append(onnx.helper.make_opsetid(_SET_ASIDE, 1))
    converted = onnx.version_converter.convert_version(copy, version)
    for node in converted.graph.node:
        if node.domain == _SET_ASIDE:
            node.domain = ""
    used = [imported for imported in converted.opset_import if imported.domain != _SET_ASIDE]
    del converted.opset_import[:]
    converted.opset_import.extend(used)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _spelled_out(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model with operators that are younger than ``version`` (Mish, Gelu, GroupNormalization) written in older ones, by the
    body that ONNX defines for each; itself where there are none. One without a body stays, and the converter names it."""
    import onnx
    import onnx.inliner

    young = {
        node.op_type for node in model.graph.node if node.domain in _STANDARD and not onnx.defs.has(node.op_type, version, "")
    }
    if not young:
        return model
    # The body depends on the types of the inputs, and constants tell theirs nowhere else.
    for tensor in model.graph.initializer:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    functions = [("", kind) for kind in sorted(young)]
    spelled = onnx.inliner.inline_selected_functions(model, functions, inline_schema_functions=True)
    spelled = onnx.shape_inference.infer_shapes(spelled, strict_mode=True, data_prop=True)
    _drop_idle_casts(spelled)
    return spelled


def _drop_idle_casts(model: onnx.ModelProto) -> None:
    """Bodies cast their constants to the type of the input, which they have already."""
    import onnx

    known = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    types = {item.name: item.type.tensor_type.elem_type for item in known}
    outputs = {item.name for item in model.graph.output}
    same: dict[str, str] = {}
    for node in list(model.graph.node):
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type != "CastLike" or node.output[0] in outputs:
            continue
        before, like = (types.get(name, onnx.TensorProto.UNDEFINED) for name in node.input)
        if before == like != onnx.TensorProto.UNDEFINED:
            same[node.output[0]] = node.input[0]
            model.graph.node.remove(node)


def _with_lengths(view: GraphView, model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Give a Split its lengths as an input, in place of their number: what opset 13 to 17 read. False where they are not known."""
    import onnx

    if len(node.input) > 1 and node.input[1]:
        return True
    shape = view.shape(node.input[0])
    axis = attribute(node, "axis", 0)
    if shape is None or shape[axis] < 1:
        return False
    most = -(-shape[axis] // len(node.output))
    lengths = [min(most, shape[axis] - place * most) for place in range(len(node.output))]
    name = f"{node.output[0]}_lengths"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(lengths, np.int64), name))
    del node.input[1:]
    node.input.append(name)
    others = [a for a in node.attribute if a.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(others)
    return True


def with_batch(model: onnx.ModelProto, batch: int | None, *, stage: str) -> onnx.ModelProto:
    """A copy for another batch size, or for any (None), of a graph made for one image or any; proved on onnxruntime.

    Raises:
        StageError: the graph mixes its images, or holds the batch in a way that is not found.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    view = GraphView(model)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.op_type == "Reshape":
            _free_first_length(view, copy, node)
        elif node.op_type == "Resize":
            nodes += _sizes_from_input(view, copy, node)
        nodes.append(node)
    rewritten = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(rewritten)
    for value in (copy.graph.input[0], *copy.graph.output):
        _set_batch(value, None)
    _prove(model, copy, stage)
    if batch is not None:
        for value in (copy.graph.input[0], *copy.graph.output):
            _set_batch(value, batch)
    onnx.checker.check_model(copy)
    return copy


def _set_batch(value: onnx.ValueInfoProto, batch: int | None) -> None:
    dim = value.type.tensor_type.shape.dim[0]
    if batch is None:
        dim.dim_param = "batch"
    else:
        dim.dim_value = batch


def _free_first_length(view: GraphView, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A Reshape whose first length follows from the others: the batch is the outermost factor, whatever it is merged with."""
    import onnx

    lengths = view.shape(node.output[0])
    if not view.is_constant(node.input[1]) or not lengths or min(lengths) < 1:
        return
    name = f"{node.output[0]}_any_batch"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([-1, *lengths[1:]], np.int64), name))
    node.input[1] = name


def _sizes_from_input(view: GraphView, model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that give a Resize its sizes: the batch of its input, then the lengths it was written with."""
    import onnx

    sizes = view.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if sizes is None or sizes.size != 4:
        return []
    rest, batch, joined = (f"{node.output[0]}_{what}" for what in ("lengths", "batch", "sizes"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes.ravel()[1:].astype(np.int64), rest))
    source = node.input[0]
    node.input[3] = joined
    return [
        onnx.helper.make_node("Shape", [source], [batch], name=batch, start=0, end=1),
        onnx.helper.make_node("Concat", [batch, rest], [joined], name=joined, axis=0),
    ]


_PROVED = (2, 3)
"""Images a run with which a graph for any batch is proved."""


LEAST_DB = {False: 50.0, True: 25.0}
"""Between images in one run and one by one, without and with pairs: sums in another order turn some roundings to int8 over."""


def _prove(single: onnx.ModelProto, several: onnx.ModelProto, stage: str) -> None:
    """Images in one run must give what they give one by one."""
    source = single.graph.input[0]
    shape = tuple(dim.dim_value for dim in source.type.tensor_type.shape.dim)
    images = np.random.default_rng(0).normal(0, 1, (max(_PROVED), *shape[1:])).astype(np.float32)
    least = LEAST_DB[any(node.op_type == "QuantizeLinear" for node in single.graph.node)]
    reason = ""
    try:
        one, many = as_written(single), as_written(several)
        wanted = np.concatenate([one.run(None, {source.name: image[None]})[0] for image in images])
        for count in _PROVED:
            got = many.run(None, {source.name: images[:count]})[0]
            if got.shape != (count, *wanted.shape[1:]) or decibel(wanted[:count], got) < least:
                reason = f"{count} images together give another result than one by one"
    except Exception as error:  # noqa: BLE001 - onnxruntime raises classes of its own
        reason = str(error).strip().splitlines()[0]
    if reason:
        raise StageError(
            f"the graph cannot run more than one image at once: {reason}",
            hint="Build the engine for batch 1, or export the model with a dynamic batch.",
            stage=stage,
        )


def decibel(wanted: Float32, got: Float32) -> float:
    """Signal over difference, each as a power; 999 where there is none."""
    difference = float(np.sum(np.square(got.astype(np.float64) - wanted)))
    return (
        999.0
        if difference == 0
        else 10 * math.log10(max(float(np.sum(np.square(wanted.astype(np.float64)))), 1e-300) / difference)
    )


def as_written(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Without onnxruntime's graph optimizations, which may differ between a static and a dynamic batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
