"""Times on the command line."""

from __future__ import annotations

import click

__all__ = ["seconds"]


def seconds(text: str, flag: str) -> float:
    """Seconds from ``90s``, ``15m`` or ``1h``.

    Raises:
        click.BadParameter: it is not a time, or not a positive one; names ``flag``.
    """
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:])
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a time; write 90s or 10m.", param_hint=flag) from error
    if value <= 0:
        raise click.BadParameter("a time limit must be positive.", param_hint=flag)
    return value
