"""Fixtures of the lowering tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from lowering_oracle import assert_agreement

from edgeseg.tflite.graph import TfGraph


@pytest.fixture
def agree(tmp_path: Path) -> Callable[..., TfGraph]:
    """``assert_agreement`` with a folder of its own."""
    return partial(assert_agreement, folder=tmp_path)
