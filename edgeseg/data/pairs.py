"""Image/mask pairs that judge a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgeseg.data.calibration import draw, load_prepared
from edgeseg.data.manifests import Role, load_manifest
from edgeseg.data.prefetch import prefetch
from edgeseg.data.sources import by_stem, find_images, pair
from edgeseg.data.truth import read_truth
from edgeseg.errors import UsageError
from edgeseg.graph import digest_file
from edgeseg.preprocess import Int16, Prepared, open_picture
from edgeseg.spec import ModelSpec

__all__ = ["EvaluationSet", "LoadedSample", "Sample", "load_sample", "load_truth", "open_evaluation"]


@dataclass(frozen=True)
class Sample:
    """The files of one judged picture."""

    image_path: Path
    mask_path: Path
    region_path: Path | None = None

    @property
    def name(self) -> str:
        """The image's stem."""
        return self.image_path.stem


@dataclass(frozen=True)
class LoadedSample:
    """One judged picture in memory. ``truth``: int16 (H, W) at the picture's own size, -1 where it does not count."""

    sample: Sample
    prepared: Prepared
    truth: Int16


@dataclass(frozen=True)
class EvaluationSet:
    """The pairs, sorted by the stem of the image. Iterating gives ``Sample``; ``load`` gives them decoded, a few ahead in a
    thread, with memory that does not grow with their number."""

    spec: ModelSpec
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def load(self, *, depth: int = 3, workers: int = 1) -> Iterator[LoadedSample]:
        """Decode and prepare one pair after the other.

        Raises:
            DataError: a file cannot be decoded or does not fit the spec; raised at its place in the order.
        """
        return prefetch((partial(load_sample, sample, self.spec) for sample in self.samples), depth, workers=workers)

    def take(self, count: int, *, seed: int = 0) -> EvaluationSet:
        """``count`` pairs drawn by seed, sorted as before. All of them if there are fewer."""
        chosen = frozenset(draw([(sample.name, sample.image_path) for sample in self.samples], count, seed))
        return replace(self, samples=tuple(sample for sample in self.samples if sample.image_path in chosen))

    def digest(self) -> str:
        """``sha256:`` over the bytes of all images, masks and regions, in order. Reads every file."""
        paths = [path for sample in self for path in (sample.image_path, sample.mask_path, sample.region_path)]
        lines = ("-" if path is None else digest_file(path) for path in paths)
        return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def open_evaluation(
    spec: ModelSpec,
    base: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    regions: str | None = None,
) -> EvaluationSet:
    """Find the pairs.

    Args:
        spec: ``[evaluation]`` of it says where they are and how names pair.
        base: folder of edgeseg.toml, which relative paths in it start from.
        images: folder, file or glob instead of the spec's; relative to the current folder.
        masks: as ``images``.
        regions: as ``images``; regions are optional unless the spec crops to them.

    Raises:
        UsageError: images or masks are not given.
        DataError: nothing is there, or an image has no mask or region.
    """
    rule = spec.evaluation
    if rule.set is None:
        told = (rule.images, rule.masks, rule.regions)
    else:
        root = None if rule.root is None else base / Path(rule.root).expanduser()
        folders = load_manifest(rule.set).folders(root, Role.EVALUATION)
        told = (str(folders.images), str(folders.masks), None if folders.regions is None else str(folders.regions))
    images, masks, regions = (
        _absolute(given, Path.cwd()) or _absolute(default, base)
        for given, default in zip((images, masks, regions), told, strict=True)
    )
    if images is None or masks is None:
        raise UsageError(
            f"No evaluation {'images' if images is None else 'masks'} are given.",
            hint='Set images = "FOLDER" and masks = "FOLDER" under [evaluation] in edgeseg.toml, or give both on the command '
            "line.",
        )
    pictures = _files(images, rule.image_suffix, "images")
    truths = _files(masks, rule.mask_suffix, "masks")
    pair(pictures, truths, what="mask", where=masks)
    areas: dict[str, Path] = {}
    if regions is not None:
        areas = _files(regions, rule.region_suffix, "region masks")
        pair(pictures, areas, what="region mask", where=regions)
    elif spec.preprocess.crop_to_region:
        raise UsageError(
            "crop_to_region is set, and no region masks are given for the evaluation images.",
            hint='Set regions = "FOLDER" under [evaluation] in edgeseg.toml.',
        )
    samples = tuple(Sample(pictures[stem], truths[stem], areas.get(stem)) for stem in sorted(pictures))
    return EvaluationSet(spec=spec, samples=samples)


def load_sample(sample: Sample, spec: ModelSpec) -> LoadedSample:
    """Decode and prepare one pair.

    Raises:
        DataError: a file cannot be decoded or does not fit the spec.
    """
    prepared = load_prepared(sample.image_path, spec, sample.region_path)
    truth = read_truth(sample.mask_path, sample.region_path, spec.classes, prepared.placement.source)
    return LoadedSample(sample=sample, prepared=prepared, truth=truth)


def load_truth(sample: Sample, spec: ModelSpec) -> Int16:
    """The class of each pixel of a sample's image: int16 (H, W), -1 where it does not count (ignored, outside the region).

    Raises:
        DataError: the mask or region cannot be decoded, has another size than the image, or a value that means no class.
    """
    width, height = open_picture(sample.image_path).size
    return read_truth(sample.mask_path, sample.region_path, spec.classes, (height, width))


def _absolute(source: str | None, start: Path) -> str | None:
    return None if source is None else str(start / Path(source).expanduser())


def _files(source: str, suffix: str, what: str) -> dict[str, Path]:
    return by_stem((path for _, path in find_images([source], Path(), what=what)), suffix, what=what)
