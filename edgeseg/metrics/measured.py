"""What a changed network was measured to lose against masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgeseg.session import Float32, ModelInput

__all__ = ["MeasuredDrop", "Runner"]

Runner = Callable[[Iterable[ModelInput]], Iterator[Float32]]
"""A network as it is run on a stream of images: logits, float32 (1, C, h, w), of one after the other."""


@dataclass(frozen=True)
class MeasuredDrop:
    """Loss of mIoU in points against masks. ``low``, ``high``: the 95 % interval; None where there are too few images for one."""

    drop: float
    low: float | None
    high: float | None
    images: int

    @classmethod
    def of(cls, values: Sequence[float]) -> MeasuredDrop:
        """From ``values``."""
        drop, images, *interval = values
        low, high = interval or (None, None)
        return cls(drop=drop, low=low, high=high, images=int(images))

    @property
    def values(self) -> tuple[float, ...]:
        """The loss, the images, and the ends of the interval where there is one: what ``of`` takes."""
        between = () if self.low is None or self.high is None else (self.low, self.high)
        return (self.drop, self.images, *between)

    @property
    def worst(self) -> float:
        """What has to be within a budget: the upper end of the interval, or the loss itself where there is none."""
        return self.drop if self.high is None else self.high

    @property
    def text(self) -> str:
        """For notes."""
        between = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.drop:.2f}{between} points on the masks of {self.images} calibration images"
