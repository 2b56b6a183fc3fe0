"""The baseline: what a later candidate is compared with, kept in a file in the repository.

It holds per-image counts, so a comparison with it is paired image by image, as exact as one with a reference in the same run. It
holds no latency: times of different runs do not compare.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.data.pairs import EvaluationSet, LoadedSample
from edgeseg.errors import DataError, OutputError
from edgeseg.metrics.counts import CountRecord, CountSettings, ImageCounts

__all__ = ["Baseline", "Witnessed", "counts_for", "read_baseline", "write_baseline"]

_SCHEMA = 1

# With rules, --update-baseline judges against the file that is there first: one that cannot be used must go before.
_AGAIN = "delete it and write it again with --update-baseline"


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One accepted candidate.

    Attributes:
        name: of the candidate.
        digest: of its file.
        file_bytes: of its file.
        counts: on the evaluation set.
        miou: for people who look into the file; computed from the counts, never read.
        version: of edgeseg that wrote it.
    """

    name: str
    digest: str
    file_bytes: int
    counts: CountRecord
    miou: float
    version: str
    schema: int = _SCHEMA


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file; it is there whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n"
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"Cannot write the baseline '{path}': {error.strerror}.", hint="Choose another place for it."
        ) from error


class _Version(msgspec.Struct):
    schema: int


def read_baseline(path: Path) -> Baseline:
    """Read a baseline back.

    Raises:
        DataError: no such file, not a baseline, or one of a later edgeseg.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            f"There is no baseline '{path}'.", hint="Write the first one with: edgeseg gate --update-baseline"
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read the baseline '{path}': {error.strerror}.", hint="Check the path.") from error
    try:
        schema = msgspec.json.decode(text, type=_Version).schema
        if schema != _SCHEMA:
            raise DataError(
                f"The baseline '{path}' has schema {schema}, this edgeseg reads {_SCHEMA}.",
                hint=f"Update edgeseg, or {_AGAIN}.",
            )
        return msgspec.json.decode(text, type=Baseline)
    except msgspec.MsgspecError as error:
        raise DataError(f"'{path}' is not a baseline of edgeseg: {error}.", hint=f"{_AGAIN.capitalize()}.") from error


def counts_for(
    baseline: Baseline, path: Path, classes: Sequence[str], images: Sequence[str], *, some: bool = False
) -> ImageCounts:
    """The baseline's counts of the images that a file will be judged on; looked at before anything is run.

    Args:
        path: of the baseline, for messages.
        classes, images: what the file will be judged by.
        some: ``images`` are a part of the evaluation set, and so may be a part of the baseline's.

    Raises:
        DataError: the baseline is damaged, or of other classes or images.
    """
    again = f"Judge with what it was written with, or {_AGAIN}."
    wanted, found = CountSettings(classes=tuple(classes)), baseline.counts.settings
    if wanted.classes != found.classes:
        raise DataError(
            f"The baseline '{path}' was written with the classes {_listed(found.classes)}; now they are {_listed(wanted.classes)}.",
            hint=again,
        )
    if wanted != found:
        raise DataError(f"The baseline '{path}' was counted with {found}; now it is {wanted}.", hint=again)
    counts = ImageCounts.of_record(baseline.counts)
    place = {name: index for index, name in enumerate(counts.names)}
    added = [name for name in images if name not in place]
    gone = [] if some else sorted(set(place) - set(images))
    if added or gone:
        odd = [
            f"{len(names)} {what}, '{names[0]}' for example"
            for names, what in ((added, "are new"), (gone, "are gone"))
            if names
        ]
        raise DataError(
            f"The baseline '{path}' is of {len(place)} images, the evaluation set has {len(images)}: {'; '.join(odd)}.",
            hint=again,
        )
    return counts.select(np.array([place[name] for name in images], np.intp))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


@dataclass(frozen=True)
class Witnessed(EvaluationSet):
    """An evaluation set whose truth must be the one that a baseline was counted with. Masks that were changed are told at the first
    image that shows it, not when all were run."""

    truth: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """For each image, its pixels of each class, int64 (C,)."""

    @classmethod
    def of(cls, samples: EvaluationSet, counts: ImageCounts) -> Witnessed:
        """``counts``: of all the samples."""
        truth = dict(zip(counts.names, counts.confusion.sum(axis=2), strict=True))
        return cls(samples.spec, samples.samples, truth)

    def load(self, *, depth: int = 3, workers: int = 1) -> Iterator[LoadedSample]:
        """As of any evaluation set. Raises DataError as well where an image has another truth than the baseline's."""
        for loaded in super().load(depth=depth, workers=workers):
            expected = self.truth[loaded.sample.name]
            if not np.array_equal(np.bincount(loaded.truth[loaded.truth >= 0], minlength=expected.size), expected):
                raise DataError(
                    f"The truth of '{loaded.sample.name}' is another than when the baseline was written.",
                    hint=f"Masks, ignore_index, regions or sizes have changed. If they should, {_AGAIN}.",
                )
            yield loaded
