"""What a candidate loses against the truth, on labelled calibration images.

A drop measured on a hundred images scatters by a few hundredths of a point where reference and candidate are compared image by
image, less than the estimate without labels does; and it is a fact about the images at hand, not a model of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeseg.data.calibration import CalibrationSet
from edgeseg.metrics.bootstrap import paired_bootstrap
from edgeseg.metrics.confusion import Confusion, class_iou
from edgeseg.metrics.measured import MeasuredDrop, Runner
from edgeseg.preprocess import Int16, Prepared, decide, restore
from edgeseg.session import ModelInput
from edgeseg.spec import OutputKind

__all__ = ["CHECKED", "TruthJudge"]

CHECKED = {"quick": 30, "normal": 100, "max": 1000}
"""Calibration images with masks that a candidate is scored on, by effort."""


@dataclass
class TruthJudge:
    """Scores networks against masks; the float network once, the others paired with it.

    Args:
        reference: the float network.
        images: with masks.
    """

    reference: Runner
    images: CalibrationSet
    _reference_counts: npt.NDArray[np.int64] | None = field(default=None, init=False)

    def __call__(self, candidate: Runner) -> MeasuredDrop:
        """The mIoU of the float network minus that of ``candidate``, in points, with a 95 % paired bootstrap interval over images.

        Raises:
            DataError: an image or its mask cannot be decoded or does not fit the spec.
        """
        if self._reference_counts is None:
            self._reference_counts = self._count(self.reference)
        found = self._count(candidate)
        images, side = len(found), found[0].size
        pairs = np.concatenate([self._reference_counts.reshape(images, -1), found.reshape(images, -1)], axis=1)

        def figures(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            shape = (*sums.shape[:-1], *found.shape[1:])
            before, after = (class_iou(half.reshape(shape)) for half in (sums[..., :side], sums[..., side:]))
            drop: npt.NDArray[np.float64] = np.nanmean(before, axis=-1, keepdims=True) - np.nanmean(
                after, axis=-1, keepdims=True
            )
            return 100.0 * drop

        result = paired_bootstrap(pairs, figures, support=np.full(1, images))
        interval = result.interval(0)
        return MeasuredDrop(
            drop=float(result.estimate[0]),
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            images=images,
        )

    def _count(self, network: Runner) -> npt.NDArray[np.int64]:
        """Confusion matrices, int64 (images, classes, columns)."""
        spec, shown = self.images.spec, deque[tuple[Prepared, Int16]]()

        def inputs() -> Iterator[ModelInput]:
            for labelled in self.images.labelled():
                shown.append(labelled)
                yield labelled[0].input

        matrices = []
        for logits in network(inputs()):
            prepared, truth = shown.popleft()
            extra = 0 if spec.output.kind is not OutputKind.LOGITS else logits.shape[1] - spec.num_classes
            confusion = Confusion(spec.num_classes, extra)
            confusion.update(truth, decide(restore(logits, prepared.placement, spec), spec))
            matrices.append(confusion.matrix)
        return np.stack(matrices)
