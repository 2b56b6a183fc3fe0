"""Energy counters of the machine, where it has any that we may read."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["EnergyUse", "RaplMeter"]


class EnergyUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``joules_per_run`` is None where the machine does not tell; ``source`` says which counter, or why there is none.

    RAPL counts the whole CPU package, other processes and idle power included: compare candidates of one run only.
    """

    joules_per_run: float | None
    source: str


class RaplMeter:
    """Running Average Power Limit counters of Intel and AMD CPUs (Linux powercap: microjoules that wrap around).

    Args:
        root: the powercap folder; another one in tests.
    """

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        # intel-rapl:0 is a package; intel-rapl:0:1 a part of it, contained in it already.
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._zones: list[tuple[Path, int]] = []
        names = []
        denied = False
        for zone in zones:
            try:
                int((zone / "energy_uj").read_text())
                self._zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
                names.append((zone / "name").read_text().strip())
            except PermissionError:
                denied = True
            except (OSError, ValueError):
                continue
        if self._zones:
            self.source = "RAPL " + ", ".join(names)
        elif denied:
            self.source = "not available: the RAPL counters may be read by root only"
        else:
            self.source = "not available: this machine shows no RAPL counters"

    @property
    def available(self) -> bool:
        return bool(self._zones)

    def read(self) -> tuple[int, ...]:
        """Counters now, in microjoules, one a package; empty where not available."""
        return tuple(int(path.read_text()) for path, _ in self._zones)

    def joules_between(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """Energy between two readings less than one wrap-around apart (minutes)."""
        total = 0
        for (_, limit), first, last in zip(self._zones, before, after, strict=True):
            total += last - first if last >= first else last - first + limit
        return total / 1e6
