"""``edgeseg data``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli.show import ProgressBar, json_option, print_json, print_table

__all__ = ["command"]


@click.group(name="data")
def command() -> None:
    """Calibration data sets that edgeseg knows."""


@command.command(name="list")
@json_option
def list_sets(as_json: bool) -> None:
    """Their names, licences and number of classes."""
    from edgeseg.data.manifests import list_manifests, load_manifest

    found = [load_manifest(name) for name in list_manifests()]
    if as_json:
        print_json(found)
        return
    print_table(
        "Data sets",
        ("name", "title", "classes", "licence"),
        [
            (name, one.title, str(len(one.classes.names)), one.licence)
            for name, one in zip(list_manifests(), found, strict=True)
        ],
    )


@command.command(name="show")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """How to get a data set, its licence, classes and splits."""
    import msgspec

    from edgeseg.data.manifests import load_manifest

    found = load_manifest(name)
    if as_json:
        print_json(found)
    else:
        click.echo(msgspec.toml.encode(found).decode())


@command.command(name="prepare")
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@json_option
def prepare(name: str, source: Path, destination: Path, as_json: bool) -> None:
    """Bring the official download of NAME in SOURCE into edgeseg's layout in DESTINATION."""
    from edgeseg.data.prepare import prepare_dataset

    with ProgressBar(f"prepare {name}", None) as bar:
        summary = prepare_dataset(name, source, destination, progress=lambda _split, done, total: bar(done, total))
    if as_json:
        print_json(summary)
        return
    for split in summary.splits:
        click.echo(f"{split.name}: {split.images} images in {split.folder}")
    click.echo(f'Done. In edgeseg.toml: [calibration] set = "{name}", root = "{destination}".')
