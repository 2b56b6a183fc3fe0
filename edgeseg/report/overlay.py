"""Pictures of decisions: the image, the truth and what each file says, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edgeseg.session import UInt8
from edgeseg.spec import ClassesSpec

__all__ = ["CHANGES", "UNCOUNTED", "Panel", "class_colors", "colorize", "difference", "write_strip"]

Labels = npt.NDArray[np.int16]

_GAP = 6
_CAPTION = 16
_STRENGTH = 0.6  # of the class colour over the image
UNCOUNTED = (40, 40, 40)
"""Colour of pixels that do not count, and of predictions of a channel without a name."""

CHANGES = {"was right": (214, 39, 40), "is right now": (31, 90, 200), "wrong in both": (240, 180, 20)}
"""What a changed pixel means, and its colour; told apart in any kind of colour vision."""


@dataclass(frozen=True)
class Panel:
    """``pixels``: uint8 (H, W, 3), RGB."""

    caption: str
    pixels: UInt8


def class_colors(classes: ClassesSpec) -> UInt8:
    """uint8 (C, 3): the spec's palette, or colours evenly spread in hue."""
    return np.asarray(classes.palette, np.uint8) if classes.palette else _spread(len(classes.names))


def _spread(count: int) -> UInt8:
    hues = Image.new("HSV", (count, 1))
    hues.putdata([(round(255 * index / count), 170, 230) for index in range(count)])
    return np.asarray(hues.convert("RGB"), np.uint8).reshape(count, 3)


def colorize(image: UInt8, labels: Labels, colors: UInt8) -> UInt8:
    """The image under its classes' colours. Labels int16 (H, W); -1 (not counted) is shown dark, and so is a channel that has no
    name (a model's own void class)."""
    named = (labels >= 0) & (labels < len(colors))
    shown = colors[np.where(named, labels, 0)].astype(np.float32)
    shown[~named] = UNCOUNTED
    mixed = (1 - _STRENGTH) * image.astype(np.float32) + _STRENGTH * shown
    return np.asarray(np.rint(mixed), np.uint8)


def difference(image: UInt8, truth: Labels, before: Labels, after: Labels) -> UInt8:
    """The image in grey, in the colours of ``CHANGES`` where two decisions on a counted pixel differ. All labels int16 (H, W)."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) * 0.45 + 115
    changed = (before != after) & (truth >= 0)
    broken, mended = changed & (before == truth), changed & (after == truth)
    for mask, color in zip((broken, mended, changed & ~broken & ~mended), CHANGES.values(), strict=True):
        grey[mask] = color
    return np.asarray(grey, np.uint8)


def write_strip(path: Path, panels: Sequence[Panel]) -> None:
    """Panels from left to right with their captions, as a PNG."""
    height, width = panels[0].pixels.shape[:2]
    sheet = Image.new("RGB", (len(panels) * (width + _GAP) + _GAP, height + _CAPTION + 2 * _GAP), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, panel in enumerate(panels):
        left = _GAP + index * (width + _GAP)
        draw.text((left, 3), panel.caption, fill=(20, 20, 20))
        sheet.paste(Image.fromarray(np.ascontiguousarray(panel.pixels)), (left, _CAPTION + _GAP))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
