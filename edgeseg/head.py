"""Files that give something else than the model's logits: what they left out, and a Session that puts it back.

Everything that judges a file takes logits of the model's size. A file without its last resize, or with the decision inside, is
judged by the same code: small logits are resized by the rule that the graph had, and labels stand for logits that decide so.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.session import Float32, ModelInput, Session, SessionInfo
from edgeseg.spec import Head

__all__ = ["HeadRecord", "HeadSession", "ResizeRule", "resized"]


class ResizeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One resize that the file leaves to its user. ``size``: rows and columns afterwards; ``method``: ``bilinear`` or ``nearest``;
    ``centers``: ``half-pixel``, ``corners`` (the corners' centres stay) or ``asymmetric``."""

    size: tuple[int, int]
    method: str = "bilinear"
    centers: str = "half-pixel"

    @property
    def text(self) -> str:
        return f"{self.method} to {self.size[0]}x{self.size[1]}, {self.centers}"


class HeadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """In the manifest of a file that gives no full logits.

    Attributes:
        form: what it gives.
        channels: of the model's logits.
        threshold: of one channel, in the domain of the model's output.
        resizes: what was left out, in the order in which it is to be done.
    """

    form: Head
    channels: int
    threshold: float = 0.0
    resizes: tuple[ResizeRule, ...] = ()


def resized(planes: Float32, rule: ResizeRule) -> Float32:
    """float32 (C, h, w) to (C, H, W), as TensorFlow Lite's RESIZE operators and ONNX' Resize compute it."""
    for axis, size in ((1, rule.size[0]), (2, rule.size[1])):
        planes = _along(planes, axis, size, rule)
    return planes


def _along(planes: Float32, axis: int, size: int, rule: ResizeRule) -> Float32:
    before = planes.shape[axis]
    index = np.arange(size, dtype=np.float64)
    match rule.centers:
        case "corners":
            place = index * ((before - 1) / (size - 1) if size > 1 else 0.0)
        case "half-pixel":
            place = (index + 0.5) * (before / size) - (0.5 if rule.method == "bilinear" else 0.0)
        case _:
            place = index * (before / size)
    if rule.method == "nearest":
        nearest = np.floor(place + 0.5) if rule.centers == "corners" else np.floor(place)
        return np.take(planes, np.clip(nearest, 0, before - 1).astype(np.intp), axis=axis)
    place = np.clip(place, 0.0, before - 1)
    low = np.floor(place).astype(np.intp)
    high = np.minimum(low + 1, before - 1)
    share = (place - low).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(3)])
    left, right = np.take(planes, low, axis=axis), np.take(planes, high, axis=axis)
    found: Float32 = left + (right - left) * share
    return found


class HeadSession:
    """``edgeseg.session.Session`` over one whose file gives what ``head`` says."""

    def __init__(self, inner: Session, head: HeadRecord) -> None:
        self._inner = inner
        self._head = head

    @property
    def info(self) -> SessionInfo:
        return self._inner.info

    def feed(self, x: ModelInput) -> None:
        self._inner.feed(x)

    def invoke(self) -> None:
        self._inner.invoke()

    def fetch(self) -> Float32:
        """Logits of the model's size, float32 (1, C, H, W). Of labels: 1 for the class decided and 0 for the others, or for one
        channel the threshold plus or minus 1; only decisions mean anything then."""
        given = self._inner.fetch()
        if self._head.form is Head.SMALL_LOGITS:
            whole: Float32 = given[0]
            for rule in self._head.resizes:
                whole = resized(whole, rule)
            return whole[None]
        labels: npt.NDArray[np.intp] = given[0, 0].astype(np.intp)
        if self._head.channels == 1:
            sides: Float32 = (self._head.threshold + 2.0 * labels - 1.0).astype(np.float32)
            return sides[None, None]
        planes = np.zeros((self._head.channels, *labels.shape), np.float32)
        np.put_along_axis(planes, labels[None], 1.0, axis=0)
        return planes[None]

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
