"""``edgeseg doctor``."""

from __future__ import annotations

import click

from edgeseg.cli.show import json_option, print_json, print_table

__all__ = ["command"]


@click.command(name="doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """What is missing on this machine, and the command that installs it. Exit code 4 where something is missing."""
    from edgeseg.environment import python_text, requirements

    found = requirements()
    missing = [requirement for requirement in found if requirement.version is None]
    if as_json:
        print_json(found)
    else:
        print_table(
            python_text(),
            ("package", "version", "needed for", "to install"),
            [(one.package, one.version or "missing", one.needed_for, "" if one.version else one.install) for one in found],
        )
        click.echo("Everything is here." if not missing else f"{len(missing)} packages are missing.")
    if missing:
        ctx.exit(4)
