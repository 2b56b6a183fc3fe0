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

__all__ = ["collect", "open_model", "run_images"]

_BUDGET = 256 * 2**20  # bytes of activations held at once


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

    Peak memory does not depend on the number of images: activations beyond 256 MiB are fetched in several runs per image.

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
    groups = list(_groups(view, [name for name in chosen if name not in view.inputs]))
    session = open_model(_with_outputs(view.model, [name for group in groups for name in group]), threads=threads)
    for x in inputs:
        feeds = feeds_of(session, x, pixels=pixels, layout=layout)
        for name in fed:
            observers[name].update(np.asarray(feeds[name], np.float32))
        for group in groups:
            for name, value in zip(group, session.run(group, feeds), strict=True):
                observers[name].update(value)
    if any(observer.images == 0 for observer in observers.values()):
        raise DataError("There is no calibration image.", hint="Give the calibration at least one image.")
    return observers


def open_model(model: onnx.ModelProto, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session on onnxruntime's CPU provider.

    Raises:
        ModelError: onnxruntime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
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


def _groups(view: GraphView, names: Sequence[str]) -> Iterator[list[str]]:
    """Runs of names whose float32 activations fit the budget together."""
    group: list[str] = []
    held = 0
    for name in names:
        size = 4 * abs(math.prod(view.shape(name) or (1,)))
        if group and held + size > _BUDGET:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with more outputs; its own come along, since onnxruntime wants at least one."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {item.name for item in copy.graph.output}
    for name in names:
        if name not in have:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    for item in copy.graph.output:
        if not item.type.WhichOneof("value"):
            item.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy
