"""Rules as text: ``miou:-0.5pt``, ``worst_class:-2pt``, ``boundary:-1pt``, ``latency:+5%``, ``speedup:1.2x``, ``size:4MB``.

========================  ============================================================  ==================
rule                      what it limits                                                limit
========================  ============================================================  ==================
``miou``                  change of mIoU against the reference                          ``-0.5pt``
``dice``                  change of mean Dice                                           ``-0.5pt``
``accuracy``              change of pixel accuracy                                      ``-0.5pt``
``class.NAME``            change of one class's IoU                                     ``-2pt``
``worst_class``           change of the IoU of whichever class lost most                ``-2pt``
``boundary``              change of mean boundary IoU                                   ``-1pt``
``boundary_f``            change of mean boundary F-score                               ``-1pt``
``small_objects``         change of the recall of small objects                         ``-2pt``
``latency``               time / time of the base, measured in the same run             ``+5%``, ``1.05x``
``speedup``               time of the base / time, measured in the same run             ``1.2x``, ``+20%``
``size``                  bytes of the file, or its share of the base's                 ``4MB``, ``0.3x``
``memory``                peak memory beyond the empty process                          ``200MB``
========================  ============================================================  ==================

A point (pt) is 0.01 of a score. 1 kB = 1000 bytes, 1 KiB = 1024.
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum

import msgspec

from edgeseg.errors import UsageError

__all__ = ["Rule", "RuleKind", "Unit", "parse_rule", "parse_rules"]


class RuleKind(StrEnum):
    MIOU = "miou"
    DICE = "dice"
    ACCURACY = "accuracy"
    CLASS = "class"
    WORST_CLASS = "worst_class"
    BOUNDARY = "boundary"
    BOUNDARY_F = "boundary_f"
    SMALL_OBJECTS = "small_objects"
    LATENCY = "latency"
    SPEEDUP = "speedup"
    SIZE = "size"
    MEMORY = "memory"

    @property
    def is_quality(self) -> bool:
        """A change of a score, decided from per-image counts."""
        return self not in _PERFORMANCE

    @property
    def is_timing(self) -> bool:
        """Decided from a benchmark of both in one run."""
        return self in {RuleKind.LATENCY, RuleKind.SPEEDUP}


_PERFORMANCE = frozenset({RuleKind.LATENCY, RuleKind.SPEEDUP, RuleKind.SIZE, RuleKind.MEMORY})


class Unit(StrEnum):
    """What a limit counts: a change as a fraction, a ratio, or bytes."""

    CHANGE = "change"
    RATIO = "ratio"
    BYTES = "bytes"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule.

    Attributes:
        text: as it was written.
        limit: a change as a fraction (-0.005 for ``-0.5pt``), a ratio, or bytes, by ``unit``.
        class_name: of ``class.NAME``.
    """

    text: str
    kind: RuleKind
    limit: float
    unit: Unit
    class_name: str | None = None


_EXAMPLES = {
    RuleKind.LATENCY: "latency:+5%",
    RuleKind.SPEEDUP: "speedup:1.2x",
    RuleKind.SIZE: "size:4MB",
    RuleKind.MEMORY: "memory:200MB",
}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LIMIT = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-zA-Z%]*)")


def parse_rules(texts: tuple[str, ...]) -> tuple[Rule, ...]:
    """Parse each text, or several joined by commas or on lines of their own.

    >>> [rule.kind.value for rule in parse_rules(("miou:-0.5pt,size:4MB", "latency:+5%"))]
    ['miou', 'size', 'latency']
    """
    return tuple(parse_rule(part) for text in texts for part in re.split(r"[,\n]", text) if part.strip())


def parse_rule(text: str) -> Rule:
    """Parse one rule.

    Raises:
        UsageError: no such rule, or a limit that it cannot have; the hint shows one that it can.

    >>> parse_rule("miou:-0.5pt").limit
    -0.005
    >>> parse_rule("latency:+5%").limit
    1.05
    """
    name, colon, limit = text.strip().partition(":")
    kind, class_name = _kind(name.strip(), text)
    example = _EXAMPLES.get(kind, f"{name.strip()}:-0.5pt")
    match = _LIMIT.fullmatch(limit.strip()) if colon else None
    if match is None:
        raise UsageError(f"The rule '{text}' has no limit that can be read.", hint=f"Write it like {example}.")
    number = float(match["number"])
    value, unit = _limit(kind, match["sign"], number, match["unit"].lower(), text, example)
    return Rule(text=text.strip(), kind=kind, limit=value, unit=unit, class_name=class_name)


def _kind(name: str, text: str) -> tuple[RuleKind, str | None]:
    head, dot, class_name = name.partition(".")
    if head == RuleKind.CLASS:
        if not class_name:
            raise UsageError(f"The rule '{text}' names no class.", hint="Write it like class.Pole:-2pt.")
        return RuleKind.CLASS, class_name
    names = [kind.value for kind in RuleKind if kind is not RuleKind.CLASS]
    if name in names and not dot:
        return RuleKind(name), None
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(names)}, class.NAME."
    raise UsageError(f"There is no rule '{name}' (in '{text}').", hint=hint)


def _limit(kind: RuleKind, sign: str, number: float, unit: str, text: str, example: str) -> tuple[float, Unit]:
    if kind.is_quality:
        if unit != "pt":
            raise UsageError(
                f"The limit of '{text}' is not in points (1 pt = 0.01 of the score).", hint=f"Write it like {example}."
            )
        if sign == "+" and number > 0:
            raise UsageError(f"'{text}' asks for a gain; rules of this kind limit a loss.", hint=f"Write it like {example}.")
        return -number / 100.0, Unit.CHANGE
    if kind in {RuleKind.SIZE, RuleKind.MEMORY} and unit in _BYTES and not sign:
        return number * _BYTES[unit], Unit.BYTES
    if kind is not RuleKind.MEMORY and unit == "x" and not sign and number > 0:
        return number, Unit.RATIO
    if kind.is_timing and unit == "%" and sign == "+":  # 105% without a sign would be read either way
        return 1.0 + number / 100.0, Unit.RATIO
    raise UsageError(
        f"'{sign}{number:g}{unit}' is no limit that '{kind.value}' can have (in '{text}').",
        hint=f"Write it like {example}.",
    )
