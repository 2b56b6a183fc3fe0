"""A clock that moves only when told, and sessions that move it: scheduling and verdicts are tested without waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgeseg.bench.energy import RaplMeter
from edgeseg.bench.executor import Candidate
from edgeseg.bench.load import LoadReading
from edgeseg.bench.machine import MachineFacts
from edgeseg.bench.scheduler import Instruments
from edgeseg.session import ModelInput, SessionInfo

MS = 1_000_000

MACHINE = MachineFacts(
    cpu="test",
    architecture="x86_64",
    flags=("avx2",),
    logical_cores=2,
    physical_cores=1,
    memory_bytes=1 << 33,
    governor=None,
    gpus=(),
    system="Linux",
    python="3.11",
    versions={},
    commit=None,
)

X = ModelInput(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.float32))


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class ScriptedSession:
    """``invoke`` takes the next of ``durations`` (ns); feed takes 1 ms and fetch 2 ms. Notes its name in ``order``."""

    def __init__(self, name: str, clock: Clock, durations: Iterator[int], order: list[str]) -> None:
        self.info = SessionInfo(runtime="scripted", version="1", file=name)
        self.name, self.clock, self.durations, self.order = name, clock, durations, order
        self.closed = False

    def feed(self, x: ModelInput) -> None:
        assert x is X
        self.clock.now += MS

    def invoke(self) -> None:
        self.clock.now += next(self.durations)
        self.order.append(self.name)

    def fetch(self) -> np.ndarray:
        self.clock.now += 2 * MS
        return np.zeros((1, 2, 4, 4), np.float32)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> ScriptedSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bench:
    """Candidates on one scripted clock."""

    def __init__(self, tmp_path: Path, load: Callable[[], LoadReading] | None = None) -> None:
        self.clock = Clock()
        self.order: list[str] = []
        self.sessions: list[ScriptedSession] = []
        self.instruments = Instruments(
            clock=self.clock,
            load=load or (lambda: LoadReading(self.clock.now / 1e9, 0.0, 0.0, 2)),
            machine=lambda: MACHINE,
            energy=RaplMeter(tmp_path / "no-powercap"),
        )

    def candidate(self, name: str, durations: Iterator[int]) -> Candidate:
        def open_session() -> ScriptedSession:
            self.clock.now += 50 * MS
            session = ScriptedSession(name, self.clock, durations, self.order)
            self.sessions.append(session)
            return session

        return Candidate(name=name, open=open_session, x=X)
