"""``edgeseg calib``."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli.show import ProgressBar, json_option, print_json
from edgeseg.errors import CheckFailed

if TYPE_CHECKING:
    from edgeseg.lint import Finding, LintReport
    from edgeseg.model import Model
    from edgeseg.spec import ModelSpec
    from edgeseg.subject import LoadOptions

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
@click.option(
    "--deep", is_flag=True, help="Also quantize SUBJECT, a model, with either half of the images, and compare what they lose."
)
@click.option("--factory", help="--deep: package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="--deep: run the code inside a pickled model file.")
@click.option("--output-name", help="--deep: which of several outputs holds the logits.")
@json_option
def lint(
    subject: Path | None,
    images: tuple[str, ...],
    regions: str | None,
    count: int | None,
    seed: int | None,
    eval_images: str | None,
    eval_regions: str | None,
    deep: bool,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    as_json: bool,
) -> None:
    """Find what is wrong with the calibration images that SUBJECT's spec draws.

    SUBJECT is an edgeseg.toml, or a model or artifact that has one. [default: ./edgeseg.toml] Exit code 3 where a finding is
    an error, 0 with warnings only.
    """
    from edgeseg.data.calibration import open_calibration
    from edgeseg.lint import calibration_pictures, lint_calibration, open_judged, with_halves
    from edgeseg.subject import LoadOptions

    load = LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name)
    model = _model(subject, load) if deep else None
    spec, base = _spec(subject)
    calibration = open_calibration(spec, base, images=images or None, regions=regions, count=count, seed=seed)
    judged = open_judged(spec, base, images=eval_images, regions=eval_regions)
    with ProgressBar("lint", None) as bar:
        report = lint_calibration(spec, calibration_pictures(calibration), judged, seed=calibration.seed, progress=bar)
    if model is not None and not any(finding.code.value == "unusable" for finding in report.findings):
        from edgeseg.halves import outcome_of_halves

        with ProgressBar("halves", None) as bar, tempfile.TemporaryDirectory(prefix="edgeseg-halves-") as work:
            report = with_halves(report, outcome_of_halves(model, spec, calibration, Path(work), bar))
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


def _model(subject: Path | None, load: LoadOptions) -> Model:
    """The model that SUBJECT is, or was compiled from."""
    from edgeseg.errors import UsageError
    from edgeseg.model import load_model

    if subject is None or subject.suffix == ".toml":
        raise UsageError(
            "--deep quantizes a model, and none is given.", hint="Give the model: edgeseg calib lint MODEL --deep."
        )
    wanted = load.output_name
    if subject.is_dir():
        from edgeseg.artifact import load_artifact
        from edgeseg.subject import reference_of

        artifact = load_artifact(subject)
        found = reference_of(artifact, None)
        if found is None:
            raise UsageError(
                f"The model that '{subject}' was compiled from is not there any more.", hint="Give the model itself."
            )
        source = artifact.manifest.source
        load = replace(load, factory=load.factory or source.factory)
        subject, wanted = found, wanted or source.output_name or artifact.manifest.spec.output.name
    else:
        wanted = wanted or _spec(subject)[0].output.name
    return load_model(subject, factory=load.factory, trust_pickle=load.trust_pickle, output_name=wanted)


def _show(report: LintReport) -> None:
    for finding in report.findings:
        click.echo(f"{finding.severity.value} {finding.code.value}: {finding.message}")
        click.echo(f"    {finding.remedy}")
        if finding.images:
            click.echo(f"    {_listed(finding)}")
    if report.halves is not None:
        halves = report.halves
        click.echo(
            f"Everything in int8 is expected to lose {halves.drops[0]:.2f} points of mIoU with the ranges of one half of the "
            f"images, {halves.drops[1]:.2f} with the other's; {halves.agreement:.2%} equal decisions; {halves.unstable} of "
            f"{halves.tensors} ranges differ by more than a tenth."
        )
    for skipped in report.skipped:
        click.echo(f"not checked: {', '.join(skipped.codes)} ({skipped.why}).")
    against = f", against {report.evaluation_images} evaluation images" if report.evaluation_images else ""
    click.echo(f"{report.images} calibration images{against}: {report.errors} error(s), {report.warnings} warning(s).")


def _listed(finding: Finding) -> str:
    entries = [one if one == other else f"{one} = {other}" for one, other in finding.twins] or list(finding.images)
    more = f", and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
