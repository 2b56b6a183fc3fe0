"""Stream a graph's activations through onnxruntime into observers, one image at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError, ModelError
from edgeseg.onnxgraph.view import GraphView, load_model
from edgeseg.quantize.observe import Observer
from edgeseg.session import Float32, ModelInput, TensorInfo
from edgeseg.spec import Layout
from edgeseg.tensor_io import input_array

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["collect", "feeds_of", "groups_within", "open_model", "run_images", "streamed"]

_BUDGET = 512 * 2**20  # bytes of activations held at once


def collect(
    path: Path,
    inputs: Iterable[ModelInput],
    *,
    tensors: Collection[str] | None = None,
    pixels: bool = False,
    layout: Layout = Layout.NCHW,
    threads: int = 1,
    channel_axis: int | None = None,
) -> dict[str, Observer]:
    """Observe float activations of an ONNX graph on every image.

    Peak memory does not depend on the number of images. Beyond 512 MiB of activations, each image is run several times, for
    some of the tensors at a time.

    Args:
        inputs: the prepared images; iterated once.
        tensors: names of activations; all float ones of the graph where None.
        pixels: the graph takes raw pixels.
        layout: of the graph's input.
        channel_axis: keep the extremes along this axis too.

    Returns:
        An observer per tensor, in execution order.

    Raises:
        ModelError: a name is unknown, or a tensor is not finite.
        DataError: there was no image.
    """
    view = GraphView(load_model(path))
    known = view.activations()
    unknown = sorted(set(tensors or ()) - set(known))
    if unknown:
        raise ModelError(f"{path} has no float activation '{unknown[0]}'.", hint="Name tensors as they are in this very file.")
    chosen = [name for name in known if tensors is None or name in tensors]
    observers = {name: Observer(name, axis=channel_axis) for name in chosen}
    fed = [name for name in chosen if name in view.inputs]
    groups = list(groups_within(view, [name for name in chosen if name not in view.inputs], _BUDGET)) or [list(view.outputs)]
    sessions = [open_model(_with_outputs(view.model, group), threads=threads, lean=True) for group in groups]
    for x in inputs:
        feeds = feeds_of(sessions[0], x, pixels=pixels, layout=layout)
        for name in fed:
            observers[name].update(np.asarray(feeds[name], np.float32))
        for group, session in zip(groups, sessions, strict=True):
            for name, value in zip(group, session.run(group, feeds), strict=True):
                if name in observers:
                    observers[name].update(value)
    if any(observer.images == 0 for observer in observers.values()):
        raise DataError("There is no calibration image.", hint="Give the calibration at least one image.")
    return observers


def open_model(model: onnx.ModelProto, *, threads: int = 1, lean: bool = False) -> onnxruntime.InferenceSession:
    """A session on onnxruntime's CPU provider.

    Args:
        lean: memory is given back after each run, and tensors are not kept in a second layout: half the peak where most tensors
            are outputs.

    Raises:
        ModelError: onnxruntime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if lean:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime refuses the graph: {str(error).strip()}", hint="Check it with onnx.checker, or export it again."
        ) from error


def feeds_of(
    session: onnxruntime.InferenceSession, x: ModelInput, *, pixels: bool, layout: Layout
) -> dict[str, npt.NDArray[np.generic]]:
    """One image as the session's only input takes it."""
    sources = session.get_inputs()
    if len(sources) != 1:
        raise ModelError(
            f"The graph takes {len(sources)} inputs; a segmentation model takes one image.",
            hint="Make the other inputs constants.",
        )
    dtype = {"tensor(uint8)": "uint8", "tensor(int8)": "int8"}.get(sources[0].type, "float32")
    info = TensorInfo(sources[0].name, dtype, ())
    return {info.name: input_array(x, info, pixels=pixels, layout=layout)}


def streamed(model: onnx.ModelProto, images: Iterable[ModelInput], *, pixels: bool, layout: Layout) -> Iterator[Float32]:
    """The graph's first output, float32, of one image after the other."""
    session = open_model(model)
    name = session.get_outputs()[0].name
    for image in images:
        output: Float32 = session.run([name], feeds_of(session, image, pixels=pixels, layout=layout))[0]
        yield output


def run_images(
    model: onnx.ModelProto,
    inputs: Sequence[ModelInput],
    *,
    output: str | None = None,
    pixels: bool = False,
    layout: Layout = Layout.NCHW,
    threads: int = 1,
) -> list[Float32]:
    """A graph's float output (the first, or the one named) for every image."""
    session = open_model(model, threads=threads)
    name = output or session.get_outputs()[0].name
    return [session.run([name], feeds_of(session, x, pixels=pixels, layout=layout))[0] for x in inputs]


def groups_within(view: GraphView, names: Sequence[str], budget: int) -> Iterator[list[str]]:
    """Names in order, in groups whose float32 tensors take at most ``budget`` bytes each (a larger tensor is alone)."""
    group: list[str] = []
    held = 0
    for name in names:
        size = 4 * abs(math.prod(view.shape(name) or (1,)))
        if group and held + size > budget:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these float tensors for outputs; what only others need is not computed."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        item = onnx.helper.make_empty_tensor_value_info(name)
        item.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        copy.graph.output.append(item)
    return copy
