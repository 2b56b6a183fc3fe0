"""What the two ends of an ssh connection say to each other.

There: one line ``Hello``. Here: one line ``Order``, then that many bytes of a tar archive. There: any number of ``Piece`` lines,
each followed by its bytes (samples, as they come), and at the end one ``Done`` line, followed by the standard output.
"""

from __future__ import annotations

import msgspec

__all__ = ["Answer", "Done", "Hello", "Order", "Piece"]


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """``edgeseg``: the version there."""

    edgeseg: str
    python: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """``arguments``: of the command ``edgeseg``, run in the archive's root; ended after ``limit_s`` seconds."""

    arguments: tuple[str, ...]
    bytes: int
    limit_s: float


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """The next ``bytes`` bytes of the file ``name`` in the archive's root."""

    name: str
    bytes: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The command's exit code (None: ended at its limit), the length of its output, and what it said on stderr."""

    code: int | None
    bytes: int
    said: str


Answer = Hello | Piece | Done
