from __future__ import annotations

from pathlib import Path

import picture_sets
import pytest


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clean set; read-only."""
    folder = tmp_path_factory.mktemp("clean")
    picture_sets.build(folder)
    return folder


@pytest.fixture
def pictures(clean_set: Path, tmp_path: Path) -> picture_sets.PictureSet:
    """A copy of the clean set, to spoil."""
    return picture_sets.copied(clean_set, tmp_path / "set")
