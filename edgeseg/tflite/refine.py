"""After the search: better weights for the plan it chose, kept where the network's output says so.

A few layers at a time from the input, on a sample of output places: what the float layer gives there is the target, what the
integer network so far feeds the layer is its input. Learned rounding (``edgeseg.quantize.adaround``) chooses the integers, bias
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
from edgeseg.tflite.graph import Array, TfGraph, TfOp, TfTensor
from edgeseg.tflite.judge import Judge, Score
from edgeseg.tflite.patches import LINEAR, Float32, LinearLayer, linear_layer
from edgeseg.tflite.rewrite import prune
from edgeseg.tflite.runtime import Feed, LoadedGraph, workers
from edgeseg.tflite.statistics import collect

__all__ = ["BIAS", "ROUNDING", "RefineSettings", "Refined", "refine"]

Int8 = npt.NDArray[np.int8]
Float64 = npt.NDArray[np.float64]

log = logging.getLogger("edgeseg.search")

BIAS, ROUNDING = "bias correction", "learned rounding"
_WORTH = 0.998  # the noise must come below this share for a change to stay
_TOGETHER = 8  # neighbouring layers that are learned on one run of the integer network and judged together
_SAME_DROP = 0.02  # points that the expected loss may move by chance
_ROWS = 2048  # sampled output places of a layer
_FIELDS = 8_000_000  # values of receptive fields held at once: 32 MB
_LEAST_ROWS = 512
_LIMITS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}  # fused activations


@dataclass(frozen=True)
class RefineSettings:
    """``deadline``: of ``time.monotonic``. ``judged``: images that judge one layer's change (all judge the whole).
    ``techniques``: which of ROUNDING and BIAS are tried. ``integer_only``: as ``quantize`` takes it."""

    deadline: float
    judged: int = 6
    seed: int = 0
    techniques: frozenset[str] = frozenset({ROUNDING, BIAS})
    integer_only: bool = False
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
        self._stored: dict[str, LayerWeights] = {}
        self._kept: dict[str, LayerWeights] = {}
        self._used: dict[str, set[str]] = {ROUNDING: set(), BIAS: set()}
        self._targets: dict[str, list[Float32]] = {}
        domains = {entry.op: entry.domain for entry in plan.ops}
        found = {op.id: linear_layer(graph, op) for op in graph.ops if domains.get(op.id) is Domain.INT8}
        self._layers = {op: layer for op, layer in found.items() if layer is not None}

    def run(self) -> Refined:
        before = self._judge.score(self._emit(self._graph, self._plan, {}))
        if not self._layers or not self._settings.techniques:
            return Refined({}, before, before, ())
        self._observe_float()
        noise, notes = self._noise(self._kept), []
        names = list(self._layers)
        groups = [names[begin : begin + _TOGETHER] for begin in range(0, len(names), _TOGETHER)]
        late = 0
        for number, group in enumerate(groups, 1):
            if time.monotonic() > self._settings.deadline:
                late += len(group)
                continue
            self._settings.progress(f"weights of layers, group {number} of {len(groups)}")
            noise = self._improve(group, noise)
        after = self._judge.score(self._emit(self._graph, self._plan, self._kept)) if self._kept else before
        if late:
            notes.append(f"time ran out: the weights of {late} layer(s) were not looked at")
        if self._kept and (after.noise >= before.noise or after.drop > max(before.drop, 0.0) + _SAME_DROP):
            notes.append("learned weights dropped: on all images that judge they do no better")
            return Refined({}, before, before, tuple(notes))
        for technique, ops in self._used.items():
            if ops:
                notes.append(f"{technique} on {len(ops)} of {len(self._layers)} layers")
        if self._kept:
            notes.append(f"learned weights: noise at the output {before.snr_db - after.snr_db:+.1f} dB")
        return Refined(self._kept, before, after, tuple(notes))

    # ------------------------------------------------------------------------------------------- one group of layers

    def _improve(self, group: Sequence[str], noise: float) -> float:
        """Try what the settings allow on some neighbouring layers; gives the noise with what was kept."""
        rounded: dict[str, LayerWeights] = {}
        shifts: dict[str, tuple[Float32, Float32]] = {}
        for op, (problem, stored) in self._problems(group).items():
            layer, learned = self._layers[op], problem.integers
            if ROUNDING in self._settings.techniques and time.monotonic() <= self._settings.deadline:
                learned, share = learn_rounding(problem, RoundingSettings(seed=self._settings.seed))
                if share < _WORTH:
                    integers = layer.tensor(learned, stored.integers.shape).astype(np.int8)
                    rounded[op] = replace(stored, integers=integers)
                log.info("%s: learned rounding leaves %.3f of the layer's error", op, share)
            targets = _channels(problem.targets)
            # The mean error that is left depends on whether the rounding is kept.
            kept, plain = (bias_shift(targets, _channels(problem.outputs(one))) for one in (learned, problem.integers))
            shifts[op] = (kept, plain)
            self._stored[op] = stored
        noise = self._attempt(rounded, noise, ROUNDING)
        if BIAS in self._settings.techniques:
            chosen = {op: pair[0 if op in self._kept else 1] for op, pair in shifts.items()}
            shifted = {op: replace(self._current(op), shift=shift) for op, shift in chosen.items() if shift.any()}
            noise = self._attempt(shifted, noise, BIAS)
        return noise

    def _attempt(self, layers: Mapping[str, LayerWeights], noise: float, technique: str) -> float:
        """Keep the new weights of all the layers, of the first or of the second half, whichever lowers the noise most; none
        where none does. Gives the noise then."""
        names = list(layers)
        middle = (len(names) + 1) // 2
        parts = [names, names[:middle], names[middle:]] if len(names) > 1 else [names] if names else []
        found = [self._noise({**self._kept, **{op: layers[op] for op in part}}) for part in parts]
        for part, one in zip(parts, found, strict=True):
            log.info("%s of %s: noise %.4g to %.4g", technique, ", ".join(part), noise, one)
        if not found or min(found) >= _WORTH * noise:
            return noise
        best = parts[int(np.argmin(found))]
        self._kept |= {op: layers[op] for op in best}
        self._used[technique].update(best)
        return min(found)

    def _current(self, op: str) -> LayerWeights:
        return self._kept.get(op, self._stored[op])

    def _emit(self, graph: TfGraph, plan: QuantPlan, layers: Mapping[str, LayerWeights]) -> TfGraph:
        return quantize(graph, plan, integer_only=self._settings.integer_only, learned=layers)

    def _noise(self, layers: Mapping[str, LayerWeights]) -> float:
        emitted = self._emit(self._graph, self._plan, layers)
        return self._judge.score(emitted, count=self._settings.judged).noise

    def _problems(self, group: Sequence[str]) -> dict[str, tuple[LayerProblem, LayerWeights]]:
        """Each layer on sampled places, as the integer network with the weights kept so far feeds it, and its weights as
        rounding gives them."""
        part = self._graph.copy()
        part.outputs = tuple(group)
        prune(part)
        inside = {one.id for one in part.ops}
        plan = structs.replace(self._plan, ops=tuple(entry for entry in self._plan.ops if entry.op in inside))
        emitted = self._emit(part, plan, self._kept)
        # The emitter makes one operator of the same kind out of each, in the same order.
        pairs = zip(*([op for op in graph.ops if op.kind in LINEAR] for graph in (part, emitted)), strict=True)
        found = {op.id: (op, made) for op, made in pairs if op.id in group}
        stored = {name: emitted.tensors[str(made.inputs[1])] for name, (_, made) in found.items()}
        emitted.outputs = tuple(dict.fromkeys(str(made.inputs[0]) for _, made in found.values()))
        prune(emitted)
        fields: dict[str, list[Float32]] = {op: [] for op in group}
        with LoadedGraph(emitted, threads=workers()) as loaded:
            for number, image in enumerate(self._images):
                loaded.feed(image)
                loaded.invoke()
                for name, (_, made) in found.items():
                    operand = emitted.tensors[str(made.inputs[0])]
                    assert operand.quant is not None
                    layer, places = self._layers[name], self._places(name, number)
                    real = loaded.view(operand.name).astype(np.float32) - operand.quant.zero_point[0]
                    fields[name].append(layer.patches(real * np.float32(operand.quant.scale[0]), places))
        return {name: self._problem(op, stored[name], fields[name]) for name, (op, _) in found.items()}

    def _problem(self, op: TfOp, stored: TfTensor, fields: Sequence[Float32]) -> tuple[LayerProblem, LayerWeights]:
        layer = self._layers[op.id]
        assert stored.quant is not None
        assert stored.data is not None
        integers, scale = np.asarray(stored.data, np.int8), np.asarray(stored.quant.scale, np.float64)
        grouped = layer.per_channel(scale)
        bias = np.zeros(scale.size, np.float32) if layer.bias is None else self._constant(layer.bias)
        problem = LayerProblem(
            inputs=np.concatenate(fields, axis=1),
            targets=np.concatenate(self._targets.pop(op.id), axis=1),
            exact=(layer.matrix(self._constant(layer.weights)) / grouped[..., None]).astype(np.float32),
            scale=grouped,
            integers=layer.matrix(integers),
            bias=layer.per_channel(bias),
            limits=_LIMITS[cast(int, op.options.get("fusedActivationFunction", 0))],
        )
        return problem, LayerWeights(integers, scale, np.zeros(scale.size, np.float32))

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
                fields = layer.patches(values, self._places(op, number))
                target = np.matmul(fields, matrices[layer.weights].transpose(0, 2, 1))
                self._targets.setdefault(op, []).append(target)

        collect(self._graph, self._images, watch, names=set(readers), threads=workers())

    def _places(self, op: str, image: int) -> npt.NDArray[np.int64]:
        """The same places for the float and the integer run."""
        layer = self._layers[op]
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
