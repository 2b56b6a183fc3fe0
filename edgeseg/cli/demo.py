"""``edgeseg demo``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli.show import json_option, print_json, print_table, size_text, status

__all__ = ["command"]


@click.command(name="demo")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("edgeseg-demo"),
    show_default=True,
    help="Folder to write the files and pictures into.",
)
@json_option
def command(output: Path, as_json: bool) -> None:
    """Compile, evaluate and time the embedded model: no arguments needed."""
    from edgeseg.demo import run_demo

    with status("demo") as progress:
        result = run_demo(output, progress=progress)
    if as_json:
        print_json(result)
        return
    print_table(
        f"The embedded model on {result.images} images; PyTorch mIoU {100 * result.pytorch_miou:.2f}",
        ("target", "mIoU", "drop (points)", "equal decisions", "size", "ms, 1 thread", "time / fp32"),
        [
            (
                row.target,
                f"{100 * row.miou:.2f}",
                f"{row.drop:+.2f}",
                f"{row.agreement:.2%}",
                size_text(row.bytes),
                f"{row.milliseconds:.2f}",
                "" if row.time_ratio is None else f"{row.time_ratio:.2f}",
            )
            for row in result.rows
        ],
    )
    click.echo("Files:")
    for row in result.rows:
        click.echo(f"  {row.file}")
    click.echo("Pictures (image, truth, PyTorch, INT8 files and where they differ):")
    for path in result.overlays:
        click.echo(f"  {path}")
