"""Compiled artifacts by content: the same model bytes, spec, calibration images, settings and tool versions need no work.

An entry is a whole artifact folder under its key. Entries are written beside their place and renamed into it, so two
compiles at once cannot corrupt the cache: whoever comes second finds the entry there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import platformdirs

from edgeseg.artifact import Artifact, load_artifact
from edgeseg.errors import ArtifactError

__all__ = ["Cache", "CacheKey", "default_cache_root", "tool_versions"]

_TOOLS = (
    "edgeseg",
    "numpy",
    "pillow",
    "torch",
    "onnx",
    "onnxscript",
    "onnxslim",
    "onnxruntime",
    "ai-edge-litert",
    "onnx2tf",
    "tensorflow",
)


def tool_versions() -> dict[str, str]:
    """Installed versions of every tool whose change may change an artifact, without importing any."""
    versions = {}
    for tool in _TOOLS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[tool] = metadata.version(tool)
    return versions


def default_cache_root() -> Path:
    """``EDGESEG_CACHE``, or the user's cache folder."""
    configured = os.environ.get("EDGESEG_CACHE")
    return Path(configured) if configured else Path(platformdirs.user_cache_dir("edgeseg"))


class CacheKey(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a compile produces. Digests are ``sha256:...``; ``spec`` is the spec as JSON."""

    source: str
    factory: str
    spec: str
    calibration: str
    settings: dict[str, str]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A folder of artifacts by key."""

    root: Path

    def find(self, key: CacheKey) -> Artifact | None:
        """The artifact under ``key``, verified; an entry that was damaged is removed and counts as absent."""
        entry = self.root / "artifacts" / key.digest
        if not entry.is_dir():
            return None
        try:
            return load_artifact(entry)
        except ArtifactError:
            # A damaged entry is only lost work: compile again rather than ask the user to clean up.
            shutil.rmtree(entry, ignore_errors=True)
            return None

    def store(self, key: CacheKey, artifact: Artifact) -> None:
        """Copy ``artifact`` into the cache. Does nothing when the key is there already."""
        entry = self.root / "artifacts" / key.digest
        if entry.is_dir():
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.parent / f".partial-{os.getpid()}-{key.digest[:16]}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(artifact.path, partial)
            partial.rename(entry)
        except OSError:
            # Another process stored the same key first (rename refuses a non-empty folder): its entry is as good as ours.
            if not entry.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def clear(self) -> int:
        """Remove every entry. Returns the bytes freed."""
        freed = self.size()
        shutil.rmtree(self.root, ignore_errors=True)
        return freed

    def size(self) -> int:
        """Bytes held."""
        return sum(member.stat().st_size for member in self.root.rglob("*") if member.is_file())
