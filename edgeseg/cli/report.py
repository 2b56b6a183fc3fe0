"""``edgeseg report``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.bench.settings import BenchSettings
from edgeseg.cli.show import ProgressBar, size_text

__all__ = ["command"]


@click.command(name="report")
@click.argument("subjects", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True)
@click.option("--rule", "rules", multiple=True, help="A rule of the verdict (see edgeseg gate). [default: miou:-0.5pt]")
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for files that are not artifacts.")
@click.option("--reference", type=click.Path(path_type=Path), help="The trained model. [default: the artifacts' own]")
@click.option("--images", help="Evaluation images in place of the spec's.")
@click.option("--masks", help="Their masks.")
@click.option("--regions", help="Their region masks, where only a region counts.")
@click.option("--limit", type=click.IntRange(1), help="Judge on this many images only, drawn by seed.")
@click.option("--groups", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CSV of image and group.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--budget", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds of measuring latency.")
@click.option(
    "--waterfall/--no-waterfall", default=True, show_default=True, help="Build the chain's stages again, measure each."
)
@click.option("--bench/--no-bench", "timed", default=True, show_default=True, help="Measure latency.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory.")
@click.option("--pictures", type=click.IntRange(0), default=3, show_default=True, help="How many of the worst images to show.")
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
def command(
    subjects: tuple[Path, ...],
    html: Path,
    rules: tuple[str, ...],
    spec: Path | None,
    reference: Path | None,
    images: str | None,
    masks: str | None,
    regions: str | None,
    limit: int | None,
    groups: Path | None,
    threads: int,
    budget: float,
    waterfall: bool,
    timed: bool,
    memory: bool,
    pictures: int,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
) -> None:
    """One HTML page about SUBJECTS, files of one model: verdict, speed against quality, where the loss arises, pictures."""
    from edgeseg.benching import BenchOptions
    from edgeseg.data.groups import read_groups
    from edgeseg.drifting import DriftOptions
    from edgeseg.reporting import DEFAULT_RULES, ReportOptions, build_page, write_page
    from edgeseg.subject import LoadOptions

    with ProgressBar("report", None) as bar:
        page = build_page(
            subjects,
            ReportOptions(
                spec=spec,
                reference=reference,
                rules=rules or DEFAULT_RULES,
                worst=pictures,
                drift=DriftOptions(
                    images=images,
                    masks=masks,
                    regions=regions,
                    limit=limit,
                    groups=read_groups(groups) if groups else None,
                    waterfall=waterfall,
                    threads=threads,
                    load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name),
                ),
                bench=BenchOptions(threads=(threads,), settings=BenchSettings(budget_seconds=budget, memory=memory))
                if timed
                else None,
                progress=lambda _, done, total: bar(done, total),
            ),
        )
        write_page(page, html)
    for target in page.targets:
        click.echo(f"{target.name}: {target.gate.outcome.value}")
    click.echo(f"{html} ({size_text(html.stat().st_size)})")
