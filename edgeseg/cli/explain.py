"""``edgeseg explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli.show import json_option, print_json, print_table

if TYPE_CHECKING:
    from edgeseg.stages.search_record import SearchRecord

__all__ = ["command"]


@click.command(name="explain")
@click.argument("artifact", type=click.Path(path_type=Path))
@json_option
def command(artifact: Path, as_json: bool) -> None:
    """Why each float region of an INT8 ARTIFACT is float, and what the search tried."""
    from edgeseg.explanation import explain
    from edgeseg.stages.verdict import speed_notes

    found = explain(artifact)
    if as_json:
        print_json(found)
        return
    print_table(
        f"{found.name}: {found.int8_operators} operators in int8, {found.float_operators} in float",
        ("float region", "operators", "kinds", "int8 would save, us", "noise, dB", "why"),
        [
            (
                str(region.number),
                str(region.operators),
                ", ".join(region.kinds),
                f"{region.saves_us:.0f}",
                "" if region.noise_db is None else f"{region.noise_db:.0f}",
                "; ".join(region.reasons),
            )
            for region in found.regions
        ],
    )
    if found.speed is not None:
        for note in speed_notes(found.speed):
            click.echo(f"  {note}")
    if found.search is not None:
        _show_tried(found.search)
    for note in found.notes:
        click.echo(f"  {note}")


def _show_tried(search: SearchRecord) -> None:
    print_table(
        f"What was tried (budget {search.budget:g} points, float {search.float_ms:.2f} ms)",
        ("mixture", "int8 operators", "predicted ms", "expected loss", "dB", "measured ms", ""),
        [
            (
                one.name,
                str(one.int8_operators),
                f"{one.predicted_ms:.2f}",
                f"{one.drop:.2f}",
                f"{one.snr_db:.1f}",
                "" if one.latency_ms is None else f"{one.latency_ms:.2f}",
                "chosen" if one == search.chosen else "",
            )
            for one in search.front
        ],
    )
    for line in search.costs:
        click.echo(f"  costs of {search.tuned_for}: {line}")
