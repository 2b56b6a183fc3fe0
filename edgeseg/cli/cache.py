"""``edgeseg cache``."""

from __future__ import annotations

import click

from edgeseg.cli.show import json_option, print_json, size_text

__all__ = ["command"]


@click.group(name="cache")
def command() -> None:
    """The compile cache."""


@command.command(name="show")
@json_option
def show(as_json: bool) -> None:
    """Where it is and how large."""
    from edgeseg.cache import Cache, default_cache_root

    cache = Cache(default_cache_root())
    if as_json:
        print_json({"path": str(cache.root), "bytes": cache.size()})
    else:
        click.echo(f"{cache.root}: {size_text(cache.size())}")


@command.command(name="clear")
@json_option
def clear(as_json: bool) -> None:
    """Remove every entry."""
    from edgeseg.cache import Cache, default_cache_root

    cache = Cache(default_cache_root())
    freed = cache.clear()
    if as_json:
        print_json({"path": str(cache.root), "bytes_freed": freed})
    else:
        click.echo(f"{size_text(freed)} freed in {cache.root}.")
