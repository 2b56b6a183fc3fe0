"""Where the time goes inside one file, and what the runtime made of it."""

from __future__ import annotations

import msgspec

__all__ = ["OperatorTime", "Placement", "Profile"]


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the runtime runs a file's operators.

    Attributes:
        operators: as the runtime executes them (fused where it fuses before it places).
        places: operators by who runs them: ``XNNPACK`` and ``LiteRT``, or ONNX Runtime's execution providers.
        partitions: pieces that a delegate runs, each boundary between them a hand-over; None where there is no delegate.
        outside: kinds of the operators that the delegate leaves to the runtime's own kernels, and how many.
    """

    operators: int
    places: dict[str, int]
    partitions: int | None = None
    outside: dict[str, int] = {}


class OperatorTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operator (or, for PyTorch, all calls of one kind).

    Attributes:
        place: who runs it; empty where the runtime does not tell.
        microseconds: in one run of the network; None where it could not be timed.
        calls: in one run of the network.
    """

    name: str
    kind: str
    place: str
    microseconds: float | None
    calls: float = 1.0


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Times of operators, in execution order (PyTorch: slowest first).

    Attributes:
        method: how they were taken, in words.
        runs: of the network, or of each operator.
        whole_us: time of the whole network over some runs without the profiler, taken from them as the operators' times are
            (median, mean or shortest); what the times fall short of it, or exceed it by, is what the method does not see or adds.
    """

    method: str
    runs: int
    whole_us: float
    operators: tuple[OperatorTime, ...]

    @property
    def total_us(self) -> float:
        """Sum over the operators that were timed."""
        return sum(one.microseconds or 0.0 for one in self.operators)
