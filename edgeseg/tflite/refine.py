"""After the search: better weights for the plan it chose, kept where the network's output says so.

Layer by layer from the input, on a sample of output places: what the float layer gives there is the target, what the integer
network so far feeds the layer is its input. Learned rounding (``edgeseg.quantize.adaround``) chooses the integers, bias
correction (``edgeseg.quantize.bias``) takes off the mean error that is left. A change stays where it lowers the noise at the
output on the judge's images; all of them go if together they do not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edgeseg.quantize.adaround import LayerProblem, RoundingSettings, learn_rounding
from edgeseg.quantize.bias import bias_shift
from edgeseg.quantize.learned import LayerWeights
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Array, TfGraph, TfOp
from edgeseg.tflite.judge import Judge, Score
from edgeseg.tflite.patches import Float32, LinearLayer, linear_layer
from edgeseg.tflite.rewrite import prune
from edgeseg.tflite.runtime import Feed, LoadedGraph
from edgeseg.tflite.statistics import collect

__all__ = ["BIAS", "ROUNDING", "RefineSettings", "Refined", "refine"]

Int8 = npt.NDArray[np.int8]
Float64 = npt.NDArray[np.float64]

log = logging.getLogger("edgeseg.search")

BIAS, ROUNDING = "bias correction", "learned rounding"
_WORTH = 0.998  # the noise must come below this share for one layer's change to stay
_ROWS = 2048  # sampled output places of a layer
_FIELDS = 8_000_000  # values of receptive fields held at once: 32 MB
_LEAST_ROWS = 512
_LIMITS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}  # fused activations


@dataclass(frozen=True)
class RefineSettings:
    """``deadline``: of ``time.monotonic``. ``judged``: images that judge one layer's change (all judge the whole).
    ``techniques``: which of ROUNDING and BIAS are tried."""

    deadline: float
    judged: int = 6
    seed: int = 0
    techniques: frozenset[str] = frozenset({ROUNDING, BIAS})
    progress: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Refined:
    """``layers``: what was learned and kept, by operator. ``before``, ``after``: scores on all of the judge's images."""

    layers: Mapping[str, LayerWeights]
    before: Score
    after: Score
    notes: tuple[str, ...]


def refine(graph: TfGraph, plan: QuantPlan, images: Iterable[Feed], judge: Judge, settings: RefineSettings) -> Refined:
    """Learn the weights of the plan's int8 convolutions and products; transposed convolutions keep theirs.

    Time is bounded by the deadline, memory by the sample, which does not grow with the images. Deterministic for a seed, unless
    time runs out, which a note says.

    Args:
        graph: the float graph that the plan is for.
        images: to learn on, as the graph takes them; none of those that judge.
        judge: holds the images that decide.
    """
    return _Refinement(graph, plan, list(images), judge, settings).run()


class _Refinement:
    def __init__(self, graph: TfGraph, plan: QuantPlan, images: Sequence[Feed], judge: Judge, settings: RefineSettings) -> None:
        self._graph = graph
        self._plan = structs.replace(plan, weights=None)
        self._images = images
        self._judge = judge
        self._settings = settings
        self._kept: dict[str, LayerWeights] = {}
        self._used: dict[str, set[str]] = {ROUNDING: set(), BIAS: set()}
        self._targets: dict[str, list[Float32]] = {}
        domains = {entry.op: entry.domain for entry in plan.ops}
        found = {op.id: linear_layer(graph, op) for op in graph.ops if domains.get(op.id) is Domain.INT8}
        self._layers = {op: layer for op, layer in found.items() if layer is not None}

    def run(self) -> Refined:
        before = self._judge.score(quantize(self._graph, self._plan))
        if not self._layers or not self._settings.techniques:
            return Refined({}, before, before, ())
        self._observe_float()
        noise, notes, late = self._noise(self._kept), [], 0
        producers = self._graph.producers()
        for number, (op, layer) in enumerate(self._layers.items(), 1):
            if time.monotonic() > self._settings.deadline:
                late += 1
                continue
            self._settings.progress(f"weights of layer {number} of {len(self._layers)}")
            noise = self._improve(producers[op], layer, noise)
        after = self._judge.score(quantize(self._graph, self._plan, learned=self._kept)) if self._kept else before
        if late:
            notes.append(f"time ran out: the weights of {late} layer(s) were not looked at")
        if self._kept and (after.noise >= before.noise or after.drop > before.drop):
            notes.append("learned weights dropped: on all images that judge they do no better")
            return Refined({}, before, before, tuple(notes))
        for technique, ops in self._used.items():
            if ops:
                notes.append(f"{technique} on {len(ops)} of {len(self._layers)} layers")
        if self._kept:
            notes.append(f"learned weights: noise at the output {before.snr_db - after.snr_db:+.1f} dB")
        return Refined(self._kept, before, after, tuple(notes))

    # ------------------------------------------------------------------------------------------- one layer

    def _improve(self, op: TfOp, layer: LinearLayer, noise: float) -> float:
        """Try what the settings allow on one layer; gives the noise with what was kept."""
        problem, stored, scale = self._problem(op, layer)
        settings = self._settings
        current = LayerWeights(stored, scale, np.zeros(scale.size, np.float32))
        if ROUNDING in settings.techniques:
            learned, share = learn_rounding(problem, RoundingSettings(seed=settings.seed))
            integers = layer.tensor(learned, stored.shape).astype(np.int8)
            if share < 1.0 and (integers != stored).any():
                candidate = replace(current, integers=integers)
                found = self._noise({**self._kept, op.id: candidate})
                log.info("%s: learned rounding %.3f of the layer's error, noise %.4g to %.4g", op.id, share, noise, found)
                if found < _WORTH * noise:
                    self._keep(op.id, candidate, ROUNDING)
                    noise, current = found, candidate
        if BIAS in settings.techniques:
            used = layer.matrix(current.integers)
            shift = bias_shift(_channels(problem.targets), _channels(problem.outputs(used)))
            if shift.any():
                candidate = replace(current, shift=shift)
                found = self._noise({**self._kept, op.id: candidate})
                log.info("%s: bias correction, noise %.4g to %.4g", op.id, noise, found)
                if found < _WORTH * noise:
                    self._keep(op.id, candidate, BIAS)
                    noise = found
        return noise

    def _keep(self, op: str, weights: LayerWeights, technique: str) -> None:
        self._kept[op] = weights
        self._used[technique].add(op)

    def _noise(self, layers: Mapping[str, LayerWeights]) -> float:
        emitted = quantize(self._graph, self._plan, learned=layers)
        return self._judge.score(emitted, count=self._settings.judged).noise

    def _problem(self, op: TfOp, layer: LinearLayer) -> tuple[LayerProblem, Int8, Float64]:
        """The layer on sampled places, its int8 weights as they are, and their scales."""
        emitted = self._up_to(op)
        last = next(one for one in reversed(emitted.ops) if one.kind == op.kind)
        operand, stored = emitted.tensors[str(last.inputs[0])], emitted.tensors[str(last.inputs[1])]
        assert operand.quant is not None
        assert stored.quant is not None
        assert stored.data is not None
        integers = np.asarray(stored.data, np.int8)
        step, zero = operand.quant.scale[0], operand.quant.zero_point[0]
        emitted.outputs = (operand.name,)
        prune(emitted)
        seen: list[Float32] = []
        with LoadedGraph(emitted) as loaded:
            for number, image in enumerate(self._images):
                loaded.feed(image)
                loaded.invoke()
                values = (loaded.view(operand.name).astype(np.float32) - zero) * np.float32(step)
                seen.append(layer.patches(values, self._places(layer, op.id, number)))
        scale = np.asarray(stored.quant.scale, np.float64)
        grouped = layer.per_channel(scale)
        exact = layer.matrix(self._constant(layer.weights)) / grouped[..., None]
        bias = np.zeros(scale.size, np.float32) if layer.bias is None else self._constant(layer.bias)
        problem = LayerProblem(
            inputs=np.concatenate(seen, axis=1),
            targets=np.concatenate(self._targets.pop(op.id), axis=1),
            exact=exact.astype(np.float32),
            scale=grouped,
            integers=layer.matrix(integers),
            bias=layer.per_channel(bias),
            limits=_LIMITS[cast(int, op.options.get("fusedActivationFunction", 0))],
        )
        return problem, integers, scale

    def _up_to(self, op: TfOp) -> TfGraph:
        """The integer network, with the weights learned so far, that ends with ``op``."""
        part = self._graph.copy()
        part.outputs = (op.id,)
        prune(part)
        inside = {one.id for one in part.ops}
        plan = structs.replace(self._plan, ops=tuple(entry for entry in self._plan.ops if entry.op in inside))
        return quantize(part, plan, learned=self._kept)

    # ------------------------------------------------------------------------------------------- the float layers

    def _observe_float(self) -> None:
        """Each layer's float output at its sampled places, all in one run of each image."""
        readers: dict[str, list[tuple[str, LinearLayer]]] = {}
        for op, layer in self._layers.items():
            readers.setdefault(layer.source, []).append((op, layer))
        matrices = {layer.weights: layer.matrix(self._constant(layer.weights)) for layer in self._layers.values()}
        seen: dict[str, int] = {}

        def watch(name: str, values: Array) -> None:
            number = seen.get(name, 0)
            seen[name] = number + 1
            for op, layer in readers[name]:
                fields = layer.patches(values, self._places(layer, op, number))
                target = np.matmul(fields, matrices[layer.weights].transpose(0, 2, 1))
                self._targets.setdefault(op, []).append(target)

        collect(self._graph, self._images, watch, names=set(readers))

    def _places(self, layer: LinearLayer, op: str, image: int) -> npt.NDArray[np.int64]:
        """The same places for the float and the integer run."""
        weights = self._constant(layer.weights)
        fields = weights.size // (weights.shape[3] if layer.kind == "DEPTHWISE_CONV_2D" else weights.shape[0]) * layer.groups
        rows = min(_ROWS, max(_LEAST_ROWS, _FIELDS // fields))
        number = list(self._layers).index(op)
        draw = np.random.default_rng([self._settings.seed, number, image])
        return layer.sample(math.ceil(rows / len(self._images)), draw)

    def _constant(self, name: str) -> Array:
        data = self._graph.tensors[name].data
        assert data is not None
        return data


def _channels(values: Float32) -> Float32:
    """float32 (groups, n, r) as (n, groups * r)."""
    return values.transpose(1, 0, 2).reshape(values.shape[1], -1)
