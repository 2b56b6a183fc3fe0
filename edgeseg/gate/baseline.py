"""The baseline: what a later candidate is compared with, kept in a file in the repository.

It holds per-image counts, so a comparison with it is paired image by image, as exact as one with a reference in the same run. It
holds no latency: times of different runs do not compare.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from edgeseg.errors import DataError, OutputError
from edgeseg.metrics.counts import CountRecord

__all__ = ["Baseline", "read_baseline", "write_baseline"]

_SCHEMA = 1


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
                hint="Update edgeseg, or write the baseline again with --update-baseline.",
            )
        return msgspec.json.decode(text, type=Baseline)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"'{path}' is not a baseline of edgeseg: {error}.", hint="Write it again with --update-baseline."
        ) from error
