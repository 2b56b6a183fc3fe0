"""The truth of one picture, from its mask file, as the spec says."""

from __future__ import annotations

from pathlib import Path

from edgeseg.data.labels import color_key, first_unknown, look_up, read_mask
from edgeseg.errors import DataError
from edgeseg.preprocess import Int16, load_region
from edgeseg.spec import ClassesSpec

__all__ = ["NOT_COUNTED", "read_truth"]

NOT_COUNTED = -1
"""What a pixel that does not count holds in a truth array."""


def read_truth(mask: Path, region: Path | None, classes: ClassesSpec, size: tuple[int, int]) -> Int16:
    """The class of each pixel, -1 where it does not count: int16 (H, W).

    In masks of RGB colours, black and the grey of the ignore index do not count, unless they are a class's colour.

    Args:
        mask: a one-channel or palette picture of class values, or an RGB picture of the colours in ``classes.palette``. An
            RGB picture that is grey throughout holds class values where there is no palette.
        region: pixels that are zero in it do not count.
        classes: says what values and colours mean.
        size: (height, width) of the image.

    Raises:
        DataError: a file cannot be decoded, has another size than the image, or a value that means no class.
    """
    pixels = read_mask(mask)
    _check_size(mask, "mask", pixels.shape[:2], size)
    if pixels.ndim == 3 and not classes.palette:
        if (pixels != pixels[:, :, :1]).any():
            raise DataError(
                f"The mask {mask} is an RGB picture, and edgeseg.toml has no palette to read it with.",
                hint="Give one RGB colour a class under [classes] (palette = [[128, 64, 128], ...]), or save masks with one.",
            )
        pixels = pixels[:, :, 0]
    table = _value_table(classes) if pixels.ndim == 2 else _color_table(classes)
    truth = look_up(pixels, table)
    if wrong := first_unknown(pixels, truth):
        raise DataError(f"The mask {mask} holds {wrong}; {_known(classes)}.", hint=_remedy(mask, pixels.ndim == 2))
    if region is not None:
        inside = load_region(region)
        _check_size(region, "region mask", inside.shape, size)
        truth[~inside] = NOT_COUNTED
    return truth


def _value_table(classes: ClassesSpec) -> dict[int, int]:
    table = {} if classes.ignore_index is None else {classes.ignore_index: NOT_COUNTED}
    return table | {value: index for index, value in enumerate(_values(classes))}


def _color_table(classes: ClassesSpec) -> dict[int, int]:
    table: dict[int, int] = {}
    if classes.ignore_index is not None:
        table[color_key((0, 0, 0))] = NOT_COUNTED
        grey = min(classes.ignore_index, 255)
        table[color_key((grey, grey, grey))] = NOT_COUNTED
    return table | {color_key(color): index for index, color in enumerate(classes.palette)}


def _values(classes: ClassesSpec) -> tuple[int, ...]:
    return classes.mask_values or tuple(range(len(classes.names)))


def _known(classes: ClassesSpec) -> str:
    values = _values(classes)
    shown = ", ".join(map(str, values)) if len(values) < 5 else f"{values[0]}, {values[1]}, ..., {values[-1]}"
    ignored = "nothing is ignored" if classes.ignore_index is None else f"{classes.ignore_index} is ignored"
    return f"classes have the values {shown}, and {ignored}"


def _remedy(mask: Path, is_value: bool) -> str:
    if mask.suffix.lower() in {".jpg", ".jpeg"}:
        return "JPEG changes values; save masks as PNG."
    if is_value:
        return "Set names, mask_values or ignore_index under [classes] in edgeseg.toml to fit the masks."
    return "Add the colour's class to names and palette under [classes] in edgeseg.toml, or save masks with one channel."


def _check_size(path: Path, what: str, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if found != expected:
        raise DataError(
            f"The {what} {path} is {found[0]}x{found[1]} (rows x columns), its image {expected[0]}x{expected[1]}.",
            hint=f"Give each {what} the size of its image.",
        )
