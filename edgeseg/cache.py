"""Compiled artifacts by content: the same model bytes, spec, calibration images, settings and tool versions need no work.

An entry is a whole artifact folder under its key. Entries are written beside their place and renamed into it, so two
compiles at once cannot corrupt the cache: whoever comes second finds the entry there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util
from importlib.machinery import PathFinder
from pathlib import Path

import msgspec
import platformdirs

from edgeseg.artifact import Artifact, load_artifact
from edgeseg.errors import ArtifactError, OutputError
from edgeseg.graph import digest_file

__all__ = ["Cache", "CacheKey", "code_digest", "default_cache_root", "tool_versions"]

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


def code_digest(factory: str) -> str | None:
    """Digest of the code behind ``package.module:function``, without running it: every Python file of its top-level package,
    or of the folder that its module lies in. None where the code cannot be found.

    What that code imports from other packages is not covered.
    """
    top = factory.partition(":")[0].partition(".")[0]
    # The current folder comes first, as when the factory is imported; editable installs have finders of their own.
    found = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) or util.find_spec(top)
    if found is None:
        return None
    if found.submodule_search_locations:
        files = [path for folder in found.submodule_search_locations for path in Path(folder).rglob("*.py")]
    elif found.origin is not None and Path(found.origin).is_file():
        files = list(Path(found.origin).parent.glob("*.py"))
    else:
        return None
    return hashlib.sha256("\n".join(f"{path} {digest_file(path)}" for path in sorted(files)).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A folder of artifacts by key (``artifacts``), of measured kernel times (``probe``), of what interrupted searches
    have measured (``searches``) and of the logs of compiles that failed (``logs``)."""

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
        """Copy ``artifact`` into the cache. Does nothing when the key is there already.

        Raises:
            OSError: the cache cannot be written.
        """
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
        """Remove everything that edgeseg put there, and nothing else. Returns the bytes freed.

        Raises:
            OutputError: something cannot be removed.
        """
        freed = self.size()
        try:
            for folder in self._folders():
                shutil.rmtree(folder)
        except OSError as error:
            raise OutputError(
                f"The cache {self.root} could not be cleared: {error.strerror} ({error.filename}).",
                hint="Check the folder's permissions, and that no compile is running.",
            ) from error
        return freed

    def size(self) -> int:
        """Bytes held."""
        total = 0
        for folder in self._folders():
            for member in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process may be clearing it
                    total += member.stat().st_size if member.is_file() else 0
        return total

    def _folders(self) -> list[Path]:
        folders = (self.root / name for name in ("artifacts", "probe", "searches", "logs"))
        return [folder for folder in folders if folder.is_dir()]
