"""``edgeseg bench``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.bench.noise import Disturbance
from edgeseg.bench.result import BenchResult, CandidateResult, Comparison
from edgeseg.bench.settings import BenchSettings
from edgeseg.cli.show import ProgressBar, json_option, print_json, print_table, size_text
from edgeseg.interval import Interval

__all__ = ["command"]


@click.command(name="bench")
@click.argument("subjects", nargs=-1, type=click.Path(path_type=Path))
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for files that are not artifacts.")
@click.option("--device", type=click.Choice(["cpu"]), default="cpu", show_default=True)
@click.option("--threads", default="1", show_default=True, help="Numbers of threads, one run for each: 1,2,4.")
@click.option("--budget", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds of measuring for each run.")
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True, help="Least number of rounds for each run.")
@click.option("--image", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The picture to run on.")
@click.option("--end-to-end", is_flag=True, help="Time decoding, preprocessing and the decision too.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory, each in its own process.")
@click.option("--pixels", is_flag=True, help="Foreign files take raw pixels and normalise inside.")
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the result with all samples as JSON; the samples "
              "go to FILE.<threads>t.jsonl as they come, so that a run that is cut off is not lost.")  # fmt: skip
@click.option("--recover", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Show such a cut-off run.")
@json_option
def command(
    subjects: tuple[Path, ...],
    spec: Path | None,
    device: str,
    threads: str,
    budget: float,
    rounds: int,
    image: Path | None,
    end_to_end: bool,
    memory: bool,
    pixels: bool,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    output: Path | None,
    recover: Path | None,
    as_json: bool,
) -> None:
    """Latency of SUBJECTS against each other, interleaved in one run; the first is the base.

    A subject is an artifact, a .tflite or .onnx file, or the trained model. Ratios are time / time of the base with a 95 %
    interval; below 1 is faster. Absolute times hold for this machine at this moment only.
    """
    del device  # one so far
    from edgeseg.bench import recover as recover_journal
    from edgeseg.benching import BenchOptions, bench, write_report
    from edgeseg.report.result import BenchReport
    from edgeseg.subject import LoadOptions

    if recover is not None:
        report = BenchReport(image="", runs=(recover_journal(recover),))
    else:
        with ProgressBar("bench", None) as bar:
            options = BenchOptions(
                threads=_threads(threads),
                settings=BenchSettings(budget_seconds=budget, min_rounds=rounds, max_rounds=max(rounds, 500), memory=memory),
                image=image,
                end_to_end=end_to_end,
                journal=output,
                load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name, pixels=pixels),
                progress=lambda _, done, expected: bar(done, expected),
            )
            report = bench(subjects, spec, options)
    if output is not None:
        write_report(report, output)
    if as_json:
        print_json(report)
        return
    for run in report.runs:
        _print_run(run, report.image)


def _threads(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers; write 1,2.", param_hint="--threads") from error
    if min(counts) < 1 or len(set(counts)) < len(counts):
        raise click.BadParameter("each number must be at least 1, and given once.", param_hint="--threads")
    return counts


def _print_run(run: BenchResult, image: str) -> None:
    comparisons = {entry.candidate: entry for entry in run.comparisons}
    threads = run.settings.threads
    title = f"{threads} thread{'s' if threads > 1 else ''}, {run.candidates[0].samples.rounds} rounds"
    title += f", image {image}" if image else ", cut off"
    whole = any(entry.samples.preprocess or entry.samples.postprocess for entry in run.candidates)
    columns = ["", "runtime", "median ms", "p90", "p99", "ratio [95 %]", "load ms", "size", "peak memory", "noise"]
    if whole:
        columns[5:5] = ["preprocess", "decide", "end to end"]
    print_table(title, columns, [_row(entry, comparisons.get(entry.facts.name), whole) for entry in run.candidates])
    for line in _advice(run):
        click.echo(f"  {line}")
    machine = run.machine
    overhead = "" if run.overhead is None else f"; outside the sessions {run.overhead:.1%} of the time"
    pinned = f", pinned to CPU {', '.join(map(str, run.cpus))}" if run.cpus else ""
    click.echo(f"{machine.cpu}, {machine.logical_cores} cores{pinned}{overhead}.")


def _row(entry: CandidateResult, comparison: Comparison | None, whole: bool) -> list[str]:
    facts = entry.facts
    row = [
        facts.name,
        f"{facts.info.runtime} {facts.info.version}",
        f"{entry.invoke.median / 1e6:.3f}",
        f"{entry.invoke.p90 / 1e6:.3f}",
        f"{entry.invoke.p99 / 1e6:.3f}",
        "base" if comparison is None else _interval(comparison.invoke.value),
        f"{1e3 * facts.load_seconds:.0f}",
        "" if facts.file_bytes is None else size_text(facts.file_bytes),
        "" if facts.memory is None else size_text(facts.memory.peak_over_interpreter),
        "quiet" if entry.noise.quiet else "noisy",
    ]
    if whole:
        row[5:5] = [_median(entry.samples.preprocess), _median(entry.samples.postprocess), f"{entry.total.median / 1e6:.3f}"]
    return row


def _advice(run: BenchResult) -> list[str]:
    """One line for each kind of disturbance: who suffered, what was seen first, what to do."""
    lines = []
    for kind in Disturbance:
        seen = [(one.facts.name, found) for one in run.candidates for found in one.noise.findings if found.kind is kind]
        if seen:
            who = "all" if len(seen) == len(run.candidates) > 1 else ", ".join(name for name, _ in seen)
            lines.append(f"{kind.value} ({who}): {seen[0][1].what}. {seen[0][1].advice}")
    return lines


def _median(samples: tuple[int, ...]) -> str:
    from edgeseg.bench.statistics import summarize

    return f"{summarize(samples).median / 1e6:.3f}" if samples else ""


def _interval(value: Interval) -> str:
    return f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"
