"""The first edgeseg.toml: what the model's file and the images tell, and what the user answered by flags."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from edgeseg.data.sources import find_images
from edgeseg.errors import DataError, OutputError, SpecError, UsageError
from edgeseg.facts import ModelFacts, probe
from edgeseg.model import load_model
from edgeseg.preprocess import open_picture
from edgeseg.spec import (
    CalibrationSpec,
    ClassesSpec,
    ColorOrder,
    EvaluationSpec,
    InputSpec,
    Interpolation,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
    Resize,
)
from edgeseg.spec_file import dump_spec, load_spec

__all__ = ["Answers", "Proposal", "propose", "write_spec"]

_OPEN = -1  # no mask holds it


@dataclass(frozen=True)
class Answers:
    """The flags of ``edgeseg init``, as text; None is what the user left open."""

    images: str | None = None
    masks: str | None = None
    eval_images: str | None = None
    shape: str | None = None
    classes: str | None = None
    ignore_index: str | None = None
    color: str | None = None
    scale: str | None = None
    mean: str | None = None
    std: str | None = None
    post_scale: str | None = None
    resize: str | None = None
    interpolation: str | None = None
    kind: str | None = None
    threshold: float | None = None
    factory: str | None = None
    trust_pickle: bool = False
    output_name: str | None = None


@dataclass(frozen=True)
class Proposal:
    """``guessed``: what no file and no flag told, in words, for the user to check."""

    spec: ModelSpec
    guessed: tuple[str, ...]


def propose(model_path: Path, answers: Answers, folder: Path) -> Proposal:
    """Load the model, run it once, and fill in a spec whose relative paths refer to ``folder``.

    Raises:
        UsageError: the model does not tell its input shape and ``--shape`` was not given.
        EdgesegError: whatever loading the model raises.
    """
    model = load_model(model_path, factory=answers.factory, trust_pickle=answers.trust_pickle, output_name=answers.output_name)
    facts = probe(model, shape=_shape(answers.shape))
    if facts.input_shape is None or facts.channels is None:
        raise UsageError(f"'{model_path}' does not say the size of its input.", hint="Give it: --shape 1,3,512,512 (N,C,H,W).")
    guessed: list[str] = []
    preprocess = _preprocess(facts, answers, guessed)
    kind = OutputKind(answers.kind) if answers.kind else _kind(facts.channels, guessed)
    spec = ModelSpec(
        input=InputSpec(shape=facts.input_shape),
        preprocess=preprocess,
        output=OutputSpec(
            kind=kind,
            threshold=answers.threshold if answers.threshold is not None else 0.5,
            stride=facts.stride or 1,
            name=answers.output_name,
        ),
        classes=_classes(facts.channels, kind, answers, guessed),
        calibration=CalibrationSpec(images=_relative(answers.images, folder)),
        evaluation=EvaluationSpec(
            images=_relative(answers.eval_images or (answers.images if answers.masks else None), folder),
            masks=_relative(answers.masks, folder),
        ),
    )
    if answers.images is None:
        guessed.append("[calibration] images: none given; compile needs typical images")
    if answers.masks and answers.eval_images is None:
        guessed.append("[evaluation] images are the calibration images; give others with --eval-images for an honest score")
    return Proposal(spec, tuple(guessed))


def write_spec(path: Path, spec: ModelSpec, *, force: bool) -> None:
    """Write ``spec`` as TOML and read it back, so that what is written is known to be valid.

    Raises:
        OutputError: the file exists (without ``force``) or cannot be written.
        SpecError: the answers contradict each other.
    """
    if path.exists() and not force:
        raise OutputError(f"'{path}' exists.", hint="Replace it with --force, or write elsewhere with --output.")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(dump_spec(spec), encoding="utf-8")
        load_spec(partial)
        partial.replace(path)
    except SpecError as error:
        raise SpecError(error.message.replace(str(partial), "the answers"), hint=error.hint) from error
    except OSError as error:
        raise OutputError(
            f"Could not write '{path}': {error.strerror or error}.", hint="Choose another place with --output."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _shape(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"'{text}' is not a shape.", hint="Write --shape 1,3,512,512 (N,C,H,W).") from error
    if len(numbers) != 4 or min(numbers) < 1:
        raise UsageError(f"'{text}' is not a shape of four sizes.", hint="Write --shape 1,3,512,512 (N,C,H,W).")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{flag} '{text}' is not a list of numbers.", hint=f"Write {flag} 0.485,0.456,0.406.") from error


def _preprocess(facts: ModelFacts, answers: Answers, guessed: list[str]) -> PreprocessSpec:
    channels = facts.input_channels or 3
    if channels not in {1, 3}:
        raise UsageError(
            f"The model takes {channels} channels; edgeseg prepares images of 1 or 3.",
            hint="Wrap the model so that it takes a grey or a colour image.",
        )
    color = ColorOrder(answers.color) if answers.color else (ColorOrder.GRAY if channels == 1 else ColorOrder.RGB)
    if answers.color is None and channels == 3:
        guessed.append("[preprocess] color = RGB")
    if answers.mean is None or answers.std is None:
        guessed.append("[preprocess] scale, mean and std: as in the training code")
    resize = Resize(answers.resize) if answers.resize else _resize(facts, answers, guessed)
    return PreprocessSpec(
        color=color,
        scale=_numbers(answers.scale, "--scale")[0] if answers.scale else 1 / 255,
        mean=_numbers(answers.mean, "--mean") if answers.mean else (0.0,),
        std=_numbers(answers.std, "--std") if answers.std else (1.0,),
        post_scale=_numbers(answers.post_scale, "--post-scale")[0] if answers.post_scale else 1.0,
        resize=resize,
        interpolation=Interpolation(answers.interpolation) if answers.interpolation else Interpolation.BILINEAR,
    )


def _resize(facts: ModelFacts, answers: Answers, guessed: list[str]) -> Resize:
    """Exact where the first image has the model's size; otherwise stretch, to be checked."""
    if answers.images is None or facts.input_shape is None:
        return Resize.EXACT
    found = find_images([answers.images], Path.cwd(), what="calibration images")
    width, height = open_picture(found[0][1]).size
    if (height, width) == facts.input_shape[2:]:
        return Resize.EXACT
    guessed.append(f"[preprocess] resize = stretch: images are {height}x{width}, the model takes other sizes")
    return Resize.STRETCH


def _kind(channels: int, guessed: list[str]) -> OutputKind:
    if channels == 1:
        guessed.append("[output] kind = sigmoid: one channel, taken for a logit")
        return OutputKind.SIGMOID
    return OutputKind.LOGITS


def _classes(channels: int, kind: OutputKind, answers: Answers, guessed: list[str]) -> ClassesSpec:
    count = channels if kind is OutputKind.LOGITS else 2
    if answers.classes:
        names = tuple(name.strip() for name in answers.classes.split(","))
    else:
        names = ("background", "foreground") if count == 2 else tuple(f"class{index}" for index in range(count))
        guessed.append(f"[classes] names: {count} channels, named {names[0]} ... {names[-1]}")
    ignored = _ignored(answers)
    values: tuple[int, ...] = ()
    if len(names) == 2 and answers.masks is not None and ignored != 255 and _hold_0_and_255(answers.masks):
        # Two classes in such masks: 255 is the second, or there would be only one.
        ignored, values = (None if answers.ignore_index is None else ignored), (0, 255)
        guessed.append(f"[classes] mask_values = [0, 255]: the masks hold these, 255 is {names[1]}")
    return ClassesSpec(names=names, ignore_index=255 if ignored is _OPEN else ignored, mask_values=values)


def _ignored(answers: Answers) -> int | None:
    """The mask value that the user says does not count; ``_OPEN`` where they say nothing.

    Raises:
        UsageError: it is no number.
    """
    told = answers.ignore_index
    if told is None:
        return _OPEN
    if told == "none":
        return None
    try:
        return int(told)
    except ValueError as error:
        raise UsageError(
            f"--ignore-index {told} is no mask value.", hint='Give a whole number, or "none" where every pixel counts.'
        ) from error


def _hold_0_and_255(masks: str) -> bool:
    """Whether the first masks hold these two values and no other.

    Raises:
        DataError: one is a colour picture.
    """
    seen: set[int] = set()
    for _, path in find_images([masks], Path.cwd(), what="masks")[:8]:
        picture = open_picture(path)
        if picture.mode not in {"L", "1", "P"}:
            raise DataError(f"{path} is a colour picture, not a mask.", hint="Give the classes a palette in edgeseg.toml.")
        seen |= set(np.unique(np.asarray(picture.convert("L"))).tolist())
    return seen == {0, 255}


def _relative(given: str | None, folder: Path) -> str | None:
    """A path that was typed relative to the current folder, as seen from the folder of edgeseg.toml."""
    return None if given is None else os.path.relpath(str(Path(given).expanduser()), str(folder))
