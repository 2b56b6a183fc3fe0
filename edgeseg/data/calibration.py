"""Calibration images: label-free, drawn by seed, named by digest, streamed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from edgeseg.data.manifests import Role, load_manifest
from edgeseg.data.prefetch import prefetch
from edgeseg.data.sources import by_stem, find_images, pair
from edgeseg.data.truth import read_truth
from edgeseg.errors import DataError, UsageError
from edgeseg.graph import digest_file
from edgeseg.preprocess import Int16, Prepared, load_image, load_region, prepare
from edgeseg.session import ModelInput
from edgeseg.spec import ModelSpec

__all__ = ["CalibrationSet", "draw", "load_prepared", "open_calibration"]


@dataclass(frozen=True)
class CalibrationSet:
    """The exact images that calibrate, in the order in which they are used.

    Iterating decodes and prepares one image after the other, a few ahead in a thread; memory does not grow with the number
    of images. It can be iterated any number of times.

    Attributes:
        spec: says the preprocessing.
        paths: the images.
        regions: their region masks, or empty where the spec does not crop to regions.
        masks: their truth, or empty where there is none.
        file_digests: for each image ``sha256:...`` of its bytes, with those of its region mask and its mask behind it where it has
            them.
        seed: that drew the images.
        available: how many images they were drawn from.
    """

    spec: ModelSpec
    paths: tuple[Path, ...]
    regions: tuple[Path, ...]
    file_digests: tuple[str, ...]
    seed: int
    available: int
    masks: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        """``sha256:`` over the digests of all files used, in order: the same images in the same order, wherever they lie."""
        return "sha256:" + hashlib.sha256("\n".join(self.file_digests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[ModelInput]:
        for prepared in prefetch(self._jobs()):
            yield prepared.input

    def labelled(self) -> Iterator[tuple[Prepared, Int16]]:
        """Images with their truth, int16 (H, W) at the picture's own size, -1 where it does not count; none at all
        where there are no masks.

        Raises:
            DataError: an image or a mask cannot be decoded or does not fit the spec; raised at its place in the order.
        """
        for index, (path, mask) in enumerate(zip(self.paths, self.masks, strict=False)):
            region = self.regions[index] if self.regions else None
            prepared = load_prepared(path, self.spec, region)
            yield prepared, read_truth(mask, region, self.spec.classes, prepared.placement.source)

    def take(self, count: int) -> CalibrationSet:
        """The first ``count`` images: as the order is drawn by seed, a random sample too. All of them if there are fewer."""
        return self.part(0, max(0, count))

    def split(self, fraction: float) -> tuple[CalibrationSet, CalibrationSet]:
        """Two sets without common images: to fit on, and ``fraction`` of the images held back to check.

        Raises:
            UsageError: one of the two would be empty.
        """
        held_back = round(len(self) * fraction)
        if not 0 < held_back < len(self):
            raise UsageError(
                f"{len(self)} calibration image(s) cannot be split so that {fraction:.0%} are held back.",
                hint="Give more calibration images.",
            )
        cut = len(self) - held_back
        return self.part(0, cut), self.part(cut, len(self))

    def part(self, begin: int, end: int) -> CalibrationSet:
        """Images ``begin`` to ``end`` in the order drawn, the last not included."""
        return replace(
            self,
            paths=self.paths[begin:end],
            regions=self.regions[begin:end],
            masks=self.masks[begin:end],
            file_digests=self.file_digests[begin:end],
        )

    def _jobs(self) -> Iterator[Callable[[], Prepared]]:
        for index, path in enumerate(self.paths):
            region = self.regions[index] if self.regions else None
            yield partial(load_prepared, path, self.spec, region)


def load_prepared(path: Path, spec: ModelSpec, region: Path | None) -> Prepared:
    """Decode and prepare one image: the way of every image into a Session, for calibration and evaluation alike.

    Raises:
        DataError: the image or its region cannot be decoded or does not fit the spec.
    """
    inside = load_region(region) if region is not None and spec.preprocess.crop_to_region else None
    return prepare(load_image(path), spec, inside, name=str(path))


def open_calibration(
    spec: ModelSpec,
    base: Path,
    *,
    images: Sequence[str] | None = None,
    regions: str | None = None,
    masks: str | None = None,
    count: int | None = None,
    seed: int | None = None,
) -> CalibrationSet:
    """Choose the calibration images.

    Args:
        spec: ``[calibration]`` of it says where the images are, how many are drawn, and by which seed.
        base: folder of edgeseg.toml, which relative paths in it start from.
        images: folders, files or globs instead of the spec's; relative to the current folder.
        regions: folder or glob of region masks instead of the spec's; relative to the current folder.
        masks: folder or glob of their truth instead of the spec's; relative to the current folder. The spec's masks are left out
            where other images than the spec's are given.
        count: instead of the spec's.
        seed: instead of the spec's.

    Returns:
        ``count`` images, or all where there are fewer. The draw depends on the seed and on the paths below the folder that was
        named, not on the order of the folder or on where it lies; a larger count draws a superset.

    Raises:
        UsageError: no images are given. Random data would give ranges that mean nothing.
        DataError: nothing is there, a file is not an image, or a mask or region mask is missing.
    """
    rule = spec.calibration
    truth = None if masks is None else (masks, Path.cwd())
    if truth is None and not images and rule.masks is not None:
        truth = (rule.masks, base)
    count = rule.count if count is None else count
    seed = rule.seed if seed is None else seed
    if count < 1:
        raise UsageError(f"{count} calibration images were asked for.", hint="Ask for at least one.")
    if images:
        found = find_images(images, Path.cwd(), what="calibration images")
    elif rule.images is not None:
        found = find_images([rule.images], base, what="calibration images")
    elif rule.set is not None:
        folders = load_manifest(rule.set).folders(
            None if rule.root is None else base / Path(rule.root).expanduser(), Role.CALIBRATION
        )
        found = find_images([str(folders.images)], base, what="calibration images")
        regions = str(folders.regions) if regions is None and folders.regions is not None else regions
        if truth is None and folders.masks.is_dir():  # a calibration split may have none
            truth = (str(folders.masks), base)
    else:
        raise UsageError(
            "No calibration images are given.",
            hint='Name a folder of typical images: images = "FOLDER" under [calibration] in edgeseg.toml, or on the '
            "command line.",
        )
    paths = draw(found, count, seed)
    for path in paths:
        _check_header(path)
    chosen_regions: tuple[Path, ...] = ()
    if spec.preprocess.crop_to_region:
        chosen_regions = _regions_of(paths, spec, base, regions)
    chosen_masks = _paired(paths, spec, *truth, suffix=spec.evaluation.mask_suffix, what="mask") if truth else ()
    return CalibrationSet(
        spec=spec,
        paths=paths,
        regions=chosen_regions,
        masks=chosen_masks,
        file_digests=tuple(_digests(paths, chosen_regions, chosen_masks)),
        seed=seed,
        available=len(found),
    )


def draw(found: Sequence[tuple[str, Path]], count: int, seed: int) -> tuple[Path, ...]:
    """Draw ``count`` of the files by seed: those whose SHA-256 of seed and key are the smallest, in that order.

    A rank of its own for each file, rather than a shuffled list: the draw does not depend on the order of ``found``, and adding
    one image to a folder changes the draw by one image at most.
    """

    def rank(entry: tuple[str, Path]) -> tuple[bytes, str, str]:
        key, path = entry
        return hashlib.sha256(f"{seed}:{key}".encode()).digest(), key, str(path)

    return tuple(path for _, path in sorted(found, key=rank)[:count])


def _regions_of(paths: Sequence[Path], spec: ModelSpec, base: Path, regions: str | None) -> tuple[Path, ...]:
    if regions is not None:
        source, start = regions, Path.cwd()
    elif spec.calibration.regions is not None:
        source, start = spec.calibration.regions, base
    else:
        raise UsageError(
            "crop_to_region is set, and no region masks are given for the calibration images.",
            hint='Set regions = "FOLDER" under [calibration] in edgeseg.toml.',
        )
    return _paired(paths, spec, source, start, suffix=spec.evaluation.region_suffix, what="region mask")


def _paired(paths: Sequence[Path], spec: ModelSpec, source: str, start: Path, *, suffix: str, what: str) -> tuple[Path, ...]:
    """The files of ``source`` that belong to the images, in their order."""
    images = by_stem(paths, spec.evaluation.image_suffix, what="calibration images")
    found = by_stem((path for _, path in find_images([source], start, what=f"{what}s")), suffix, what=f"{what}s")
    pair(images, found, what=what, where=source)
    return tuple(found[stem] for stem in images)


def _digests(paths: Sequence[Path], *others: Sequence[Path]) -> Iterator[str]:
    for index, path in enumerate(paths):
        yield " ".join(digest_file(one) for one in (path, *(files[index] for files in others if files)))


def _check_header(path: Path) -> None:
    """Find a file that is no image now rather than minutes into a compile; decoding each is left to its use."""
    try:
        with Image.open(path):
            pass
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"The calibration image {path} cannot be read as an image.",
            hint="Replace or remove the file; it may be cut short, or not be an image at all.",
        ) from error
