"""Which image files a folder, a glob or a list of either means, and how the files of a pair find each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgeseg.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "by_stem", "find_images", "pair"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_images(sources: Sequence[str], base: Path, *, what: str = "images") -> tuple[tuple[str, Path], ...]:
    """All image files that ``sources`` name, each with a key that does not depend on where the data lie on this machine.

    Args:
        sources: folders (searched through all their folders), files, or globs; relative to ``base``.
        base: folder that relative sources start from.
        what: what messages call them.

    Returns:
        (key, path) sorted by key, each path once. The key is the path below its source, with forward slashes.

    Raises:
        DataError: a source does not exist or holds no image.
    """
    found: dict[Path, str] = {}
    for source in sources:
        below = _below(source, base, what)
        if not below:
            raise DataError(
                f"There are no {what} in {(base / Path(source).expanduser())}.",
                hint=f"Edgeseg reads {', '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))} files; check the path.",
            )
        for key, path in below:
            found.setdefault(path, key)
    return tuple(sorted((key, path) for path, key in found.items()))


def by_stem(paths: Iterable[Path], suffix: str, *, what: str) -> dict[str, Path]:
    """Files by stem, with ``suffix`` cut from the end of the stem where it is there.

    Raises:
        DataError: two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.stem.removesuffix(suffix)
        if stem in found:
            raise DataError(
                f"Two {what} are called '{stem}': {found[stem]} and {path}.",
                hint="Files are paired by name; keep one of them, or name a narrower folder or glob.",
            )
        found[stem] = path
    return found


def pair(images: Mapping[str, Path], partners: Mapping[str, Path], *, what: str, where: str) -> None:
    """Check that each image has its partner.

    Raises:
        DataError: some have none; the message names three.
    """
    lonely = sorted(stem for stem in images if stem not in partners)
    if not lonely:
        return
    names = ", ".join(images[stem].name for stem in lonely[:3]) + (", ..." if len(lonely) > 3 else "")
    example = next(iter(sorted(partners)), None)
    seen = f" (the first there is called '{partners[example].name}')" if example is not None else ""
    raise DataError(
        f"{len(lonely)} of {len(images)} images have no {what} in {where}: {names}{seen}.",
        hint="Files are paired by stem; where names differ at their end, set image_suffix, mask_suffix or region_suffix under "
        "[evaluation].",
    )


def _below(source: str, base: Path, what: str) -> list[tuple[str, Path]]:
    path = base / Path(source).expanduser()
    if path.is_dir():
        files = (file for file in path.rglob("*") if _is_image(file.relative_to(path)) and file.is_file())
        return [(file.relative_to(path).as_posix(), file) for file in files]
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{path} is not an image file.", hint="Name an image, a folder of images or a glob.")
        return [(path.name, path)]
    if _has_wildcard(source):
        fixed = _fixed_part(path)
        files = (
            file for file in fixed.glob(path.relative_to(fixed).as_posix()) if _is_image(Path(file.name)) and file.is_file()
        )
        return [(file.relative_to(fixed).as_posix(), file) for file in files]
    raise DataError(f"There is no folder or file {path} to take {what} from.", hint="Check the path; globs need a * or ?.")


def _is_image(relative: Path) -> bool:
    # Hidden files and folders are left by tools (.ipynb_checkpoints, ._name.png of macOS), never part of a set.
    return relative.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts)


def _has_wildcard(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    fixed = Path(*pattern.parts[:1])
    for part in pattern.parts[1:-1]:
        if _has_wildcard(part):
            break
        fixed /= part
    return fixed
