"""Groups of images (one camera, one skin tone, one site): a CSV says which image belongs to which."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from edgeseg.data.sources import IMAGE_SUFFIXES
from edgeseg.errors import DataError

__all__ = ["Groups", "match_groups", "read_groups"]


@dataclass(frozen=True)
class Groups:
    """``of``: image name to group. ``notes``: what could not be matched, for the reader of a result."""

    of: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_groups(path: Path) -> dict[str, str]:
    """A CSV of image and group, one a line. The image may be given by its stem, file name or path; a heading may come first.

    Raises:
        DataError: it cannot be read, is empty, a line has not two columns, or an image is in two groups.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the groups '{path}': {error}.", hint="Give a CSV of image and group.") from error
    if not rows:
        raise DataError(f"The groups '{path}' are empty.", hint="Give a CSV of image and group.")
    found: dict[str, str] = {}
    for number, row in rows:
        if len(row) != 2:
            raise DataError(f"Line {number} of '{path}' has {len(row)} columns.", hint="Write: image,group")
        name, group = _stem(row[0]), row[1].strip()
        if found.setdefault(name, group) != group:
            raise DataError(
                f"Line {number} of '{path}' puts '{name}' into '{group}'; it is in '{found[name]}' already.",
                hint="Give each image one group.",
            )
    return found


def match_groups(groups: Mapping[str, str], names: Iterable[str]) -> Groups:
    """The groups of these images; what matches nothing is said in ``notes``.

    Raises:
        DataError: no image is in a group.

    >>> match_groups({"image": "group", "a": "night"}, ["a", "b"])
    Groups(of={'a': 'night'}, notes=('1 of 2 images is in no group.',))
    """
    known = list(names)
    found = {name: groups[name] for name in known if groups.get(name)}
    if not found:
        raise DataError(
            f"The groups name none of the {len(known)} images ('{known[0]}' for example).",
            hint="The first column must hold the images' names.",
        )
    notes = []
    if missing := len(known) - len(found):
        notes.append(f"{missing} of {len(known)} images {'is' if missing == 1 else 'are'} in no group.")
    rows = list(groups)
    strange = [name for name in rows if name not in found]
    if strange and strange[0] == rows[0]:
        strange = strange[1:]  # the heading
    if strange:
        notes.append(f"{len(strange)} lines of the groups name no image that was judged, '{strange[0]}' for example.")
    return Groups(found, tuple(notes))


def _stem(text: str) -> str:
    name = PurePath(text.strip().replace("\\", "/"))
    return name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name
