"""Where an interrupted search is kept between two compiles, and what is said of going on from it."""

from __future__ import annotations

import msgspec

from edgeseg.cache import default_cache_root, tool_versions
from edgeseg.data.calibration import CalibrationSet
from edgeseg.quantize.journal import SearchJournal, digest_of
from edgeseg.spec import ModelSpec

__all__ = ["journal_of", "resumed_notes"]


def journal_of(graph: bytes, calibration: CalibrationSet, spec: ModelSpec, asked: str) -> SearchJournal:
    """What was measured of a float graph on these images, if a search of them was interrupted.

    Args:
        graph: its file's bytes.
        calibration: the images; files and order count.
        spec: how they are prepared, and what the output means.
        asked: what else decides what is measured.
    """
    told = msgspec.json.encode((msgspec.to_builtins(spec), calibration.digest, asked, tool_versions()))
    return SearchJournal(default_cache_root() / "searches" / f"{digest_of(graph, told)}.jsonl")


def resumed_notes(journal: SearchJournal) -> tuple[str, ...]:
    """For the manifest."""
    if not journal.resumed:
        return ()
    return (f"went on from {journal.resumed} measurements of an interrupted search",)
