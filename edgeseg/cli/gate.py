"""``edgeseg gate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edgeseg.bench.settings import BenchSettings
from edgeseg.cli.show import ProgressBar, json_option, print_table
from edgeseg.errors import OutputError, UsageError
from edgeseg.gate.verdict import GateResult, InconclusivePolicy, Outcome

__all__ = ["command"]


@click.command(name="gate")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option(
    "--rule",
    "rules",
    multiple=True,
    help="A rule, or several joined by commas: miou:-0.5pt. Repeatable. [default: those under [gate] in edgeseg.toml]",
)
@click.option("--max-drop", help="Short for --rule miou:-DROP (0.5pt).")
@click.option("--max-latency", help="Short for --rule latency:RATIO (1.05x).")
@click.option("--min-speedup", help="Short for --rule speedup:RATIO (1.2x).")
@click.option("--max-size", help="Short for --rule size:SIZE (4MB).")
@click.option("--against", type=click.Path(path_type=Path), help="What to compare with. [default: the artifact's model]")
@click.option("--baseline", type=click.Path(path_type=Path), help="Compare quality and size with this file instead.")
@click.option("--update-baseline", is_flag=True, help="Write SUBJECT into --baseline, unless a rule fails.")
@click.option(
    "--inconclusive",
    type=click.Choice([policy.value for policy in InconclusivePolicy]),
    default=InconclusivePolicy.REPORT.value,
    show_default=True,
    help="What a gate that cannot decide is: exit code 5 (report), 3 (fail) or 0 (pass).",
)
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True)
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for files that are not artifacts.")
@click.option("--images", help="Evaluation images in place of the spec's.")
@click.option("--masks", help="Their masks.")
@click.option("--regions", help="Their region masks, where only a region counts.")
@click.option("--limit", type=click.IntRange(1), help="Judge on this many images only, drawn by seed.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--budget", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds of measuring latency.")
@click.option(
    "--rounds",
    type=click.IntRange(2),
    default=50,
    show_default=True,
    help="Least number of rounds; below 20 nothing is decided.",
)
@click.option("--pixels", is_flag=True, help="A foreign file takes raw pixels and normalises inside.")
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Append Markdown (a CI step summary).")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    subject: Path,
    rules: tuple[str, ...],
    max_drop: str | None,
    max_latency: str | None,
    min_speedup: str | None,
    max_size: str | None,
    against: Path | None,
    baseline: Path | None,
    update_baseline: bool,
    inconclusive: str,
    confidence: float,
    spec: Path | None,
    images: str | None,
    masks: str | None,
    regions: str | None,
    limit: int | None,
    threads: int,
    budget: float,
    rounds: int,
    pixels: bool,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """May SUBJECT ship? Exit code 0: every rule holds, 3: one is broken, 5: the data cannot decide.

    A rule holds where the whole interval of its figure is within the limit, and is broken where the whole interval is beyond it.
    Rules: miou, dice, accuracy, class.NAME, worst_class, boundary, boundary_f, small_objects (:-0.5pt), latency (:+5%), speedup
    (:1.2x), size (:4MB or :0.3x), memory (:200MB).
    """
    from edgeseg import gating
    from edgeseg.benching import BenchOptions
    from edgeseg.drifting import DriftOptions
    from edgeseg.gate.formats import BaselineNote, to_json
    from edgeseg.subject import LoadOptions

    if update_baseline and baseline is None:
        raise UsageError("There is no file to write the baseline into.", hint="Name it with --baseline baseline.json.")
    named = (("miou:-", max_drop), ("latency:", max_latency), ("speedup:", min_speedup), ("size:", max_size))
    wanted = (*rules, *(head + value.removeprefix("-") for head, value in named if value is not None))
    wanted = wanted or gating.rules_of(subject, spec)
    if not wanted and update_baseline and (junit or markdown):
        raise UsageError(
            "Without a rule there is nothing to report on.", hint="Give a --rule, or leave --junit and --markdown out."
        )
    for file in (junit, markdown):
        if file is not None and not file.parent.is_dir():
            raise OutputError(f"There is no folder '{file.parent}' to write '{file.name}' into.", hint="Make it first.")
    if update_baseline and baseline is not None and baseline.exists() and limit is not None and wanted:
        gating.refuse_a_part(baseline, limit)
    policy = InconclusivePolicy(inconclusive)
    judgement = written = None
    with ProgressBar("gate", None) as bar:
        options = gating.GateOptions(
            spec=spec,
            against=against,
            baseline=baseline if baseline is not None and (baseline.exists() or not update_baseline) else None,
            drift=DriftOptions(
                images=images,
                masks=masks,
                regions=regions,
                limit=limit,
                threads=threads,
                confidence=confidence,
                load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name, pixels=pixels),
            ),
            bench=BenchOptions(
                threads=(threads,),
                settings=BenchSettings(budget_seconds=budget, min_rounds=rounds, max_rounds=max(rounds, 500)),
            ),
            progress=lambda _, done, total: bar(done, total),
        )
        if wanted or not update_baseline:
            judgement = gating.judge(subject, wanted, options)
        if update_baseline and baseline is not None:
            if judgement is None:
                written = gating.update_baseline(subject, baseline, options)
            elif judgement.result.outcome is Outcome.PASS:
                written = gating.write_judged(judgement, baseline, options)
    note = None
    if update_baseline and baseline is not None:
        name = written.name if written is not None else subject.name
        note = BaselineNote(
            path=str(baseline), written=written is not None, name=name, miou=written.miou if written is not None else None
        )
        if written is not None:
            click.echo(f"{baseline} now holds {written.name}, mIoU {100 * written.miou:.2f}.", err=as_json)
        else:
            click.echo(f"{baseline} is left as it was: only a file that passes becomes the baseline.", err=as_json)
    if judgement is not None:
        _write_files(judgement.result, policy, junit, markdown)
        if not as_json:
            _show(judgement.result)
    if as_json:
        result = judgement.result if judgement is not None else gating.nothing_judged(written.name if written else subject.name)
        click.echo(to_json(result, note), nl=False)
    if judgement is not None:
        ctx.exit(judgement.result.exit_code(policy))


def _write_files(result: GateResult, policy: InconclusivePolicy, junit: Path | None, markdown: Path | None) -> None:
    from edgeseg.gate.formats import to_junit, to_markdown

    if junit is not None:
        _write(junit, lambda: junit.write_bytes(to_junit(result, policy)))
    if markdown is not None:
        _write(markdown, lambda: _append(markdown, to_markdown(result)))


def _show(result: GateResult) -> None:
    basis = [f"{result.images} images"] if result.images is not None else []
    basis += [f"{result.rounds} rounds"] if result.rounds is not None else []
    print_table(
        ", ".join([f"{result.candidate} against {result.against}", *basis]),
        ("rule", "outcome", "figure"),
        [(finding.rule.text, finding.outcome.value.upper(), finding.reason) for finding in result.findings],
    )
    for line in result.advice:
        click.echo(f"note: {line}")
    click.echo(f"gate: {result.outcome.value}")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def _write(path: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise OutputError(f"Cannot write '{path}': {error.strerror}.", hint="Choose another file.") from error
