"""What a candidate loses against the truth, on labelled calibration images.

A drop measured on a hundred images scatters by a few hundredths of a point where reference and candidate are compared image by
image, less than the estimate without labels does; and it is a fact about the images at hand, not a model of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeseg.data.calibration import CalibrationSet
from edgeseg.metrics.bootstrap import paired_bootstrap
from edgeseg.metrics.confusion import Confusion, class_iou
from edgeseg.preprocess import decide, restore
from edgeseg.session import ModelInput
from edgeseg.spec import ModelSpec, OutputKind
from edgeseg.tflite.candidates import MeasuredDrop
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.runtime import Feed, LoadedGraph

__all__ = ["TruthJudge"]


@dataclass
class TruthJudge:
    """Scores graphs against masks; the float graph once, the others paired with it.

    Args:
        reference: the float graph, and how an image is fed to it.
        images: with masks.
    """

    reference: TfGraph
    feed: Callable[[ModelInput], Feed]
    images: CalibrationSet
    _reference_counts: npt.NDArray[np.int64] | None = field(default=None, init=False)

    def __call__(self, graph: TfGraph, feed: Callable[[ModelInput], Feed]) -> MeasuredDrop:
        """The mIoU of the float graph minus that of ``graph``, in points, with a 95 % paired bootstrap interval over images.

        Raises:
            DataError: an image or its mask cannot be decoded or does not fit the spec.
        """
        if self._reference_counts is None:
            self._reference_counts = self._count(self.reference, self.feed)
        found = self._count(graph, feed)
        side = found[0].size
        pairs = np.concatenate([self._reference_counts.reshape(len(found), -1), found.reshape(len(found), -1)], axis=1)

        def figures(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            shape = (*sums.shape[:-1], *found.shape[1:])
            before, after = (class_iou(half.reshape(shape)) for half in (sums[..., :side], sums[..., side:]))
            drop: npt.NDArray[np.float64] = np.nanmean(before, axis=-1, keepdims=True) - np.nanmean(
                after, axis=-1, keepdims=True
            )
            return 100.0 * drop

        result = paired_bootstrap(pairs, figures, support=np.full(1, len(found)))
        interval = result.interval(0)
        return MeasuredDrop(
            drop=float(result.estimate[0]),
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            images=len(found),
        )

    def _count(self, graph: TfGraph, feed: Callable[[ModelInput], Feed]) -> npt.NDArray[np.int64]:
        """Confusion matrices, int64 (images, classes, columns)."""
        spec: ModelSpec = self.images.spec
        matrices = []
        with LoadedGraph(graph) as loaded:
            for prepared, truth in self.images.labelled():
                loaded.feed(feed(prepared.input))
                loaded.invoke()
                # A copy: the runtime refuses to run while a view of its memory is held.
                logits = np.array(loaded.view(graph.outputs[0]).transpose(0, 3, 1, 2), np.float32, order="C")
                extra = 0 if spec.output.kind is not OutputKind.LOGITS else logits.shape[1] - spec.num_classes
                confusion = Confusion(spec.num_classes, extra)
                confusion.update(truth, decide(restore(logits, prepared.placement, spec), spec))
                matrices.append(confusion.matrix)
        return np.stack(matrices)
