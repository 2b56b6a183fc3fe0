"""A figure and how sure it is."""

from __future__ import annotations

import msgspec

__all__ = ["Interval"]


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``low <= estimate <= high``; the interval holds the true value with the given confidence."""

    estimate: float
    low: float
    high: float
    confidence: float = 0.95
