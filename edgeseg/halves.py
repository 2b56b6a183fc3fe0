"""What a model decides after INT8 calibration with one half of the images, and with the other.

Everything that has a kernel runs in int8, with the ranges of each half; nothing is searched, so that what differs between the two
files is what the images said and nothing else. Each file is compared with the float network on all the images, without labels
(``edgeseg.metrics.expected``): where one half costs more than the other, the outcome hangs on which pictures were drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeseg.chain import ChainOptions, build_chain
from edgeseg.data.calibration import CalibrationSet
from edgeseg.errors import DataError, StageError
from edgeseg.graph import Graph
from edgeseg.lint import HalvesOutcome, activation_stability
from edgeseg.metrics.expected import ExpectedDrop
from edgeseg.model import Model
from edgeseg.onnxgraph.planning import initial_plan, quantized_tensors
from edgeseg.onnxgraph.qdq import QdqStyle, insert_qdq
from edgeseg.onnxgraph.statistics import collect, run_images
from edgeseg.onnxgraph.view import load_model
from edgeseg.preprocess import decide, raw_threshold
from edgeseg.spec import IoType, ModelSpec, OutputKind, Target

__all__ = ["outcome_of_halves"]

_LEAST = 2
_LISTED = 3


def outcome_of_halves(
    model: Model,
    spec: ModelSpec,
    calibration: CalibrationSet,
    work: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> HalvesOutcome:
    """Quantize twice and compare; runs on ONNX Runtime alone, whatever the target will be.

    The images are in the random order in which they were drawn, so that the first half is a random one.

    Args:
        work: folder for the graphs.
        progress: called with images done and in all; each image is looked at twice.

    Raises:
        DataError: there are fewer than two images.
        StageError: nothing in the network can run in int8, or as the stages before quantization.
    """
    if len(calibration) < _LEAST:
        raise DataError("One calibration image has no two halves.", hint="Give more images, or leave out --deep.")
    graph = _float_graph(model, spec, calibration, work)
    network = load_model(graph.path)
    names = quantized_tensors(network)
    if not names:
        raise StageError(
            "nothing in the network can run in int8.",
            hint="Leave out --deep: there are no ranges to be judged.",
            stage="halves",
        )
    middle = len(calibration) // 2
    total = 2 * len(calibration)
    halves = (calibration.part(0, middle), calibration.part(middle, len(calibration)))
    observed, done = [], 0
    for half in halves:
        observed.append(collect(graph.path, half, tensors=names, pixels=graph.pixels))
        done += len(half)
        progress(done, total)
    quantized = [insert_qdq(network, initial_plan(network, observers), style=QdqStyle.ONNXRUNTIME) for observers in observed]
    drops = [
        ExpectedDrop(threshold=raw_threshold(spec), probability=spec.output.kind is OutputKind.PROBABILITY) for _ in quantized
    ]
    equal = pixels = 0
    # Sessions are cheap beside the images: a few images at a time bound what is held.
    for begin in range(0, len(calibration), 8):
        images = list(calibration.part(begin, min(begin + 8, len(calibration))))
        reference = run_images(network, images, pixels=graph.pixels)
        outputs = [run_images(one, images, pixels=graph.pixels) for one in quantized]
        for place, logits in enumerate(reference):
            one, other = outputs[0][place], outputs[1][place]
            drops[0].update(logits, one)
            drops[1].update(logits, other)
            same = decide(one[0], spec) == decide(other[0], spec)
            equal, pixels = equal + int(same.sum()), pixels + same.size
            done += 1
            progress(done, total)
    stability = activation_stability(*observed)
    return HalvesOutcome(
        images=len(calibration),
        drops=(round(drops[0].drop, 4), round(drops[1].drop, 4)),
        agreement=equal / pixels,
        tensors=len(stability.tensors),
        unstable=len(stability.unstable),
        least_stable=tuple(shift.name for shift in stability.unstable[:_LISTED]),
    )


def _float_graph(model: Model, spec: ModelSpec, calibration: CalibrationSet, work: Path) -> Graph:
    stages = build_chain(
        ChainOptions(target=Target.ONNX_INT8, model=model, spec=spec, calibration=calibration, io=IoType.FLOAT32)
    )
    graph: Graph | None = None
    for stage in stages:
        if stage.name == "quantize":
            break
        graph = stage.run(graph, work).graph
    assert graph is not None
    return graph
