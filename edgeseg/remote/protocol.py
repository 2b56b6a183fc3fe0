"""What the two ends of an ssh connection say to each other, a line of JSON each, some followed by bytes.

For a command. There: ``Hello``. Here: ``Order``, then that many bytes of a tar archive. There: any number of ``Piece``, each
followed by its bytes (samples, as they come), and at the end one ``Done``, followed by the standard output.

For a session. There: ``Hello``. Here: ``Open``, then that many bytes of a tar archive. There: ``Opened``. Then again and again:
here ``Run``, followed by the pixels and the values of an input; there ``Logits``, followed by float32 numbers. ``Refused`` in place
of an answer is the end. All numbers are little-endian.
"""

from __future__ import annotations

import msgspec

from edgeseg.session import SessionInfo

__all__ = ["Done", "Hello", "Logits", "Open", "Opened", "Order", "Piece", "Refused", "Run"]


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


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """``subject``, ``spec``: where they lie in the archive of ``bytes`` bytes; an artifact has its own spec. The rest is as for a
    file opened here."""

    subject: str
    spec: str | None
    threads: int
    pixels: bool
    output_name: str | None
    bytes: int


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """What runs there."""

    info: SessionInfo


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Shapes of ``ModelInput.pixels`` (uint8) and ``ModelInput.values`` (float32)."""

    pixels: tuple[int, ...]
    values: tuple[int, ...]


class Logits(msgspec.Struct, frozen=True, kw_only=True, tag="logits"):
    """``shape``: (1, C, h, w)."""

    shape: tuple[int, ...]
    bytes: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """An error there, with the exit code that it would have there."""

    code: int
    message: str
    hint: str
