"""What every verb shares: JSON output, tables, progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from edgeseg.cli.stopping import check_stopped

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar", "console", "json_option", "print_json", "print_table", "size_text", "status"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def console(*, err: bool = False) -> Console:
    """A rich console; plain text where the stream is not a terminal, wide enough that pipes see whole lines."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(stderr=err, width=None if stream.isatty() else 160, highlight=False)


def print_json(document: object) -> None:
    """Any msgspec-encodable value, indented, on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; every column but the first is right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: [brackets] in a class's name are no markup
    console().print(table)


def size_text(size: int) -> str:
    """Bytes for people.

    >>> size_text(530_000), size_text(12_400_000)
    ('530 kB', '12.4 MB')
    """
    return f"{size / 1e3:.0f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"


class ProgressBar:
    """A progress bar with time left on stderr; nothing where stderr is not a terminal. Call it after each step."""

    def __init__(self, description: str, total: int | None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console(err=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task(description, total=total)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        check_stopped()
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def status(title: str, *, enabled: bool = True) -> Iterator[Callable[[str], None]]:
    """A spinner with the running stage on stderr; nothing where stderr is not a terminal."""
    if not (enabled and sys.stderr.isatty()):
        yield lambda _: check_stopped()
        return
    with console(err=True).status(title) as spinner:

        def update(stage: str) -> None:
            check_stopped()
            spinner.update(f"{title}: {stage}")

        yield update
