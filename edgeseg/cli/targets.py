"""``edgeseg targets``."""

from __future__ import annotations

import click

from edgeseg.cli.show import json_option, print_json, print_table

__all__ = ["command"]


@click.command(name="targets")
@json_option
def command(as_json: bool) -> None:
    """What can be built on this machine."""
    from edgeseg.environment import target_statuses

    statuses = target_statuses()
    if as_json:
        print_json(statuses)
        return
    print_table(
        "Targets",
        ("target", "file", "here", "to install"),
        [
            (
                status.target,
                status.file,
                "ready" if not status.missing else f"needs {', '.join(status.missing)}",
                status.install,
            )
            for status in statuses
        ],
    )
