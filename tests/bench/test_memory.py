from __future__ import annotations

import functools

import numpy as np
import pytest
from scripted import X

from edgeseg.bench.memory import measure_memory
from edgeseg.errors import ModelError, UsageError
from edgeseg.session import SessionInfo

MIB = 1 << 20


class Hungry:
    """Holds ``held`` MiB from the start and ``used`` more during a run."""

    def __init__(self, held: int, used: int) -> None:
        self.info = SessionInfo(runtime="numpy", version=np.__version__, file="")
        self.held, self.used = np.ones(held * MIB, np.uint8), used

    def feed(self, x) -> None:
        pass

    def invoke(self) -> None:
        self.total = int(np.ones(self.used * MIB, np.uint8).sum())

    def fetch(self):
        return np.zeros((1, 1, 1, 1), np.float32)

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass


def break_down() -> Hungry:
    raise RuntimeError("no such kernel")


def test_memory_of_loading_and_running_is_told_apart():
    # The parent is larger than the child: its own peak must not show.
    ballast = np.ones(400 * MIB, np.uint8)
    use = measure_memory(functools.partial(Hungry, 80, 60), X)
    assert 75 * MIB < use.loaded - use.interpreter < 100 * MIB
    assert 135 * MIB < use.peak_over_interpreter < 170 * MIB
    assert use.peak < ballast.nbytes


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UsageError, match="cannot be sent"):
        measure_memory(lambda: Hungry(1, 1), X)
    with pytest.raises(ModelError, match="no such kernel"):
        measure_memory(break_down, X)
