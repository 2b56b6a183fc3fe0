"""What a search has measured so far, on disk as it is measured: an interrupted search that is asked for again goes on from there.

Measurements depend on the float graph, the images and what is asked, and on nothing else; the file's name says the first two, its
lines the third. A line that was cut short by the interruption is left out.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from edgeseg.pipeline import OUT_OF_TIME
from edgeseg.quantize.plan import QuantPlan, TensorQuant

__all__ = ["SearchJournal", "digest_of", "plan_key", "tensor_key"]

log = logging.getLogger("edgeseg.search")

_INFINITE = 1e300


class _Line(msgspec.Struct):
    key: str
    values: tuple[float, ...]


class SearchJournal:
    """Answers by key; without a path they live as long as the object.

    Args:
        path: lines of JSON, appended to. What is there is read. Where it cannot be read or written, a warning says so, and the
            search runs without it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, tuple[float, ...]] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().splitlines() if path.is_file() else []
        except OSError as error:
            self._give_up(error)
            return
        for line in lines:
            try:
                found = msgspec.json.decode(line, type=_Line)
            except msgspec.MsgspecError:
                continue
            self._known[found.key] = tuple(map(_decoded, found.values))
        if lines:
            log.info("going on from %d measurements in %s", len(self._known), path)
        self.resumed = len(self._known)

    resumed: int = 0
    """Measurements that an earlier search left."""

    def get(self, key: str) -> tuple[float, ...] | None:
        """The answer to ``key`` where it is known."""
        return self._known.get(key)

    def once(self, key: str, measure: Callable[[], Sequence[float]]) -> tuple[float, ...]:
        """The answer to ``key``; measured only where it is not known."""
        if key not in self._known:
            self._known[key] = values = tuple(float(value) for value in measure())
            if self._path is not None:
                try:
                    with self._path.open("ab") as file:
                        file.write(_encode(key, values))
                except OSError as error:
                    self._give_up(error)
        return self._known[key]

    def finish(self, notes: Iterable[str]) -> None:
        """The search has come to its end, and this is what it has to say. If time ran out, what was measured is kept, so that the
        same search with more time goes on from there."""
        if self._path is not None and not any(note.startswith(OUT_OF_TIME) for note in notes):
            self._path.unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        log.warning("Measurements are not kept, an interrupted search starts anew: %s: %s", self._path, error.strerror)
        self._path = None


def _encode(key: str, values: Sequence[float]) -> bytes:
    # JSON has no infinity, and infinite noise is an answer. The line before may have been cut short.
    finite = [max(-_INFINITE, min(value, _INFINITE)) for value in values]
    return b"\n" + msgspec.json.encode({"key": key, "values": finite}) + b"\n"


def _decoded(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= _INFINITE else value


def digest_of(*parts: bytes) -> str:
    """A name for what a search works on: 24 hexadecimal digits."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:24]


def plan_key(plan: QuantPlan) -> str:
    """A name for what a plan does, whatever it says of the reasons."""
    tensors = sorted((name, _text(quant)) for name, quant in plan.tensors.items())
    ops = [(entry.op, entry.domain.value) for entry in plan.ops]
    return "plan " + digest_of(repr((tensors, ops)).encode())


def tensor_key(name: str, quant: TensorQuant | None) -> str:
    """A name for holding one tensor in int8, or for an operator's weights where ``quant`` is None."""
    return f"{name} weights" if quant is None else f"{name} {_text(quant)}"


def _text(quant: TensorQuant) -> str:
    return msgspec.json.encode(quant).decode()
