"""What a ModelSpec must satisfy beyond its types."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgeseg.spec import ClassesSpec, ColorOrder, InputSpec, Layout, ModelSpec, OutputKind, PreprocessSpec

__all__ = ["Problem", "problems"]

_LARGEST_MASK_VALUE = 65535


@dataclass(frozen=True)
class Problem:
    """Something impossible. ``key`` is where it stands, as ``section.key``."""

    key: str
    message: str
    hint: str


def problems(spec: ModelSpec) -> Iterator[Problem]:
    """All that is impossible in a spec, in the order of the file."""
    if spec.schema != 1:
        yield Problem(
            "schema", f"schema = {spec.schema} is not known to this version", "Install a newer edgeseg, or set schema = 1."
        )
    yield from _input(spec.input, spec.preprocess.color)
    yield from _preprocess(spec.preprocess, spec.input.channels)
    yield from _output(spec)
    yield from _classes(spec.classes)
    yield from _data(spec)


def _input(rule: InputSpec, color: ColorOrder) -> Iterator[Problem]:
    if rule.shape[0] != 1:
        yield Problem(
            "input.shape", f"the batch (first number) is {rule.shape[0]}, it must be 1", "Export the model at batch 1."
        )
    if min(rule.shape) < 1:
        yield Problem(
            "input.shape", f"{list(rule.shape)} has a size below 1", 'Give four sizes such as [1, 3, 360, 480] for "NCHW".'
        )
        return
    wanted = 1 if color is ColorOrder.GRAY else 3
    if rule.channels != wanted:
        other = Layout.NHWC if rule.layout is Layout.NCHW else Layout.NCHW
        turned = rule.shape[3 if rule.layout is Layout.NCHW else 1]
        if turned in {1, 3} and rule.channels not in {1, 3}:
            hint = f'Set layout = "{other.value}" under [input], or give the shape in {rule.layout.value} order.'
        elif rule.channels == 1:
            hint = 'Set color = "GRAY" under [preprocess].'
        else:
            hint = f"Edgeseg feeds images with 1 or 3 channels; the shape is read in {rule.layout.value} order."
        found = f"{list(rule.shape)} has {rule.channels} channel(s) in {rule.layout.value} order"
        message = f'{found}, color = "{color.value}" has {wanted}'
        yield Problem("input.shape", message, hint)


def _preprocess(rule: PreprocessSpec, channels: int) -> Iterator[Problem]:
    for name, values in (("mean", rule.mean), ("std", rule.std)):
        if len(values) not in {1, channels}:
            yield Problem(
                f"preprocess.{name}",
                f"{name} has {len(values)} numbers, the input has {channels} channel(s)",
                f"Give one number for all channels, or {channels}, in the order of color.",
            )
    numbers = {
        "scale": (rule.scale,),
        "mean": rule.mean,
        "std": rule.std,
        "post_scale": (rule.post_scale,),
        "pad_value": (rule.pad_value,),
    }
    for name, values in numbers.items():
        if not all(math.isfinite(value) for value in values):
            yield Problem(f"preprocess.{name}", f"{name} is not a finite number", "Give ordinary numbers.")
    if min(rule.std) <= 0:
        yield Problem(
            "preprocess.std",
            f"std is divided by, {min(rule.std):g} is impossible",
            "Give numbers above 0; 1.0 changes nothing.",
        )
    for name, value in (("scale", rule.scale), ("post_scale", rule.post_scale)):
        if value == 0:
            yield Problem(
                f"preprocess.{name}", f"{name} = 0 makes every pixel the same", 'Give 1.0 for no scaling, or "1/255".'
            )


def _output(spec: ModelSpec) -> Iterator[Problem]:
    rule = spec.output
    if not 0 < rule.threshold < 1:
        yield Problem(
            "output.threshold",
            f"threshold = {rule.threshold:g} is a probability, it must lie between 0 and 1",
            "The usual is 0.5.",
        )
    if not 1 <= rule.stride <= max(1, min(spec.input.height, spec.input.width)):
        yield Problem(
            "output.stride",
            f"stride = {rule.stride} is impossible for an input of {spec.input.height}x{spec.input.width}",
            "Give input size divided by output size: 1 for logits at full resolution, 4 at a quarter.",
        )
    names = len(spec.classes.names)
    if rule.kind is not OutputKind.LOGITS and names != 2:
        yield Problem(
            "classes.names",
            f'kind = "{rule.kind.value}" has 2 classes (background, foreground), names has {names}',
            'Name both, or set kind = "logits" under [output].',
        )


def _classes(rule: ClassesSpec) -> Iterator[Problem]:
    count = len(rule.names)
    if count < 2:
        yield Problem("classes.names", f"{count} class(es) are named, segmentation needs two", "Name the background too.")
    for name in rule.names:
        if not name.strip() or rule.names.count(name) > 1:
            what = f"the class '{name}' is named twice" if name.strip() else "a class has an empty name"
            yield Problem("classes.names", what, "Give each class a name of its own.")
            break
    if rule.palette:
        if len(rule.palette) != count:
            message = f"palette has {len(rule.palette)} colours for {count} classes"
            yield Problem("classes.palette", message, "Give one [red, green, blue] a class, or leave palette out.")
        elif any(not 0 <= part <= 255 for color in rule.palette for part in color):
            yield Problem("classes.palette", "a colour has a part outside 0..255", "Give [red, green, blue] from 0 to 255.")
        elif len(set(rule.palette)) != count:
            yield Problem("classes.palette", "two classes have the same colour", "Give each class a colour of its own.")
    if rule.mask_values:
        if len(rule.mask_values) != count:
            message = f"mask_values has {len(rule.mask_values)} values for {count} classes"
            yield Problem("classes.mask_values", message, "Give one value a class, or leave mask_values out.")
        elif len(set(rule.mask_values)) != count:
            yield Problem("classes.mask_values", "two classes have the same mask value", "Give each class a value of its own.")
        elif not all(0 <= value <= _LARGEST_MASK_VALUE for value in rule.mask_values):
            yield Problem(
                "classes.mask_values", f"a value lies outside 0..{_LARGEST_MASK_VALUE}", "Mask files hold no other values."
            )
    ignored = rule.ignore_index
    if ignored is None:
        return
    if not 0 <= ignored <= _LARGEST_MASK_VALUE:
        yield Problem(
            "classes.ignore_index",
            f"ignore_index = {ignored} cannot stand in a mask file",
            'Give the value that the files hold, or "none" where nothing is ignored.',
        )
    elif ignored in (rule.mask_values or range(count)):
        index = rule.mask_values.index(ignored) if rule.mask_values else ignored
        yield Problem(
            "classes.ignore_index",
            f"ignore_index = {ignored} is also the mask value of class '{rule.names[index]}'",
            "Give the class another value in mask_values, or take it out of names.",
        )


def _data(spec: ModelSpec) -> Iterator[Problem]:
    calibration, evaluation = spec.calibration, spec.evaluation
    if calibration.count < 1:
        yield Problem("calibration.count", f"count = {calibration.count} draws no image", "100 is usual.")
    if calibration.seed < 0:
        yield Problem("calibration.seed", f"seed = {calibration.seed} is negative", "Give 0 or more.")
    for section, rule in (("calibration", calibration), ("evaluation", evaluation)):
        if rule.set is not None and rule.images is not None:
            yield Problem(f"{section}.set", f"[{section}] has both images and set", "Keep one of them.")
        if rule.root is not None and rule.set is None:
            yield Problem(
                f"{section}.root", f"[{section}] has a root and no set", 'Add set = "NAME", or give folders by images.'
            )
        if rule.regions is not None and rule.set is not None:
            yield Problem(
                f"{section}.regions", f"[{section}] has both regions and set", "A set brings its own regions; leave them out."
            )
        if spec.preprocess.crop_to_region and rule.images is not None and rule.regions is None:
            yield Problem(
                "preprocess.crop_to_region",
                f"crop_to_region needs region masks, [{section}] has none",
                f'Set regions = "FOLDER" under [{section}], or crop_to_region = false.',
            )
    if (evaluation.images is None) != (evaluation.masks is None):
        missing = "images" if evaluation.images is None else "masks"
        there = "masks" if evaluation.images is None else "images"
        yield Problem(f"evaluation.{there}", f"[evaluation] has {there} and no {missing}", f'Set {missing} = "FOLDER" too.')
