"""From a picture on disk to what a model takes, and from a model's output back to the picture.

The only code that decodes, crops, resizes, pads, orders colours and normalises. Calibration, evaluation, benchmarks and the
bundle all go through it, so that a file is fed at every step exactly as it will be fed in use.

The order is fixed: crop to the region, resize (on 8-bit pixels, with Pillow), pad, order the colours, normalise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgeseg.errors import DataError, ModelError
from edgeseg.session import Float32, ModelInput, UInt8
from edgeseg.spec import ColorOrder, Interpolation, ModelSpec, OutputKind, Resize

__all__ = [
    "Bool",
    "Int16",
    "Placement",
    "Prepared",
    "decide",
    "load_image",
    "load_region",
    "normalise",
    "open_picture",
    "prepare",
    "raw_threshold",
    "resize_bilinear",
    "restore",
]

Bool = npt.NDArray[np.bool_]
Int16 = npt.NDArray[np.int16]

_RESAMPLING = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.AREA: Image.Resampling.BOX,
}

# ITU-R BT.601 luma in 16-bit fixed point. The weights sum to 65536, so that a grey RGB pixel keeps its value exactly.
_LUMA = (19595, 38470, 7471)


@dataclass(frozen=True)
class Placement:
    """Where the picture went, so that the output can be taken back. Sizes are (height, width), in pixels.

    Attributes:
        source: size of the picture as decoded.
        crop: (top, left, bottom, right) of the part that was used, in the source's frame.
        scaled: size of that part after resizing.
        offset: (top, left) of the scaled part in the model's input.
        target: size of the model's input.
    """

    source: tuple[int, int]
    crop: tuple[int, int, int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    target: tuple[int, int]

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of the part that was used."""
        top, left, bottom, right = self.crop
        return bottom - top, right - left


@dataclass(frozen=True)
class Prepared:
    """A picture ready for a Session, and where its pixels went."""

    input: ModelInput
    placement: Placement


def open_picture(path: Path) -> Image.Image:
    """Decode a picture whole, upright by its EXIF orientation, in its own mode.

    Raises:
        DataError: it cannot be read, is not a picture, or is damaged.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            kind = opened.format
            picture = ImageOps.exif_transpose(opened)
    except FileNotFoundError as error:
        raise DataError(f"There is no image {path}.", hint="Check the path and the folder it is in.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large to decode: {error}", hint="Cut it into tiles first.") from error
    # Decoders raise whatever they meet in a damaged file (struct.error, IndexError, zlib.error, ...).
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as an image ({_reason(error)}).",
            hint="Replace or remove the file; it may be cut short, or not be an image at all.",
        ) from error
    picture.format = kind  # exif_transpose drops it
    return picture


def load_image(path: Path) -> UInt8:
    """Decode a picture to uint8 (H, W, 3), RGB.

    Alpha is dropped, grey is repeated over the three channels, 16-bit grey keeps its high byte (as Pillow does with 16-bit
    colour).

    Raises:
        DataError: it cannot be decoded, or holds pixels that have no 8-bit meaning (float, 32-bit integers).
    """
    picture = open_picture(path)
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in {"I", "F"}:
        raise DataError(
            f"{path} holds {'floating-point' if picture.mode == 'F' else '32-bit'} pixels.",
            hint="Convert it to 8 or 16 bits a channel; edgeseg cannot know the range of its values.",
        )
    return np.asarray(picture.convert("RGB"))


def load_region(path: Path) -> Bool:
    """Decode a region mask to bool (H, W): True where any channel is not zero.

    Raises:
        DataError: it cannot be decoded.
    """
    picture = open_picture(path)
    pixels = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    if picture.mode in {"LA", "RGBA"}:
        pixels = pixels[:, :, :-1]
    brightest = pixels.max(axis=2) if pixels.ndim == 3 else pixels
    inside: Bool = np.not_equal(brightest, 0)
    return inside


def prepare(image: UInt8, spec: ModelSpec, region: Bool | None = None, *, name: str = "The image") -> Prepared:
    """Make a decoded picture what the model takes.

    Args:
        image: uint8 (H, W, 3), RGB.
        spec: says the input's size and the preprocessing.
        region: bool (H, W); needed where ``crop_to_region`` is set, not used otherwise.
        name: what messages call the picture, its path as a rule.

    Returns:
        ``pixels`` uint8 (1, h, w, C) and ``values`` float32 (1, C, h, w), whatever the layout of the spec. Padded positions
        hold ``pad_value`` in ``values``, and in ``pixels`` the value that comes nearest to it after normalising.

    Raises:
        DataError: the picture does not fit the spec.
    """
    target = (spec.input.height, spec.input.width)
    crop = _crop_box(image, spec, region, name)
    top, left, bottom, right = crop
    part = image[top:bottom, left:right]
    scaled, offset = _scaled_size(part.shape[:2], target, spec.preprocess.resize, name)
    if part.shape[:2] != scaled:
        resized = Image.fromarray(np.ascontiguousarray(part)).resize(
            (scaled[1], scaled[0]), _RESAMPLING[spec.preprocess.interpolation]
        )
        part = np.asarray(resized)
    ordered = _order(part, spec.preprocess.color)
    placement = Placement(source=image.shape[:2], crop=crop, scaled=scaled, offset=offset, target=target)
    if scaled == target:
        pixels = np.ascontiguousarray(ordered)[None]
        return Prepared(ModelInput(pixels=pixels, values=normalise(pixels, spec)), placement)

    inside = (slice(offset[0], offset[0] + scaled[0]), slice(offset[1], offset[1] + scaled[1]))
    pixels = np.empty((1, *target, spec.input.channels), np.uint8)
    pixels[:] = _pad_pixel(spec)
    pixels[0][inside] = ordered
    values = np.full((1, spec.input.channels, *target), spec.preprocess.pad_value, np.float32)
    values[:, :, inside[0], inside[1]] = normalise(ordered[None], spec)
    return Prepared(ModelInput(pixels=pixels, values=values), placement)


def normalise(pixels: UInt8, spec: ModelSpec) -> Float32:
    """``(pixel * scale - mean) / std * post_scale``: uint8 (1, H, W, C) in the spec's colour order to float32 (1, C, H, W).

    Computed in double precision once for the 256 values a pixel can have, rounded to float32, then looked up.
    """
    tables = _tables(spec)
    _, height, width, channels = pixels.shape
    values = np.empty((1, channels, height, width), np.float32)
    for channel in range(channels):
        # "clip" never clips here, but lets numpy write into `out` directly.
        np.take(tables[channel], pixels[0, :, :, channel], out=values[0, channel], mode="clip")
    return values


def restore(logits: Float32, placement: Placement, spec: ModelSpec) -> Float32:
    """Take a model's output back to the frame of the picture it came from.

    The output is brought to the input's size (where the stride is not 1), padding is cut off, what is left is resized to the
    size of the crop and put in its place; outside the crop it is 0. Both resizings are bilinear with half-pixel centres.

    Args:
        logits: float32 (1, C, h, w).
        placement: from ``prepare``.
        spec: says the stride.

    Returns:
        float32 (C, H, W) at the source's size; a view of ``logits`` where nothing had to be done.

    Raises:
        ModelError: the output's size does not fit input size and stride.
    """
    plane = logits[0]
    stride = spec.output.stride
    expected = tuple(math.ceil(size / stride) for size in placement.target)
    if plane.shape[1:] != expected:
        raise ModelError(
            f"The model's output is {plane.shape[1]}x{plane.shape[2]} (rows x columns) for an input of "
            f"{placement.target[0]}x{placement.target[1]}; with stride {stride} it should be {expected[0]}x{expected[1]}.",
            hint=f"Set stride = {max(1, round(placement.target[0] / plane.shape[1]))} under [output] in edgeseg.toml.",
        )
    plane = resize_bilinear(plane, placement.target)
    (top, left), (height, width) = placement.offset, placement.scaled
    plane = resize_bilinear(plane[:, top : top + height, left : left + width], placement.crop_size)
    if placement.crop_size == placement.source:
        return plane
    framed = np.zeros((plane.shape[0], *placement.source), np.float32)
    top, left, bottom, right = placement.crop
    framed[:, top:bottom, left:right] = plane
    return framed


def decide(logits: Float32, spec: ModelSpec) -> Int16:
    """The class of each pixel: float32 (C, H, W) to int16 (H, W).

    LOGITS: the channel with the largest value, over all channels, those without a class name too; the first of equals.
    SIGMOID: 1 where sigmoid(x) > threshold, computed by ``raw_threshold``. PROBABILITY: 1 where x > threshold.

    Raises:
        ModelError: the number of channels does not fit the kind of output and the class names.
    """
    channels = logits.shape[0]
    if spec.output.kind is OutputKind.LOGITS:
        if channels < spec.num_classes:
            raise ModelError(
                f"The model's output has {channels} channel(s), edgeseg.toml names {spec.num_classes} classes.",
                hint="Give as many names under [classes] as the model has, or set kind under [output].",
            )
        # numpy's argmax over the first axis copies the array transposed; a running maximum is several times faster.
        best = logits[0].copy()
        winner = np.zeros(best.shape, np.int16)
        for channel in range(1, channels):
            np.copyto(winner, np.int16(channel), where=logits[channel] > best)
            np.maximum(best, logits[channel], out=best)
        return winner
    if channels != 1:
        raise ModelError(
            f"Output kind '{spec.output.kind.value}' means one channel, the model's output has {channels}.",
            hint='Set kind = "logits" under [output] in edgeseg.toml.',
        )
    foreground: Int16 = np.greater(logits[0], np.float32(raw_threshold(spec))).astype(np.int16)
    return foreground


def raw_threshold(spec: ModelSpec) -> float:
    """The threshold in the domain of the model's output: ln(t / (1 - t)) for SIGMOID, t itself otherwise.

    Comparing logits with it decides as comparing their sigmoid with t would, without computing a sigmoid a pixel.
    """
    threshold = spec.output.threshold
    return math.log(threshold / (1.0 - threshold)) if spec.output.kind is OutputKind.SIGMOID else threshold


def resize_bilinear(plane: Float32, size: tuple[int, int]) -> Float32:
    """Bilinear with half-pixel centres and no antialiasing: float32 (C, h, w) to (C, *size).

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``. Returns ``plane`` itself where it
    has that size already.

    >>> resize_bilinear(np.array([[[0.0, 1.0]]], np.float32), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    channels, height, width = plane.shape
    if (height, width) == size:
        return plane
    up, down, row_weight = _taps(height, size[0])
    left, right, column_weight = _taps(width, size[1])
    result = np.empty((channels, *size), np.float32)
    row_weight = row_weight[:, None]
    for channel in range(channels):  # one channel at a time stays in the cache
        rows = plane[channel]
        wide = rows[:, left]
        wide += (rows[:, right] - wide) * column_weight
        tall = result[channel]
        np.take(wide, up, axis=0, out=tall, mode="clip")
        tall += (wide[down] - tall) * row_weight
    return result


def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float32]:
    """The two source positions of each target position and the weight of the second."""
    centre = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0)
    first = np.minimum(centre.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, (centre - first).astype(np.float32)


def _crop_box(image: UInt8, spec: ModelSpec, region: Bool | None, name: str) -> tuple[int, int, int, int]:
    height, width = image.shape[:2]
    if not spec.preprocess.crop_to_region:
        return 0, 0, height, width
    if region is None:
        raise DataError(
            f"{name} has no region mask, and crop_to_region is set.",
            hint="Give the folder of region masks (regions = ...) in edgeseg.toml.",
        )
    if region.shape != (height, width):
        raise DataError(
            f"{name} is {height}x{width} (rows x columns), its region mask {region.shape[0]}x{region.shape[1]}.",
            hint="Region masks must have the size of their images.",
        )
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if rows.size == 0:
        raise DataError(f"{name} has an empty region mask.", hint="Its region must have pixels that are not zero.")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _scaled_size(
    size: tuple[int, ...], target: tuple[int, int], resize: Resize, name: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size after resizing and its (top, left) offset in the model's input."""
    height, width = size[0], size[1]
    mismatch = f"{name} is {height}x{width} (rows x columns), the model takes {target[0]}x{target[1]}"
    match resize:
        case Resize.EXACT:
            if (height, width) != target:
                raise DataError(
                    f'{mismatch}, and resize is "exact".',
                    hint='Set resize = "stretch", "letterbox" or "pad" under [preprocess] in edgeseg.toml, as in training.',
                )
            return target, (0, 0)
        case Resize.STRETCH:
            return target, (0, 0)
        case Resize.PAD:
            if height > target[0] or width > target[1]:
                raise DataError(
                    f'{mismatch}, and resize = "pad" never makes an image smaller.',
                    hint='Set resize = "letterbox" or "stretch" under [preprocess] in edgeseg.toml, as in training.',
                )
            return (height, width), (0, 0)
        case Resize.LETTERBOX:
            factor = min(target[0] / height, target[1] / width)
            scaled = (
                min(target[0], max(1, round(height * factor))),
                min(target[1], max(1, round(width * factor))),
            )
            return scaled, ((target[0] - scaled[0]) // 2, (target[1] - scaled[1]) // 2)


def _order(rgb: UInt8, color: ColorOrder) -> UInt8:
    match color:
        case ColorOrder.RGB:
            return rgb
        case ColorOrder.BGR:
            return rgb[:, :, ::-1]
        case ColorOrder.GRAY:
            wide = rgb.astype(np.uint32)
            luma = wide[:, :, 0] * _LUMA[0] + wide[:, :, 1] * _LUMA[1] + wide[:, :, 2] * _LUMA[2]
            return ((luma + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def _tables(spec: ModelSpec) -> Float32:
    """What each of the 256 pixel values becomes: float32 (C, 256)."""
    rule = spec.preprocess
    channels = spec.input.channels
    mean = np.broadcast_to(np.asarray(rule.mean, np.float64), (channels,))
    std = np.broadcast_to(np.asarray(rule.std, np.float64), (channels,))
    pixel = np.arange(256, dtype=np.float64) * rule.scale
    return ((pixel[None, :] - mean[:, None]) / std[:, None] * rule.post_scale).astype(np.float32)


def _pad_pixel(spec: ModelSpec) -> UInt8:
    """The pixel that normalises nearest to ``pad_value``: uint8 (C,)."""
    distance: Float32 = np.abs(_tables(spec) - np.float32(spec.preprocess.pad_value))
    nearest: UInt8 = distance.argmin(axis=1).astype(np.uint8)
    return nearest


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
