"""Pinning: which CPUs the measured threads may use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeseg.errors import EnvironmentLack, UsageError

__all__ = ["choose_cpus", "pinned"]

_TOPOLOGY = Path("/sys/devices/system/cpu")


def choose_cpus(threads: int) -> tuple[int, ...]:
    """One CPU a thread out of those that this process may use: other physical cores first, CPU 0 (interrupts) last.

    Empty where the system cannot pin. All CPUs where there are no more than threads.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    cores: dict[str, list[int]] = {}
    for cpu in allowed:
        cores.setdefault(_core(cpu), []).append(cpu)
    # First one CPU of every physical core, then their siblings.
    ranked = sorted((place, -cpu, cpu) for siblings in cores.values() for place, cpu in enumerate(siblings))
    return tuple(sorted(cpu for _, _, cpu in ranked[:threads]))


def _core(cpu: int) -> str:
    path = _TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:  # No topology known: every CPU counts as a core.
        return str(cpu)


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Let this thread, and the threads that it starts, run on ``cpus`` only; nothing where ``cpus`` is empty.

    Open sessions inside: a worker thread keeps the CPUs that were allowed when it was started.

    Raises:
        EnvironmentLack: the system cannot pin.
        UsageError: a CPU does not exist or is not allowed for this process.
    """
    if not cpus:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise EnvironmentLack("This system cannot pin a process to CPUs.", hint="Leave out --cpus.")
    before = os.sched_getaffinity(0)
    if not set(cpus) <= before:
        raise UsageError(
            f"CPUs {sorted(set(cpus) - before)} are not available to this process.",
            hint=f"Choose among {sorted(before)}.",
        )
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
