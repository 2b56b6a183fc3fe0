"""Statistics of every activation, computed by the runtime itself while the network runs.

Showing an activation to Python makes it an output of the file: its memory is not used again, and everything is read a second
time when the caches have long lost it. A REDUCE_MIN, a REDUCE_MAX and a strided sample behind each activation are run by the
delegate while the values are at hand, and only they leave the runtime.

The sample is taken by a depthwise 1x1 convolution with weights of one and a stride: exact, every channel alike, rows and
columns an odd number apart, so that no pattern of blocks (a depth-to-space's, a stride's) hides from it. Small tensors, and
those that are not maps, are shown whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np

from edgeseg.errors import DataError, ModelError
from edgeseg.quantize.observe import SAMPLE, Observer, sample
from edgeseg.session import Float32
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.graph import TfGraph, TfOp
from edgeseg.tflite.runtime import Feed, LoadedGraph
from edgeseg.tflite.statistics import activations
from edgeseg.tflite.support import RULES

__all__ = ["summarise"]

_SHOWN = SAMPLE // 2  # sampled of an image: binning more would cost more than the network itself where tensors are many
_WHOLE = SAMPLE  # elements up to which a tensor is shown as it is
_PADDING_VALID = 1
_MOVES = frozenset({"CONCATENATION", "DEPTH_TO_SPACE", "PAD", "RESHAPE", "SPACE_TO_DEPTH", "TRANSPOSE"})


@dataclass(frozen=True)
class _Part:
    """Where to read of a tensor.

    Attributes:
        sample: the output that holds some of its values, or all.
        place: of its extremes among all those that the runtime finds.
        sources: or tensors whose extremes it has, since its operator only moves values (and puts zeros between them, ``zeros``).
    """

    sample: str
    place: int | None = None
    sources: tuple[str, ...] = ()
    zeros: bool = False

    def extremes(self, found: Mapping[str, tuple[float, float]], lows: list[float], highs: list[float]) -> tuple[float, float]:
        if self.place is not None:
            return lows[self.place], highs[self.place]
        known = [found[source] for source in self.sources] + ([(0.0, 0.0)] if self.zeros else [])
        # Not min() of the floats: it would lose a NaN.
        return float(np.min([one[0] for one in known])), float(np.max([one[1] for one in known]))


def summarise(graph: TfGraph, inputs: Iterable[Feed], observers: Mapping[str, Observer], *, threads: int = 1) -> int:
    """Update the observer of each activation with every image. Memory does not grow with the number of images.

    Args:
        graph: float, not changed.
        inputs: the images, each in the shape of the graph's input.
        observers: by tensor; without a channel axis.
        threads: of the runtime.

    Returns:
        How many images were run.

    Raises:
        DataError: an input has the wrong shape, or there is none.
        ModelError: a tensor is not finite.
    """
    wanted = [name for name in activations(graph) if name in observers]
    extended, parts, ends = _extended(graph, [name for name in wanted if name not in graph.inputs])
    count = 0
    with LoadedGraph(extended, threads=threads) as loaded:
        for feed in inputs:
            fed = loaded.feed(feed)
            loaded.invoke()
            # Copies: the runtime refuses to run while a view of its memory is held.
            lows, highs = (loaded.view(end).reshape(-1).tolist() for end in ends) if ends else ([], [])
            _require_finite(loaded, graph)
            extremes = {name: (float(np.min(fed[name])), float(np.max(fed[name]))) for name in graph.inputs}
            for name in wanted:
                if name in fed:
                    observers[name].update(np.asarray(fed[name], np.float32))
                    continue
                part = parts[name]
                if part.place is None and not part.sources:
                    observers[name].update(cast(Float32, loaded.view(part.sample)))
                    continue
                extremes[name] = part.extremes(extremes, lows, highs)
                observers[name].summarised(*extremes[name], sample(cast(Float32, loaded.view(part.sample)), limit=_SHOWN))
            count += 1
    if count == 0:
        raise DataError("There are no images to gather statistics from.", hint="Give a calibration set.")
    return count


def _require_finite(loaded: LoadedGraph, graph: TfGraph) -> None:
    """The delegate's maximum passes a NaN over. One that does not come to the output hurts nobody, so that is where it is sought.
    An infinity is an extreme."""
    for name in graph.outputs:
        if not math.isfinite(float(np.sum(loaded.view(name), dtype=np.float64))):
            raise ModelError(
                f"The output '{name}' holds NaN or infinity on a calibration image.",
                hint="Check the model's weights and the preprocessing in edgeseg.toml: the float model itself overflows.",
            )


def _extended(graph: TfGraph, names: list[str]) -> tuple[TfGraph, dict[str, _Part], tuple[str, str] | None]:
    """The graph with what summarises ``names`` behind it, where each finds its own, and the two vectors of extremes."""
    build = GraphBuilder(graph.copy())
    producers = graph.producers()
    behind: dict[str, list[TfOp]] = {}
    parts: dict[str, _Part] = {}
    lows: list[str] = []
    highs: list[str] = []
    for name in names:
        shape = graph.tensors[name].shape
        if prod(shape) <= _WHOLE:
            parts[name] = _Part(name)
            continue
        op, begin = producers[name], len(build.graph.ops)
        moved = tuple(str(op.inputs[i]) for i in RULES[op.kind].operands(op)) if op.kind in _MOVES else ()
        known = bool(moved) and all(one in graph.inputs or (one in parts and parts[one].sample != one) for one in moved)
        if known and len(moved) == 1:
            # Nobody reads it beside its own reader: the delegate runs a PAD as part of its convolution then.
            held = parts.get(moved[0], _Part(moved[0]))
            parts[name] = _Part(held.sample, sources=moved, zeros=op.kind == "PAD")
            continue
        source = name if len(shape) == 4 and shape[0] == 1 else _as_map(build, name)
        parts[name] = _Part(_sampled(build, source), None if known else len(lows), moved if known else ())
        if not known:
            axes = build.ints("axes", (0, 1, 2, 3))
            for kind, found in (("REDUCE_MIN", lows), ("REDUCE_MAX", highs)):
                found.append(build.op(kind, (source, axes), (1, 1, 1, 1), options={"keepDims": True}))
        behind[name] = build.graph.ops[begin:]
        del build.graph.ops[begin:]
    # At once, while the values are in the caches and before their memory is used again.
    build.graph.ops = [
        one for op in build.graph.ops for one in (op, *(more for out in op.outputs for more in behind.get(out, ())))
    ]
    ends: list[str] = []
    for found in (lows, highs) if lows else ():
        options = {"axis": 3, "fusedActivationFunction": 0}
        ends.append(build.op("CONCATENATION", found, (1, 1, 1, len(found)), options=options) if len(found) > 1 else found[0])
    shown = [part.sample for part in parts.values() if part.sample not in graph.inputs]
    build.graph.outputs = tuple(dict.fromkeys((*graph.outputs, *shown, *ends)))
    return build.graph, parts, (ends[0], ends[1]) if ends else None


def _as_map(build: GraphBuilder, name: str) -> str:
    """Tokens, vectors and batches, as a map of one column."""
    shape = build.graph.tensors[name].shape
    size = (1, prod(shape[:-1]), 1, shape[-1])
    return build.op("RESHAPE", (name, build.ints("shape", size)), size, options={"newShape": size})


def _sampled(build: GraphBuilder, name: str) -> str:
    """Every n-th row and column of a map."""
    _, height, width, channels = build.graph.tensors[name].shape
    step = 1
    while -(-height // step) * -(-width // step) * channels > _SHOWN and step < max(height, width):
        step += 2
    rows, columns = min(step, height), min(step, width)
    size = (1, -(-height // rows), -(-width // columns), channels)
    operands = (
        name,
        build.constant("ones", np.ones((1, 1, 1, channels), np.float32)),
        build.constant("zeros", np.zeros(channels, np.float32)),
    )
    options = {
        "padding": _PADDING_VALID,
        "strideW": columns,
        "strideH": rows,
        "depthMultiplier": 1,
        "dilationWFactor": 1,
        "dilationHFactor": 1,
        "fusedActivationFunction": 0,
    }
    return build.op("DEPTHWISE_CONV_2D", operands, size, options=options)
