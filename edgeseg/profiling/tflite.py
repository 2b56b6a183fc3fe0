"""LiteRT: what the delegate took, and each operator timed alone, since its Python interpreter has no profiler."""

from __future__ import annotations

from pathlib import Path

from edgeseg.bench.profile import OperatorTime, Placement, Profile
from edgeseg.profiling.whole import whole_us
from edgeseg.session import Session
from edgeseg.tflite.flatbuffer import read
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.probe import REPEATS, time_each

__all__ = ["profile_tflite", "tflite_placement"]

_DELEGATE, _OWN = "XNNPACK", "LiteRT"
_RUNS = 20


def tflite_placement(path: Path, threads: int) -> Placement:
    """Operators that XNNPACK runs, in how many pieces, and those that it leaves to LiteRT's own kernels.

    Raises:
        ModelError: LiteRT refuses the file.
    """
    facts = partitions(path, threads=threads)
    places = {_DELEGATE: facts.operators - len(facts.outside), _OWN: len(facts.outside)}
    return Placement(
        operators=facts.operators,
        places={place: count for place, count in places.items() if count},
        partitions=facts.partitions,
        outside=dict(facts.outside_kinds),
    )


def profile_tflite(path: Path, session: Session, threads: int) -> Profile:
    """Every operator in a file of its own, shortest of some runs; a PAD that the delegate runs as part of the convolution after
    it counts there.

    Args:
        session: the one that is measured, fed; run for the time of the whole.

    Raises:
        ModelError: the file holds what cannot be taken apart.
    """
    graph = read(path)
    outside = {output for _, output in partitions(path, threads=threads).outside}
    times = time_each(graph, threads=threads)
    return Profile(
        method="each operator timed alone, its data in the cache, shortest run",
        runs=REPEATS,
        whole_us=whole_us(session, _RUNS, min),
        operators=tuple(
            OperatorTime(
                name=op.outputs[0],
                kind=op.kind,
                place=_OWN if op.outputs[0] in outside else _DELEGATE,
                microseconds=times[op.id],
            )
            for op in graph.ops
        ),
    )
