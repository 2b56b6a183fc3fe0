"""edgeseg.toml: reading it with errors that name file and line, writing it with a comment on each key, finding it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import msgspec

from edgeseg.errors import SpecError
from edgeseg.spec import ColorOrder, Interpolation, Layout, ModelSpec, OutputKind, Resize
from edgeseg.spec_rules import problems

__all__ = ["SPEC_NAME", "check_spec", "dump_spec", "find_spec", "load_spec", "parse_spec", "place_of", "spec_beside"]

SPEC_NAME = "edgeseg.toml"

# Numbers that are fractions by nature may be written so: "1/255" is exact where 0.0039 is not.
_FRACTIONS = ("scale", "mean", "std", "post_scale", "pad_value")
_CHOICES: Mapping[str, type[Enum]] = {
    "input.layout": Layout,
    "preprocess.color": ColorOrder,
    "preprocess.resize": Resize,
    "preprocess.interpolation": Interpolation,
    "output.kind": OutputKind,
}

_COMMENTS = {
    "schema": "Version of this file's format.",
    "input": "What the model takes.",
    "input.shape": "Sizes in the order of layout; the batch is 1.",
    "input.layout": "NCHW or NHWC, as the PyTorch model takes it.",
    "preprocess": "From an image to the input: value = (pixel * scale - mean) / std * post_scale, with pixel in 0..255.",
    "preprocess.color": "Channel order: RGB, BGR or GRAY.",
    "preprocess.scale": 'A number, or a fraction such as "1/255".',
    "preprocess.mean": "One number a channel in the order of color, or one for all.",
    "preprocess.std": "As mean.",
    "preprocess.post_scale": "Applied last; rarely other than 1.",
    "preprocess.resize": "exact: images have the input's size; stretch: resized, aspect ignored; "
    "pad: never resized, padded at bottom and right; letterbox: resized to fit, then padded evenly.",
    "preprocess.interpolation": "nearest, bilinear, bicubic or area.",
    "preprocess.pad_value": "What a padded position holds, after normalising.",
    "preprocess.crop_to_region": "Cut each image to the bounding box of its region mask first.",
    "output": "What the model gives.",
    "output.kind": "logits: one channel a class, the largest wins; sigmoid: one channel, before the sigmoid; "
    "probability: one channel, after it.",
    "output.threshold": "For sigmoid and probability: class 1 above it.",
    "output.stride": "Input size divided by output size.",
    "output.name": "Which output, where the model has several.",
    "classes": "The classes that count, in the order of the output's channels.",
    "classes.names": "A channel without a name here is void: predicting it on a counted pixel is an error.",
    "classes.palette": "One [red, green, blue] a class, for pictures and for masks that are stored as colours.",
    "classes.ignore_index": 'Mask value of pixels that do not count; "none" where all count.',
    "classes.mask_values": "Value in a mask file that means each class; left out: 0, 1, 2, ...",
    "calibration": "Images that set the INT8 ranges: typical ones, not those of [evaluation]; no labels needed.",
    "calibration.images": "Folder or glob, relative to this file.",
    "calibration.set": "Instead of images: name of a data-set manifest ...",
    "calibration.root": "... and the folder that the set was prepared into.",
    "calibration.regions": "Folder or glob of region masks, for crop_to_region.",
    "calibration.masks": "Folder or glob of their masks, if there are any: what INT8 loses is then measured on them too.",
    "calibration.count": "How many images are drawn.",
    "calibration.seed": "By which seed.",
    "evaluation": "Image and mask pairs that judge. Files are paired by stem, after the suffixes below are cut off.",
    "evaluation.images": "Folder or glob, relative to this file.",
    "evaluation.masks": "Folder or glob, relative to this file.",
    "evaluation.regions": "Folder or glob of pictures whose zero pixels do not count.",
    "evaluation.set": "Instead of images and masks: name of a data-set manifest ...",
    "evaluation.root": "... and the folder that the set was prepared into.",
    "evaluation.mask_suffix": "End of a mask's stem, such as _labels in street_1_labels.png.",
    "evaluation.region_suffix": "End of a region mask's stem.",
    "evaluation.image_suffix": "End of an image's stem.",
    "gate": "What edgeseg gate judges by.",
    "gate.rules": "Limits of change, time and size.",
}
_EXAMPLES: Mapping[str, str | tuple[str, ...]] = {
    "output.name": "logits",
    "calibration.images": "photos",
    "calibration.set": "camvid",
    "calibration.root": "data/camvid",
    "calibration.regions": "regions",
    "evaluation.images": "val/images",
    "evaluation.masks": "val/masks",
    "evaluation.regions": "val/regions",
    "evaluation.set": "camvid",
    "evaluation.root": "data/camvid",
    "gate.rules": ("miou:-0.5pt", "worst_class:-2pt", "size:4MB"),
}


def load_spec(path: Path) -> ModelSpec:
    """Read and check edgeseg.toml.

    Raises:
        SpecError: it is missing or unreadable, is not TOML, has an unknown key, a value of the wrong type or an impossible
            one. The message begins with file and line.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"There is no {path}.", hint="Create it with: edgeseg init MODEL") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read: {error}.", hint="It must be a UTF-8 text file; create one with: edgeseg init MODEL"
        ) from error
    return parse_spec(text, str(path))


def parse_spec(text: str, name: str = SPEC_NAME) -> ModelSpec:
    """Read and check the text of an edgeseg.toml. ``name``: what messages call it.

    Raises:
        SpecError: as ``load_spec``.
    """
    try:
        table: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = place.group(1) if place else str(len(text.splitlines()))
        reason = re.sub(r" \(at .*\)$", "", str(error))
        raise SpecError(
            f"{name}:{line}: this is not TOML: {reason}.", hint="Strings need quotes; lists are [1, 2, 3]."
        ) from error
    source = _Source(name, text)
    _check_keys(table, source)
    plain = _plain(table, source)
    try:
        spec = msgspec.convert(plain, ModelSpec)
    except msgspec.ValidationError as error:
        _raise_invalid(str(error), plain, source)
    for problem in problems(spec):
        raise SpecError(f"{source.at(problem.key)}: {problem.message}.", hint=problem.hint)
    return spec


def check_spec(spec: ModelSpec, name: str = "The spec") -> None:
    """Check a spec that was built in memory.

    Raises:
        SpecError: something in it is impossible.
    """
    for problem in problems(spec):
        raise SpecError(f"{name}: {problem.key}: {problem.message}.", hint=problem.hint)


def place_of(path: Path, key: str, value: str) -> str:
    """``file:line`` where a value stands below a key of a file that ``load_spec`` has read; of the key itself, where the value is
    written in another way."""
    text = path.read_text("utf-8")
    file, _, start = _Source(str(path), text).at(key).rpartition(":")
    lines = text.splitlines()
    found = (number for number in range(int(start), len(lines) + 1) if value in lines[number - 1])
    return f"{file}:{next(found, int(start))}"


def find_spec(model: Path, folder: Path) -> Path:
    """edgeseg.toml beside the model, else the one in ``folder`` (the current folder, as a rule).

    Raises:
        SpecError: there is neither.
    """
    found = spec_beside(model, folder)
    if found is not None:
        return found
    raise SpecError(f"There is no {SPEC_NAME} beside {model} or in {folder}.", hint=f"Create one with: edgeseg init {model}")


def spec_beside(model: Path, folder: Path) -> Path | None:
    """As ``find_spec``, and None where there is neither."""
    candidates = (model.parent / SPEC_NAME, folder / SPEC_NAME)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def dump_spec(spec: ModelSpec) -> str:
    """edgeseg.toml as text, with a comment on each key; keys without a value stand there as comments.

    ``parse_spec`` gives the same spec back.
    """
    lines = [f"# {_COMMENTS['schema']}", f"schema = {spec.schema}"]
    for section in ("input", "preprocess", "output", "classes", "calibration", "evaluation", "gate"):
        table = getattr(spec, section)
        lines += ["", f"# {_COMMENTS[section]}", f"[{section}]"]
        for field in msgspec.structs.fields(table):
            key = f"{section}.{field.name}"
            lines.append(f"# {_COMMENTS[key]}")
            value = getattr(table, field.name)
            if key == "classes.ignore_index" and value is None:
                value = "none"
            if value is None or value == ():
                example = _EXAMPLES.get(key)
                lines.append(f"# {field.name} = {_toml(example) if example is not None else '[...]'}")
            else:
                is_fraction = section == "preprocess" and field.name in _FRACTIONS
                lines.append(f"{field.name} = {_toml(value, fractions=is_fraction)}")
    return "\n".join(lines) + "\n"


class _Source:
    """The text of the file, to say on which line a key stands."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines: dict[str, int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[([^\[\]]+)\]", line):
                section = _bare(header.group(1))
                self.lines.setdefault(section, number)
            elif key := re.match(r"\s*([\w.\-\"' ]+?)\s*=", line):
                full = ".".join(part for part in (section, _bare(key.group(1))) if part)
                self.lines.setdefault(full, number)

    def at(self, key: str) -> str:
        """``file:line`` of a key; of its section, or of the file's first line, where the key itself is not written."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{self.name}:{self.lines.get(key, 1)}"


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _check_keys(table: Mapping[str, object], source: _Source) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(ModelSpec)}
    _check_names(table, known, "", source)
    for section, content in table.items():
        kind = known[section]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if not isinstance(content, dict):
                raise SpecError(
                    f"{source.at(section)}: '{section}' must be a section.", hint=f"Write [{section}], then its keys below."
                )
            _check_names(content, [field.name for field in msgspec.structs.fields(kind)], section, source)
    for section in ("input", "classes"):
        if section not in table:
            raise SpecError(
                f"{source.name}:1: the section [{section}] is missing.", hint="Let edgeseg write it: edgeseg init MODEL"
            )


def _check_names(content: Iterable[str], known: Iterable[str], section: str, source: _Source) -> None:
    known = list(known)
    for name in content:
        if name in known:
            continue
        place = source.at(f"{section}.{name}" if section else name)
        close = get_close_matches(name.lower(), known, n=1)
        where = f" in [{section}]" if section else ""
        hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(known)}."
        raise SpecError(f"{place}: unknown key '{name}'{where}.", hint=hint)


def _plain(table: Mapping[str, object], source: _Source) -> dict[str, object]:
    """The table with fractions as numbers and "none" as None."""
    plain = dict(table)
    preprocess = table.get("preprocess")
    if isinstance(preprocess, dict):
        plain["preprocess"] = {
            key: _number(value, f"preprocess.{key}", source) if key in _FRACTIONS else value
            for key, value in preprocess.items()
        }
    classes = table["classes"]
    if isinstance(classes, dict) and classes.get("ignore_index") == "none":
        plain["classes"] = {**classes, "ignore_index": None}
    return plain


def _number(value: object, key: str, source: _Source) -> object:
    if isinstance(value, list):
        return [_number(item, key, source) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise SpecError(
            f"{source.at(key)}: '{value}' is not a number.", hint='Write a number, or a fraction such as "1/255".'
        ) from error


def _raise_invalid(message: str, table: Mapping[str, object], source: _Source) -> NoReturn:
    what, _, path = message.partition(" - at `$")
    key = re.sub(r"\[[^\]]*\]", "", path.rstrip("`")).strip(".")
    value = _look_up(table, key)
    if key in _CHOICES:
        choices = [str(choice.value) for choice in _CHOICES[key]]
        close = get_close_matches(str(value).lower(), [choice.lower() for choice in choices], n=1)
        meant = [choice for choice in choices if close and choice.lower() == close[0]]
        raise SpecError(
            f"{source.at(key)}: {key} = {value!r} is not one of {', '.join(choices)}.",
            hint=f'Did you mean "{meant[0]}"?' if meant else "Choose one of them.",
        )
    missing = re.search(r"missing required field `(\w+)`", what)
    if missing:
        raise SpecError(
            f"{source.at(key)}: '{missing.group(1)}' is missing in [{key}].", hint="Let edgeseg write it: edgeseg init MODEL"
        )
    raise SpecError(
        f"{source.at(key)}: {key} has a wrong value: {what[:1].lower()}{what[1:]}.",
        hint=f"{_COMMENTS.get(key, 'See the documentation of edgeseg.toml.')}",
    )


def _look_up(table: object, key: str) -> object:
    for part in key.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    return table


def _toml(value: object, *, fractions: bool = False) -> str:
    """A TOML value. msgspec's own encoder would need a further package."""
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()  # a JSON string is a TOML basic string
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item, fractions=fractions) for item in value) + "]"
    if fractions and isinstance(value, float) and len(repr(value)) > 9:
        short = Fraction(value).limit_denominator(1000)
        if float(short) == value:
            return f'"{short}"'
    return repr(value)
