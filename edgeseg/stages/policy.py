"""``--policy``: how operators come to their types in an INT8 file."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.errors import UsageError
from edgeseg.spec import TuneFor

__all__ = ["PolicyChoice", "parse_policy"]


@dataclass(frozen=True)
class PolicyChoice:
    """``name``: ``auto``, ``full`` or ``float-ops``; ``kinds``: the operator kinds that stay float, for the latter."""

    name: str
    kinds: frozenset[str] = frozenset()


def parse_policy(text: str, tune_for: TuneFor = TuneFor.HERE) -> PolicyChoice:
    """Read a policy as it is written on the command line.

    Raises:
        UsageError: it is none, names nothing, or asks for float where there is none.

    >>> sorted(parse_policy("float-ops=softmax, GELU").kinds)
    ['GELU', 'SOFTMAX']
    """
    name, equals, listed = text.partition("=")
    kinds = frozenset(kind.strip().upper() for kind in listed.split(",") if kind.strip())
    if name not in {"auto", "full", "float-ops"} or (equals and name != "float-ops") or (name == "float-ops" and not kinds):
        raise UsageError(
            f"There is no policy '{text}'.",
            hint="Policies: auto, full, float-ops=KIND,KIND with kinds as the file names them.",
        )
    if name == "float-ops" and tune_for is TuneFor.INTEGER_ONLY:
        raise UsageError(
            f"Policy '{text}' keeps operators in float, and integer-only hardware has none.",
            hint="Leave --policy out, or --tune-for integer-only.",
        )
    return PolicyChoice(name, kinds)
