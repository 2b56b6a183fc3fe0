"""From a data set's official download to edgeseg's layout (see ``edgeseg.data.manifests``), as its manifest says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import Image

from edgeseg.data.labels import UNKNOWN, color_key, first_unknown, look_up, read_mask
from edgeseg.data.manifests import IGNORED, DownloadForm, Labels, Manifest, SplitSource, load_manifest
from edgeseg.errors import DataError, OutputError, UsageError
from edgeseg.preprocess import load_region

__all__ = ["PreparedSplit", "PreparedSummary", "prepare_dataset"]

# How far below the given folder the download is searched: archives bring a folder or two of their own (VOCdevkit/VOC2012).
_DEPTH = 2


@dataclass(frozen=True)
class PreparedSplit:
    """One split that was prepared."""

    name: str
    folder: Path
    images: int


@dataclass(frozen=True)
class PreparedSummary:
    """What ``prepare_dataset`` did. ``absent``: splits of the set that the download does not hold."""

    name: str
    form: str
    source: Path
    root: Path
    splits: tuple[PreparedSplit, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    stem: str
    image: Path
    mask: Path
    region: Path | None


def prepare_dataset(
    name: str,
    source: Path,
    dest: Path,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> PreparedSummary:
    """Bring an official download into edgeseg's layout.

    Images are copied as they are; masks become one-channel PNG files of class indices with 255 for ignored pixels. A split
    appears under ``dest`` only when it is whole.

    Args:
        name: of the manifest.
        source: folder of the unpacked download.
        dest: the root to create; what ``root`` in edgeseg.toml names afterwards.
        progress: called with split, images done and images in all, after each image.

    Raises:
        UsageError: no such manifest, or the set ships with edgeseg and needs no preparing.
        DataError: the download is not there, is incomplete, or holds labels that the manifest does not know.
        OutputError: ``dest`` cannot be written, or holds the split already.
    """
    manifest = load_manifest(name)
    if not manifest.forms:
        raise UsageError(f"The data set '{name}' is part of edgeseg.", hint=f'Use it as it is: set = "{name}" without root.')
    form, root = _find_form(manifest, source)
    found = {split.name: entries for split in form.splits if (entries := _entries(root, split))}
    if not found:
        raise DataError(
            f"{root} has the folders of {manifest.title}, and no images in them.", hint="Unpack the download again."
        )
    for split in found:
        if (dest / split).exists():
            raise OutputError(f"{dest / split} exists already.", hint="Remove it to prepare again, or name another folder.")
    done = []
    for split, entries in found.items():
        try:
            _write_split(dest, split, entries, form.labels, progress)
        except OSError as error:
            raise OutputError(
                f"{dest / split} cannot be written: {error}.", hint="Check space and permissions there."
            ) from error
        done.append(PreparedSplit(name=split, folder=dest / split, images=len(entries)))
    absent = tuple(split for split in manifest.splits if split not in found)
    return PreparedSummary(name=name, form=form.title, source=root, root=dest, splits=tuple(done), absent=absent)


def _find_form(manifest: Manifest, source: Path) -> tuple[DownloadForm, Path]:
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", hint=f"Unpack the download there. {manifest.obtain}")
    for folder in _folders(source, _DEPTH):
        for form in manifest.forms:
            if all((folder / needed).exists() for needed in form.needs):
                return form, folder
    forms = " or ".join(", ".join(form.needs) for form in manifest.forms)
    raise DataError(f"{source} is no download of {manifest.title}: it has no {forms}.", hint=manifest.obtain)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, the nearest first."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [below for above in level for below in sorted(above.iterdir()) if below.is_dir()]


def _entries(root: Path, split: SplitSource) -> tuple[_Entry, ...]:
    """The files of a split, sorted by stem; none where the download does not hold its folder of images or of masks (test splits
    are often handed out without)."""
    if not (_fixed_folder(root, split.images).is_dir() and _fixed_folder(root, split.masks).is_dir()):
        return ()
    found: dict[str, _Entry] = {}
    for fields in _listed(root, split) if split.list is not None else _matching(root, split.images):
        stem = fields["stem"]
        if (split.only and not _chosen(stem, split.only)) or _chosen(stem, split.without):
            continue
        entry = _Entry(
            stem=stem,
            image=root / split.images.format_map(fields),
            mask=root / split.masks.format_map(fields),
            region=None if split.regions is None else root / split.regions.format_map(fields),
        )
        if stem in found:
            raise DataError(
                f"Two images are called '{stem}': {found[stem].image} and {entry.image}.", hint="Remove one of them."
            )
        found[stem] = entry
    missing = [
        path
        for entry in found.values()
        for path in (entry.image, entry.mask, entry.region)
        if path is not None and not path.is_file()
    ]
    if missing:
        raise DataError(
            f"The download lacks {len(missing)} file(s) of the split '{split.name}', {missing[0]} among them.",
            hint="Unpack all parts of the download again; images and labels are separate archives as a rule.",
        )
    return tuple(found[stem] for stem in sorted(found))


def _listed(root: Path, split: SplitSource) -> Iterator[Mapping[str, str]]:
    """Stems from the first column of the split's list; none where the list is not there."""
    path = root / (split.list or "")
    if not path.is_file():
        return
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield {"stem": line.split()[0]}


def _matching(root: Path, pattern: str) -> Iterator[Mapping[str, str]]:
    parts = re.split(r"\{(\w+)\}", pattern)
    expression = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    for path in root.glob(re.sub(r"\{\w+\}", "*", pattern)):
        match = re.fullmatch(expression, path.relative_to(root).as_posix())
        if match and not path.name.startswith("."):  # left by archivers
            yield match.groupdict()


def _fixed_folder(root: Path, pattern: str) -> Path:
    return root / pattern.partition("{")[0].rpartition("/")[0]


def _chosen(stem: str, rules: tuple[str, ...]) -> bool:
    for rule in rules:
        first, dots, last = rule.partition("..")
        if first <= stem <= last if dots else fnmatchcase(stem, rule):
            return True
    return False


def _write_split(
    dest: Path, split: str, entries: tuple[_Entry, ...], labels: Labels, progress: Callable[[str, int, int], None] | None
) -> None:
    partial = dest / f".{split}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for folder in ("images", "masks", *(["regions"] if entries[0].region is not None else [])):
            (partial / folder).mkdir(parents=True)
        table = _table(labels)
        for done, entry in enumerate(entries, 1):
            shutil.copyfile(entry.image, partial / "images" / f"{entry.stem}{entry.image.suffix.lower()}")
            Image.fromarray(_indices(entry.mask, labels, table)).save(partial / "masks" / f"{entry.stem}.png")
            if entry.region is not None:
                inside = load_region(entry.region).astype(np.uint8) * 255
                Image.fromarray(inside).save(partial / "regions" / f"{entry.stem}.png")
            if progress is not None:
                progress(split, done, len(entries))
        partial.rename(dest / split)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _table(labels: Labels) -> dict[int, int]:
    table = {value: index for index, values in enumerate(labels.values) for value in values}
    table |= {color_key(color): index for index, colors in enumerate(labels.colors) for color in colors}
    table |= dict.fromkeys(labels.ignored, IGNORED)
    return table | {color_key(color): IGNORED for color in labels.ignored_colors}


def _indices(path: Path, labels: Labels, table: Mapping[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    pixels = read_mask(path)
    if (pixels.ndim == 3) != bool(labels.colors):
        raise DataError(
            f"The mask {path} holds {'colours' if pixels.ndim == 3 else 'values'}, the manifest expects "
            f"{'colours' if labels.colors else 'values'}.",
            hint="Use the download that the manifest describes.",
        )
    meaning = look_up(pixels, table)
    if labels.others_ignored:
        meaning[meaning == UNKNOWN] = IGNORED
    elif wrong := first_unknown(pixels, meaning):
        raise DataError(f"The mask {path} holds {wrong} in the manifest.", hint="Use the download that the manifest describes.")
    return meaning.astype(np.uint8)
