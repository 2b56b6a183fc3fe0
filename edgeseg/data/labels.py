"""Mask files: decoding them, and what each value or colour in them means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseg.errors import DataError
from edgeseg.preprocess import Int16, open_picture

__all__ = ["UNKNOWN", "MaskPixels", "color_key", "first_unknown", "look_up", "read_mask"]

MaskPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

UNKNOWN = -2
"""What ``look_up`` gives for a value or colour that the table does not have."""

_VALUES = 65536


def read_mask(path: Path) -> MaskPixels:
    """Decode a mask: uint8 or uint16 (H, W) of values, or uint8 (H, W, 3) of RGB colours.

    A palette picture gives its indices, as Pascal VOC masks want it. A GIF gives grey levels where its palette is grey: GIF has
    no other way to store a grey picture.

    Raises:
        DataError: it cannot be decoded or holds pixels that are neither.
    """
    picture = open_picture(path)
    if picture.mode == "P" and picture.format == "GIF":
        colors = np.asarray(picture.convert("RGB"))
        is_grey = bool((colors == colors[:, :, :1]).all())
        return colors[:, :, 0] if is_grey else np.asarray(picture)
    if picture.mode in {"L", "P"}:
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if picture.mode in {"LA", "PA"}:
        return np.asarray(picture)[:, :, 0]
    if picture.mode in {"RGB", "RGBA"}:
        return np.asarray(picture)[:, :, :3]
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if values.min(initial=0) >= 0 and values.max(initial=0) < _VALUES:
            return values.astype(np.uint16)
    raise DataError(
        f"The mask {path} holds pixels of kind '{picture.mode}', which are no class values.",
        hint="Save masks as 8-bit or 16-bit PNG pictures with one channel.",
    )


def color_key(color: tuple[int, int, int]) -> int:
    """An RGB colour as one number, the key of colours in ``look_up``'s table.

    >>> hex(color_key((1, 2, 255)))
    '0x102ff'
    """
    red, green, blue = color
    return (red << 16) | (green << 8) | blue


def look_up(pixels: MaskPixels, table: Mapping[int, int]) -> Int16:
    """The meaning of each pixel: int16 (H, W), ``UNKNOWN`` where the table has none.

    Args:
        pixels: values (H, W), or colours (H, W, 3).
        table: from value, or from ``color_key``, to meaning.
    """
    if pixels.ndim == 2:
        meaning = np.full(_VALUES, UNKNOWN, np.int16)
        meaning[list(table)] = list(table.values())
        return np.take(meaning, pixels)
    keys = np.left_shift(pixels.astype(np.uint32), np.array([16, 8, 0], np.uint32)).sum(axis=2, dtype=np.uint32)
    known = np.array(sorted(table), np.uint32)
    position = np.minimum(np.searchsorted(known, keys), known.size - 1)
    found: Int16 = np.array([table[int(key)] for key in known], np.int16)[position]
    found[known[position] != keys] = UNKNOWN
    return found


def first_unknown(pixels: MaskPixels, meaning: Int16) -> str | None:
    """The first pixel without a meaning, in words, and how many there are; None where all have one."""
    unknown = meaning == UNKNOWN
    count = int(unknown.sum())
    if not count:
        return None
    first = np.asarray(pixels[unknown][0])
    what = f"the value {int(first)}" if first.ndim == 0 else "the colour ({}, {}, {})".format(*first.tolist())
    return f"{what} ({count} pixel(s) mean no class)"
