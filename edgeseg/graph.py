"""A graph on disk: what one stage hands to the next."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgeseg.head import HeadRecord

__all__ = ["Format", "Graph", "digest_file"]


class Format(StrEnum):
    ONNX = "onnx"
    TFLITE = "tflite"
    ENGINE = "engine"


def digest_file(path: Path) -> str:
    """``sha256:`` and the hex digest of a file's bytes, read in 1 MiB pieces."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Graph:
    """An immutable file with its format. The batch is 1 and shapes are static.

    ``pixels`` is True where the file takes raw pixels (normalisation folded in) and False where it takes normalised values.
    ``head``: what the file gives, where that is not the model's logits.
    """

    path: Path
    format: Format
    digest: str
    pixels: bool = False
    head: HeadRecord | None = None

    @classmethod
    def of(cls, path: Path, format: Format, *, pixels: bool = False, head: HeadRecord | None = None) -> Graph:
        return cls(path=path, format=format, digest=digest_file(path), pixels=pixels, head=head)
