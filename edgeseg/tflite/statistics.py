"""Runs a float graph on LiteRT and shows every activation of every image to an observer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias, cast

from edgeseg.errors import DataError
from edgeseg.session import Float32
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.runtime import Feed, LoadedGraph

__all__ = ["Watch", "activations", "collect"]

Watch: TypeAlias = Callable[[str, Float32], None]
"""Called with a tensor's name and its values; the array is only valid during the call."""


def activations(graph: TfGraph) -> tuple[str, ...]:
    """Names of all float32 tensors that are computed or fed, in execution order."""
    names = (*graph.inputs, *(name for op in graph.ops for name in op.outputs))
    return tuple(name for name in names if graph.tensors[name].dtype == "float32")


def collect(
    graph: TfGraph, inputs: Iterable[Feed], observe: Watch, *, names: Collection[str] | None = None, threads: int = 1
) -> int:
    """Show the activations of each image to ``observe``, image by image, in execution order within an image.

    The runtime computes all of them in one run with its default delegate: they are outputs of the file it runs. Memory does
    not grow with the number of images.

    Args:
        graph: float, not changed.
        inputs: the images, each in the shape of the graph's input.
        observe: gets a view of the runtime's memory, to be read and not kept.
        names: the tensors wanted; all float32 activations where None.
        threads: of the runtime.

    Returns:
        How many images were run.

    Raises:
        DataError: an input has the wrong shape, or there is none.
    """
    wanted = [name for name in activations(graph) if names is None or name in names]
    exposed = graph.copy()
    computed = [name for name in wanted if name not in graph.inputs]
    exposed.outputs = tuple(dict.fromkeys((*graph.outputs, *computed)))
    with LoadedGraph(exposed, threads=threads) as loaded:
        count = 0
        for feed in inputs:
            fed = loaded.feed(feed)
            loaded.invoke()
            for name in wanted:
                observe(name, cast(Float32, fed[name] if name in fed else loaded.view(name)))
            count += 1
    if count == 0:
        raise DataError("There are no images to gather statistics from.", hint="Give a calibration set.")
    return count
