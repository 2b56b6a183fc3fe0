"""Data-set manifests: ``calibration/*.toml``, one a public data set: how to get it and what is in it. They hold no pixels.

``edgeseg.data.prepare`` brings an official download into edgeseg's layout, in which every set looks the same::

    root/<split>/images/<stem>.<jpg|png|...>     pictures as they were downloaded
    root/<split>/masks/<stem>.png                one channel, class index, 255 = ignored
    root/<split>/regions/<stem>.png              0 outside, 255 inside; only where the set has them
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib import resources
from pathlib import Path

import msgspec

from edgeseg.errors import DataError, UsageError
from edgeseg.spec import ClassesSpec

__all__ = [
    "IGNORED",
    "DownloadForm",
    "Labels",
    "Manifest",
    "Role",
    "SplitFolders",
    "SplitSource",
    "list_manifests",
    "load_manifest",
]

IGNORED = 255
"""What an ignored pixel holds in a prepared mask."""


class Role(StrEnum):
    """What a split is used for."""

    CALIBRATION = "calibration"
    EVALUATION = "evaluation"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Labels(_Table, frozen=True, kw_only=True):
    """What the values, or else the RGB colours, of an official mask mean: entry i lists what means class i.

    ``ignored`` and ``ignored_colors`` are void; anything else is an error, unless ``others_ignored``.
    """

    values: tuple[tuple[int, ...], ...] = ()
    colors: tuple[tuple[tuple[int, int, int], ...], ...] = ()
    ignored: tuple[int, ...] = ()
    ignored_colors: tuple[tuple[int, int, int], ...] = ()
    others_ignored: bool = False


class SplitSource(_Table, frozen=True, kw_only=True):
    """Where one split is in the download. ``{stem}`` and other ``{names}`` in a pattern stand for text without a slash.

    ``list``: a text file whose lines begin with a stem. ``only`` and ``without``: stems, shell patterns, or ``first..last``
    ranges in alphabetical order, to choose among what the patterns find.
    """

    name: str
    images: str
    masks: str
    regions: str | None = None
    list: str | None = None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class DownloadForm(_Table, frozen=True, kw_only=True):
    """One of the forms in which the data set is handed out. The first whose ``needs`` all exist is used."""

    title: str
    needs: tuple[str, ...]
    labels: Labels
    splits: tuple[SplitSource, ...]


@dataclass(frozen=True)
class SplitFolders:
    """A split in edgeseg's layout."""

    images: Path
    masks: Path
    regions: Path | None


class Manifest(_Table, frozen=True, kw_only=True):
    """One data set. ``classes`` describes the prepared masks. ``package`` names the Python package that holds the prepared
    pictures, where the set is part of edgeseg itself."""

    name: str
    title: str
    homepage: str = ""
    obtain: str
    licence: str
    citation: str
    splits: tuple[str, ...]
    calibration: str
    evaluation: str
    classes: ClassesSpec
    regions: bool = False
    package: str | None = None
    forms: tuple[DownloadForm, ...] = ()

    def folders(self, root: Path | None, role: Role) -> SplitFolders:
        """The folders of the split for ``role``.

        Args:
            root: where the set was prepared; None for a set that ships with edgeseg.

        Raises:
            UsageError: the set does not ship with edgeseg and ``root`` is None.
            DataError: the folders are not there.
        """
        if root is None:
            if self.package is None:
                raise UsageError(
                    f"The data set '{self.name}' is named without a root folder.",
                    hint=f'Set root = "FOLDER" beside set = "{self.name}", the folder that the set was prepared into.',
                )
            root = Path(str(resources.files(self.package)))
        split = root / (self.calibration if role is Role.CALIBRATION else self.evaluation)
        folders = SplitFolders(split / "images", split / "masks", split / "regions" if self.regions else None)
        needed = (
            (folders.images, folders.masks, folders.regions) if role is Role.EVALUATION else (folders.images, folders.regions)
        )
        for folder in needed:
            if folder is not None and not folder.is_dir():
                raise DataError(
                    f"The prepared data set '{self.name}' has no folder {folder}.",
                    hint="Prepare it from the official download first (see the set's manifest), or correct root.",
                )
        return folders


def list_manifests() -> tuple[str, ...]:
    """Names of the data sets that have a manifest, in alphabetical order."""
    return tuple(sorted(_manifest_files()))


def load_manifest(name: str) -> Manifest:
    """The manifest of a data set, by its name (``camvid``, ``cityscapes``, ...).

    Raises:
        UsageError: there is none of this name.
        DataError: the manifest is not valid.
    """
    files = _manifest_files()
    if name not in files:
        close = get_close_matches(name.lower(), files, n=1)
        raise UsageError(
            f"There is no data set manifest '{name}'.",
            hint=f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(sorted(files))}.",
        )
    try:
        table = tomllib.loads(files[name])
        manifest = msgspec.convert({"name": name, **table}, Manifest)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DataError(
            f"The manifest {name}.toml is not valid: {error}.", hint="Correct it in the folder calibration/."
        ) from error
    for problem in _problems(manifest):
        raise DataError(f"The manifest {name}.toml is not valid: {problem}.", hint="Correct it in the folder calibration/.")
    return manifest


def _manifest_files() -> dict[str, str]:
    folder = resources.files("edgeseg") / "calibration"
    return {file.name[:-5]: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".toml")}


def _problems(manifest: Manifest) -> list[str]:
    classes = len(manifest.classes.names)
    found = [
        f"'{split}' is not one of its splits"
        for split in (manifest.calibration, manifest.evaluation)
        if split not in manifest.splits
    ]
    if len(set(manifest.classes.names)) != classes:
        found.append("a class name is there twice")
    if manifest.classes.palette and len(manifest.classes.palette) != classes:
        found.append(f"{len(manifest.classes.palette)} palette colours for {classes} classes")
    if manifest.classes.ignore_index != IGNORED or manifest.classes.mask_values:
        found.append("prepared masks hold class indices and 255, so ignore_index must be 255 and mask_values empty")
    for form in manifest.forms:
        labels = form.labels
        if bool(labels.values) == bool(labels.colors):
            found.append(f"'{form.title}' must have either label values or label colours")
        elif len(labels.values or labels.colors) != classes:
            found.append(f"'{form.title}' has {len(labels.values or labels.colors)} labels for {classes} classes")
        for split in form.splits:
            if split.name not in manifest.splits:
                found.append(f"'{form.title}' has an unknown split '{split.name}'")
            if any("{stem}" not in pattern for pattern in (split.images, split.masks)):
                found.append(f"the patterns of '{split.name}' in '{form.title}' need {{stem}}")
    if manifest.package is None and not manifest.forms:
        found.append("it has no form of download")
    if not re.fullmatch(r"https?://\S+", manifest.homepage) and manifest.package is None:
        found.append("homepage is not an address")
    return found
