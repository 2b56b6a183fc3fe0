"""Which files are looked at, and what they are called in findings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeseg.data.calibration import CalibrationSet
from edgeseg.data.manifests import Role, load_manifest
from edgeseg.data.sources import by_stem, find_images, pair
from edgeseg.errors import UsageError
from edgeseg.spec import ModelSpec

__all__ = ["Picture", "calibration_pictures", "open_judged"]


@dataclass(frozen=True)
class Picture:
    """A file to look at. ``name``: its path below the folder that all of its set have in common."""

    name: str
    path: Path
    region: Path | None = None


def calibration_pictures(calibration: CalibrationSet) -> tuple[Picture, ...]:
    """The images that calibrate, in their order."""
    return _named(calibration.paths, calibration.regions)


def open_judged(
    spec: ModelSpec, base: Path, *, images: str | None = None, regions: str | None = None
) -> tuple[Picture, ...] | None:
    """The evaluation images, without their masks; None where neither the arguments nor the spec name any.

    Args:
        spec: ``[evaluation]`` of it says where they are.
        base: folder of edgeseg.toml, which relative paths in it start from.
        images: folder, file or glob instead of the spec's; relative to the current folder.
        regions: as ``images``; used only where the spec crops to regions.

    Raises:
        UsageError: the spec crops to regions, and none are given.
        DataError: nothing is there, or an image has no region.
    """
    rule = spec.evaluation
    told_images, told_regions = rule.images, rule.regions
    if rule.set is not None:
        root = None if rule.root is None else base / Path(rule.root).expanduser()
        folders = load_manifest(rule.set).folders(root, Role.EVALUATION)
        told_images, told_regions = str(folders.images), None if folders.regions is None else str(folders.regions)
    source, start = (images, Path.cwd()) if images is not None else (told_images, base)
    if source is None:
        return None
    paths = [path for _, path in find_images([source], start, what="evaluation images")]
    if not spec.preprocess.crop_to_region:
        return _named(paths, ())
    where, start = (regions, Path.cwd()) if regions is not None else (told_regions, base)
    if where is None:
        raise UsageError(
            "crop_to_region is set, and no region masks are given for the evaluation images.",
            hint='Give --eval-regions FOLDER, or set regions = "FOLDER" under [evaluation] in edgeseg.toml.',
        )
    by_name = by_stem(paths, rule.image_suffix, what="evaluation images")
    masks = by_stem(
        (path for _, path in find_images([where], start, what="region masks")), rule.region_suffix, what="region masks"
    )
    pair(by_name, masks, what="region mask", where=where)
    return _named(list(by_name.values()), [masks[stem] for stem in by_name])


def _named(paths: Sequence[Path], regions: Sequence[Path]) -> tuple[Picture, ...]:
    # Of a single file the folder is what is common, not the file itself.
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return tuple(
        Picture(path.absolute().relative_to(common).as_posix(), path, regions[index] if regions else None)
        for index, path in enumerate(paths)
    )
