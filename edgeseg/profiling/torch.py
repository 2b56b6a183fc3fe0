"""PyTorch's profiler: the library's own operators, on the CPU or a GPU."""

from __future__ import annotations

import statistics

from edgeseg.bench.profile import OperatorTime, Profile
from edgeseg.profiling.whole import whole_us
from edgeseg.session import Session

__all__ = ["profile_torch"]

_RUNS = 10


def profile_torch(session: Session) -> Profile:
    """Time spent in each kind of operator itself, without those that it calls; mean of 10 runs, slowest first.

    Args:
        session: on PyTorch, fed.
    """
    from torch.profiler import ProfilerActivity, profile

    gpu = session.info.device != "cpu"
    whole = whole_us(session, _RUNS, statistics.fmean)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as recorder:
        for _ in range(_RUNS):
            session.invoke()
    found = []
    for entry in recorder.key_averages():
        spent = float(entry.self_device_time_total if gpu else entry.self_cpu_time_total)
        if spent > 0:
            found.append(
                OperatorTime(
                    name=entry.key,
                    kind=entry.key.removeprefix("aten::"),
                    place="CUDA" if gpu else "CPU",
                    microseconds=spent / _RUNS,
                    calls=entry.count / _RUNS,
                )
            )
    return Profile(
        method="PyTorch's profiler, which adds to each call",
        runs=_RUNS,
        whole_us=whole,
        operators=tuple(sorted(found, key=lambda one: -(one.microseconds or 0.0))),
    )
