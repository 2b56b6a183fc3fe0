"""A benchmark's samples on disk, one JSON line a round, written as they come: a crash loses at most the round it fell in."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.result import CandidateFacts, Sample
from edgeseg.bench.settings import BenchSettings
from edgeseg.errors import DataError, OutputError

__all__ = ["Header", "Journal", "JournalContent", "Round", "read_journal"]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="header"):
    """First line: everything known before the first round."""

    machine: MachineFacts
    settings: BenchSettings
    cpus: tuple[int, ...]
    candidates: tuple[CandidateFacts, ...]
    timer_ns: float
    schema: int = 1


class Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="round"):
    """One round: for each candidate, in the header's order, the runs of its turn, its energy in joules if metered, and the
    nanoseconds of as many runs by the device's own clock (none where it has no such clock). ``device_host_ns``: the host's time for
    all of those."""

    turns: tuple[tuple[Sample, ...], ...]
    joules: tuple[float, ...] = ()
    device: tuple[tuple[int, ...], ...] = ()
    device_host_ns: int = 0


@dataclass(frozen=True)
class JournalContent:
    header: Header
    rounds: list[Round] = field(default_factory=list)


class Journal:
    """Appends lines to a file. Each line is one write call, so the kernel has all of it or nothing when the process dies.

    Args:
        path: a new file; its folder must exist. None: nothing is written.

    Raises:
        OutputError: the file cannot be made, or a line cannot be written (disk full).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
            except OSError as error:
                raise OutputError(
                    f"Cannot write samples to '{path}': {error.strerror}.", hint="Choose another --output."
                ) from error

    def write(self, entry: Header | Round) -> None:
        """Append one line."""
        if self._descriptor is None:
            return
        line = msgspec.json.encode(entry) + b"\n"
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise OutputError(
                f"Cannot write samples to '{self._path}': {error.strerror}.", hint="Free some space on the disk."
            ) from error
        if written != len(line):
            raise OutputError(f"Only a part of a line fitted into '{self._path}'.", hint="Free some space on the disk.")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_journal(path: Path) -> JournalContent:
    """Read a journal back. A last line without its end is dropped: the machine lost power while it was written.

    Raises:
        DataError: not a journal, or a line inside is damaged.
    """
    try:
        *lines, _unfinished = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"Cannot read '{path}': {error.strerror}.", hint="Check the path.") from error
    decoder: msgspec.json.Decoder[Header | Round] = msgspec.json.Decoder(Header | Round)
    try:
        entries = [decoder.decode(line) for line in lines]
    except msgspec.MsgspecError as error:
        raise DataError(f"'{path}' is not a journal of edgeseg bench: {error}.", hint="Measure again.") from error
    if not entries or not isinstance(entries[0], Header):
        raise DataError(f"'{path}' has no header line.", hint="Measure again.")
    return JournalContent(entries[0], [entry for entry in entries[1:] if isinstance(entry, Round)])
