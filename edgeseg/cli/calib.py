"""``edgeseg calib``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli.show import ProgressBar, json_option, print_json
from edgeseg.errors import CheckFailed

if TYPE_CHECKING:
    from edgeseg.lint import Finding, LintReport
    from edgeseg.spec import ModelSpec

__all__ = ["command"]

_SHOWN = 6


@click.group(name="calib")
def command() -> None:
    """Calibration images."""


@command.command(name="lint")
@click.argument("subject", type=click.Path(path_type=Path), required=False)
@click.option("--images", multiple=True, help="Calibration images: folder or glob; in place of the spec's. Repeatable.")
@click.option("--regions", help="Their region masks, where the spec crops to regions.")
@click.option("--count", type=click.IntRange(1), help="How many calibration images to draw.")
@click.option("--seed", type=click.IntRange(0), help="Which ones.")
@click.option("--eval-images", help="Evaluation images in place of the spec's.")
@click.option("--eval-regions", help="Their region masks.")
@json_option
def lint(
    subject: Path | None,
    images: tuple[str, ...],
    regions: str | None,
    count: int | None,
    seed: int | None,
    eval_images: str | None,
    eval_regions: str | None,
    as_json: bool,
) -> None:
    """Find what is wrong with the calibration images that SUBJECT's spec draws.

    SUBJECT is an edgeseg.toml, or a model or artifact that has one. [default: ./edgeseg.toml] Exit code 3 where a finding is
    an error, 0 with warnings only.
    """
    from edgeseg.data.calibration import open_calibration
    from edgeseg.lint import calibration_pictures, lint_calibration, open_judged

    spec, base = _spec(subject)
    calibration = open_calibration(spec, base, images=images or None, regions=regions, count=count, seed=seed)
    judged = open_judged(spec, base, images=eval_images, regions=eval_regions)
    with ProgressBar("lint", None) as bar:
        report = lint_calibration(spec, calibration_pictures(calibration), judged, seed=calibration.seed, progress=bar)
    if as_json:
        print_json(report)
    else:
        _show(report)
    if report.errors:
        raise click.exceptions.Exit(CheckFailed.exit_code)


def _spec(subject: Path | None) -> tuple[ModelSpec, Path]:
    from edgeseg.spec_file import SPEC_NAME, load_spec
    from edgeseg.subject import resolve_spec

    path = Path(SPEC_NAME) if subject is None else subject
    if path.suffix == ".toml":
        return load_spec(path), path.resolve().parent
    if path.is_dir():
        from edgeseg.artifact import load_artifact

        manifest = load_artifact(path).manifest
        return manifest.spec, Path(manifest.source.base)
    return resolve_spec(path, None)


def _show(report: LintReport) -> None:
    for finding in report.findings:
        click.echo(f"{finding.severity.value} {finding.code.value}: {finding.message}")
        click.echo(f"    {finding.remedy}")
        if finding.images:
            click.echo(f"    {_listed(finding)}")
    for skipped in report.skipped:
        click.echo(f"not checked: {', '.join(skipped.codes)} ({skipped.why}).")
    against = f", against {report.evaluation_images} evaluation images" if report.evaluation_images else ""
    click.echo(f"{report.images} calibration images{against}: {report.errors} error(s), {report.warnings} warning(s).")


def _listed(finding: Finding) -> str:
    entries = [one if one == other else f"{one} = {other}" for one, other in finding.twins] or list(finding.images)
    more = f", and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
