"""Why an INT8 artifact is as it is: its float regions with their reasons, and what the search tried."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import msgspec

from edgeseg.artifact import Manifest, SpeedRecord, load_artifact
from edgeseg.errors import UsageError
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan
from edgeseg.stages.search_record import SearchRecord
from edgeseg.stages.verdict import speed_notes

__all__ = ["Explanation", "FloatRegion", "explain"]


class FloatRegion(msgspec.Struct, frozen=True, kw_only=True):
    """Float operators that are neighbours in execution order.

    ``reasons``: each with how often it was given. ``saves_us``: what int8 would save in these operators, conversions not
    counted; ``noise_db``: and the noise it would add, dB below the output.
    """

    number: int
    operators: int
    kinds: tuple[str, ...]
    reasons: tuple[str, ...]
    saves_us: float
    noise_db: float | None
    first: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """``notes``: what the manifest says of how the plan came about; ``search``: None where it was given, or made without timing
    mixtures."""

    schema: int = 1
    name: str
    int8_operators: int
    float_operators: int
    regions: tuple[FloatRegion, ...]
    search: SearchRecord | None
    speed: SpeedRecord | None = None
    notes: tuple[str, ...] = ()


def explain(folder: Path) -> Explanation:
    """Read an INT8 artifact's plan and search.

    Raises:
        ArtifactError: not an intact artifact.
        UsageError: not an INT8 artifact.
    """
    artifact = load_artifact(folder)
    plan_path = artifact.path / "quantization.json"
    if not plan_path.is_file():
        raise UsageError(
            f"'{folder}' is {artifact.manifest.target}: there is no quantization to explain.",
            hint="Give an artifact compiled for an int8 target.",
        )
    plan = msgspec.json.decode(plan_path.read_bytes(), type=QuantPlan)
    search_path = artifact.path / "search.json"
    search = msgspec.json.decode(search_path.read_bytes(), type=SearchRecord) if search_path.is_file() else None
    floats = [entry for entry in plan.ops if entry.domain is Domain.FLOAT]
    return Explanation(
        name=f"{artifact.manifest.name}-{artifact.manifest.target}",
        int8_operators=len(plan.ops) - len(floats),
        float_operators=len(floats),
        regions=_regions(plan),
        search=search,
        speed=artifact.manifest.speed,
        notes=_notes(artifact.manifest),
    )


def _notes(manifest: Manifest) -> tuple[str, ...]:
    """Of the stage that quantized, without those on speed, which are told apart."""
    told = frozenset(speed_notes(manifest.speed)) if manifest.speed is not None else frozenset()
    return tuple(note for stage in manifest.stages if stage.name == "quantize" for note in stage.notes if note not in told)


def _regions(plan: QuantPlan) -> tuple[FloatRegion, ...]:
    runs: list[list[OpPlan]] = []
    previous = Domain.INT8
    for entry in plan.ops:
        if entry.domain is Domain.FLOAT:
            if previous is not Domain.FLOAT:
                runs.append([])
            runs[-1].append(entry)
        previous = entry.domain
    return tuple(
        FloatRegion(
            number=index + 1,
            operators=len(run),
            kinds=tuple(f"{count} {kind}" for kind, count in Counter(entry.kind for entry in run).items()),
            reasons=tuple(
                f"{why} ({count}x)" if count > 1 else why for why, count in Counter(e.why for e in run).most_common()
            ),
            saves_us=round(sum(entry.saves_us or 0.0 for entry in run), 1),
            noise_db=_joint_noise(run),
            first=run[0].op,
        )
        for index, run in enumerate(runs)
    )


def _joint_noise(run: list[OpPlan]) -> float | None:
    """Powers add: independent sources."""
    power = sum(10.0 ** (-entry.noise_db / 10.0) for entry in run if entry.noise_db is not None)
    return round(-10.0 * math.log10(power), 1) if power > 0 else None
