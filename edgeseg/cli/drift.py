"""``edgeseg drift``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from edgeseg.cli.show import ProgressBar, json_option, print_json, print_table
from edgeseg.metrics.evidence import Delta
from edgeseg.report.result import DriftReport

__all__ = ["command"]


class _NamedFile(click.ParamType[tuple[str, Path]]):
    """``NAME=FILE``."""

    name = "NAME=FILE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, _, path = str(value).partition("=")
        if not name or not path:
            self.fail(f"'{value}' is not NAME=FILE, such as lower=float.tflite", param, ctx)
        return name, Path(path)


@click.command(name="drift")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for a file that is not an artifact.")
@click.option("--reference", type=click.Path(path_type=Path), help="The model to compare with. [default: the artifact's own]")
@click.option("--images", help="Evaluation images in place of the spec's.")
@click.option("--masks", help="Their masks.")
@click.option("--regions", help="Their region masks, where only a region counts.")
@click.option("--limit", type=click.IntRange(1), help="Judge this many images only, drawn by seed.")
@click.option("--groups", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CSV of image and group.")
@click.option(
    "--waterfall/--no-waterfall",
    default=True,
    show_default=True,
    help="Measure every file between the two: an artifact's stages, built again, or those of --step.",
)
@click.option(
    "--step",
    "steps",
    multiple=True,
    type=_NamedFile(),
    help="A file between the model and SUBJECT, whoever made it (lower=float.tflite). Repeatable, in order.",
)
@click.option(
    "--layers", type=click.IntRange(0), default=10, show_default=True, help="How many of the noisiest tensors to list."
)
@click.option("--overlays", type=click.Path(path_type=Path, file_okay=False), help="Folder for pictures of the worst images.")
@click.option("--worst", type=click.IntRange(0), default=6, show_default=True, help="How many images to list.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE",
              help="Where SUBJECT runs: cpu or ssh://user@host:port (edgeseg must be installed there).")  # fmt: skip
@click.option("--remote-python", default="python3", show_default=True, help="ssh: the Python there that has edgeseg.")
@click.option("--pixels", is_flag=True, help="A foreign file takes raw pixels and normalises inside.")
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
@json_option
def command(
    subject: Path,
    spec: Path | None,
    reference: Path | None,
    images: str | None,
    masks: str | None,
    regions: str | None,
    limit: int | None,
    groups: Path | None,
    waterfall: bool,
    steps: tuple[tuple[str, Path], ...],
    layers: int,
    overlays: Path | None,
    worst: int,
    threads: int,
    device: str,
    remote_python: str,
    pixels: bool,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    as_json: bool,
) -> None:
    """What compiling did to the predictions of SUBJECT, and at which stage: every score with its interval."""
    from edgeseg.bench.device import parse_device
    from edgeseg.data.groups import read_groups
    from edgeseg.drifting import DriftOptions, drift, open_comparison, overlay_panels
    from edgeseg.remote.link import RemoteOptions
    from edgeseg.report.overlay import write_strip
    from edgeseg.subject import LoadOptions

    with ProgressBar("drift", None) as bar:
        options = DriftOptions(
            images=images,
            masks=masks,
            regions=regions,
            limit=limit,
            groups=read_groups(groups) if groups else None,
            waterfall=waterfall,
            steps=steps,
            threads=threads,
            worst=worst,
            load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name, pixels=pixels),
            device=parse_device(device),
            remote=RemoteOptions(python=remote_python),
            progress=lambda _, done, total: bar(done, total),
        )
        comparison = open_comparison(subject, spec, reference, options)
        found = drift(comparison, options)
    written = []
    if overlays is not None:
        for name, panels in overlay_panels(comparison, [image.name for image in found.drift.worst_images], threads):
            written.append(overlays / f"{name}.png")
            write_strip(written[-1], panels)
    if as_json:
        print_json(found)
        return
    _print_scores(found)
    _print_waterfall(found)
    _print_layers(found, layers)
    _print_images(found)
    for path in written:
        click.echo(f"  {path}")
    for note in found.notes:
        click.echo(note)


def _print_scores(found: DriftReport) -> None:
    result = found.drift
    scores = [
        ("mIoU", result.miou),
        ("mean Dice", result.mean_dice),
        ("pixel accuracy", result.pixel_accuracy),
        ("boundary IoU", result.boundary_iou),
        ("boundary F-score", result.boundary_f),
        (f"recall of {result.small_objects} small objects", result.small_object_recall),
        *((f"IoU {entry.name} ({entry.images} images)", entry.iou) for entry in result.classes),
    ]
    print_table(
        f"{found.subject} ({found.runtime}) against {found.reference} ({found.reference_runtime}), {result.images} images",
        ("", "reference", "subject", f"change, points [{result.confidence:.0%}]"),
        [(name, _percent(score.reference), _percent(score.candidate), _change(score)) for name, score in scores],
    )
    if result.flips is not None:
        flips = result.flips
        click.echo(
            f"{flips.share:.3%} of the pixels changed class: {flips.broken} were right before, {flips.mended} are right now, "
            f"of {flips.pixels}."
        )
    if result.calibration is not None:
        for name, error in (("Expected calibration error", result.calibration.ece), ("Brier score", result.calibration.brier)):
            told = "" if error.interval is None else f" [{error.interval.low:+z.4f}, {error.interval.high:+z.4f}]"
            click.echo(f"{name} {error.reference:.4f} before, {error.candidate:.4f} now: {error.change:+z.4f}{told}.")
    click.echo(f"Intervals: {result.method}.")
    if result.groups:
        print_table(
            "Groups",
            ("group", "images", "change of mIoU, points", "against the rest", ""),
            [
                (
                    group.name,
                    str(group.images),
                    _change(group.miou),
                    ""
                    if group.gap is None
                    else f"{100 * group.gap.estimate:+z.2f} [{100 * group.gap.low:+z.2f}, {100 * group.gap.high:+z.2f}]",
                    "loses more than the others" if group.finding else "",
                )
                for group in result.groups
            ],
        )


def _print_waterfall(found: DriftReport) -> None:
    if found.waterfall is None:
        return
    print_table(
        f"Stage by stage from {found.waterfall.start}",
        ("stage", "runtime", "mIoU", "change, points", "pixels changed"),
        [
            (step.stage, step.runtime, _percent(step.miou.candidate), _change(step.miou), f"{step.flips:.3%}")
            for step in found.waterfall.steps
        ],
    )
    if found.waterfall.culprit is None:
        click.echo("No stage costs measurably.")
        restless, busiest = found.waterfall.restless, found.waterfall.busiest
        if restless is not None:
            click.echo(
                f"But '{restless.stage}' changes {restless.flips:.1%} of the pixels: look there, or judge by more images than "
                f"{found.drift.images}."
            )
        elif busiest is not None:
            click.echo(f"Most decisions change in '{busiest.stage}': {busiest.flips:.3%} of the pixels.")
    else:
        click.echo(f"The loss arises in '{found.waterfall.culprit}'.")


def _print_layers(found: DriftReport, count: int) -> None:
    noisy = sorted((layer for layer in found.layers if layer.snr_db is not None), key=lambda layer: layer.snr_db or 0.0)
    if noisy and count:
        print_table(
            f"Tensors furthest from the float file ({len(found.layers)} compared)",
            ("tensor", "operator", "held in", "dB"),
            [(layer.tensor, layer.op, "int8" if layer.int8 else "float", f"{layer.snr_db:.1f}") for layer in noisy[:count]],
        )


def _print_images(found: DriftReport) -> None:
    if found.drift.worst_images:
        print_table(
            "Images that cost most",
            ("image", "points of mIoU", "accuracy before", "now"),
            [
                (
                    image.name,
                    f"{100 * image.influence:+z.3f}",
                    _percent(image.accuracy_reference),
                    _percent(image.accuracy_candidate),
                )
                for image in found.drift.worst_images
            ],
        )


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _change(delta: Delta) -> str:
    if math.isnan(delta.change):
        return "-"
    text = f"{100 * delta.change:+z.2f}"
    if delta.interval is None:
        return f"{text} (too few images)"
    return f"{text} [{100 * delta.interval.low:+z.2f}, {100 * delta.interval.high:+z.2f}]"
