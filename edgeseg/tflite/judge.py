"""How far a changed graph is from the float graph at the network's output, on a fixed handful of images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import DataError, ModelError
from edgeseg.metrics.expected import ExpectedDrop
from edgeseg.session import Float32, ModelInput
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.runtime import Feed, LoadedGraph, workers

__all__ = ["Judge", "Score", "latency", "streamed"]

_PIXELS = 65536  # compared per image; the rest tells nothing that these do not


@dataclass(frozen=True)
class Score:
    """``drop``: expected loss of mIoU in points (``edgeseg.metrics.expected``). ``noise``: error power over signal power of
    the logits, each pixel's mean over the classes taken off first (a common offset changes no decision). ``agreement``: share of
    equal decisions."""

    drop: float
    noise: float
    agreement: float = 1.0

    @property
    def values(self) -> tuple[float, float, float]:
        """The fields, in order."""
        return self.drop, self.noise, self.agreement

    @property
    def snr_db(self) -> float:
        return math.inf if self.noise == 0 else -10.0 * math.log10(self.noise)


class Judge:
    """Scores graphs on ``images`` against a float graph on the same images.

    Args:
        reference: the float graph; output float32 (1, h, w, C).
        originals: the images as ``reference`` takes them.
        images: the same images as the judged graphs take them.
        threshold, probability: of a one-channel output, as for ``ExpectedDrop``.

    Raises:
        DataError: there are no images, or the reference's output is not finite.
    """

    def __init__(
        self,
        reference: TfGraph,
        originals: Sequence[Feed],
        images: Sequence[Feed],
        *,
        threshold: float,
        probability: bool,
    ) -> None:
        if not images:
            raise DataError("There are no images to judge by.", hint="Give a calibration set.")
        self._images = list(images)
        self._threshold = threshold
        self._probability = probability
        self.runs = 0
        with LoadedGraph(reference, threads=workers()) as loaded:
            started = time.perf_counter()
            self._outputs = [self._output(loaded, reference.outputs[0], image) for image in originals]
            self.seconds_per_image = (time.perf_counter() - started) / len(self._images)
        if not all(np.isfinite(output).all() for output in self._outputs):
            raise DataError("The float graph's output is not finite.", hint="Check the model on these images.")

    def __len__(self) -> int:
        return len(self._images)

    def images(self, count: int) -> list[Feed]:
        """The first ``count`` images, as the judged graphs take them."""
        return self._images[:count]

    def score(self, graph: TfGraph, *, count: int | None = None) -> Score:
        """Score a graph on the first ``count`` images (all where None)."""
        drop = ExpectedDrop(threshold=self._threshold, probability=self._probability)
        signal = error = 0.0
        with LoadedGraph(graph, threads=workers()) as loaded:
            for image, wanted in zip(self._images[:count], self._outputs[:count], strict=True):
                found = self._output(loaded, graph.outputs[0], image)
                drop.update(wanted, found)
                a, b = _centred(wanted), _centred(found)
                signal += float(np.vdot(a, a))
                error += float(np.vdot(a - b, a - b))
        self.runs += 1
        if not math.isfinite(error):
            return Score(drop=100.0, noise=math.inf, agreement=0.0)
        return Score(drop=drop.drop, noise=error / signal if signal else math.inf, agreement=drop.agreement)

    def score_of(self, graph: TfGraph, refused: Callable[[str], None] = lambda _: None) -> Score:
        """As ``score``; a graph that the runtime refuses is out of the race, and ``refused`` is told why."""
        try:
            return self.score(graph)
        except ModelError as error:
            refused(error.message)
            return Score(drop=100.0, noise=math.inf, agreement=0.0)

    def _output(self, loaded: LoadedGraph, name: str, image: Feed) -> Float32:
        """Logits of every n-th pixel, float32 (1, C, 1, n)."""
        loaded.feed(image)
        loaded.invoke()
        view = loaded.view(name)
        flat = view.reshape(-1, view.shape[-1])
        step = max(1, flat.shape[0] // _PIXELS)
        # A copy in any case: of one channel the transposed view is contiguous, and the runtime refuses to run while its memory is
        # held.
        return np.array(flat[::step].T, np.float32, order="C")[None, :, None, :]


def _centred(logits: Float32) -> Float32:
    if logits.shape[1] == 1:
        return logits
    centred: Float32 = logits - logits.mean(axis=1, keepdims=True)
    return centred


def streamed(graph: TfGraph, feed: Callable[[ModelInput], Feed], images: Iterable[ModelInput]) -> Iterator[Float32]:
    """Logits of one image after the other, float32 (1, C, h, w)."""
    with LoadedGraph(graph, threads=workers()) as loaded:
        for image in images:
            loaded.feed(feed(image))
            loaded.invoke()
            # A copy: the runtime refuses to run while a view of its memory is held.
            yield np.array(loaded.view(graph.outputs[0]).transpose(0, 3, 1, 2), np.float32, order="C")


def latency(
    graphs: Sequence[tuple[TfGraph, Feed]],
    *,
    threads: int = 1,
    rounds: int = 15,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[float]:
    """Median milliseconds of one run of each graph on its image, in turn (A B C A B C ...), so that drift hits all alike."""
    with ExitStack() as stack:
        loaded = [stack.enter_context(LoadedGraph(graph, threads=threads)) for graph, _ in graphs]
        for one, (_, image) in zip(loaded, graphs, strict=True):
            one.feed(image)
            one.invoke()
        samples: list[list[int]] = [[] for _ in loaded]
        for _ in range(rounds):
            for one, times in zip(loaded, samples, strict=True):
                started = clock()
                one.invoke()
                times.append(clock() - started)
    return [float(np.median(times)) / 1e6 for times in samples]
