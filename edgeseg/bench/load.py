"""What else the machine does while we measure."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import msgspec
import psutil

__all__ = ["LoadReading", "LoadShare", "load_between", "read_load"]


class LoadShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CPU use over a span of time, in cores. ``other_cores``: all processes but this one."""

    own_cores: float
    other_cores: float
    cores: int


@dataclass(frozen=True)
class LoadReading:
    """Counters at one moment, in seconds. ``busy``: all cores, all processes; ``own``: this process, all threads."""

    wall: float
    busy: float
    own: float
    cores: int


def read_load() -> LoadReading:
    """Read the counters now. Takes tens of microseconds."""
    times = psutil.cpu_times()
    # iowait is idle time; guest time is contained in user time already; steal is time that the machine did not give us.
    busy = times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
    return LoadReading(wall=time.monotonic(), busy=busy, own=time.process_time(), cores=os.cpu_count() or 1)


def load_between(before: LoadReading, after: LoadReading) -> LoadShare:
    """Mean load between two readings.

    >>> load_between(LoadReading(0, 0, 0, 2), LoadReading(10, 15, 9, 2)).other_cores
    0.6
    """
    wall = max(after.wall - before.wall, 1e-9)
    own = (after.own - before.own) / wall
    other = max((after.busy - before.busy) / wall - own, 0.0)
    return LoadShare(own_cores=round(own, 3), other_cores=round(other, 3), cores=after.cores)
