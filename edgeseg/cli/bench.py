"""``edgeseg bench``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from edgeseg.bench.device import DeviceKind, parse_device
from edgeseg.bench.settings import BenchSettings
from edgeseg.cli.bench_table import print_bench
from edgeseg.cli.show import ProgressBar, json_option, print_json

__all__ = ["command"]


@click.command(name="bench")
@click.argument("subjects", nargs=-1, type=click.Path(path_type=Path))
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for files that are not artifacts.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE",
              help="cpu, cuda, cuda:1, ssh://user@host:port (edgeseg must be installed there), adb or adb:SERIAL.")  # fmt: skip
@click.option("--threads", default="1", show_default=True, help="Numbers of threads, one run for each: 1,2,4.")
@click.option("--torch", "torch_ways", metavar="WAYS", help="How to run a trained model, one row each: eager, compile, fp16, bf16, "
              "bf16+compile; on a GPU also tf32 and fp16+graph (a CUDA graph). Default: eager, on a GPU eager,fp16.")  # fmt: skip
@click.option("--budget", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds of measuring for each run.")
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True, help="Least number of rounds for each run.")
@click.option("--image", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The picture to run on.")
@click.option(
    "--region", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Its region mask, for crop_to_region."
)
@click.option("--end-to-end", is_flag=True, help="Time decoding, preprocessing and the decision too.")
@click.option("--profile", is_flag=True, help="Take the time of every operator as well, after the measurement.")
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure peak memory, each in its own process.")
@click.option("--pixels", is_flag=True, help="Foreign files take raw pixels and normalise inside.")
@click.option(
    "--shape", metavar="N,C,H,W", help="Input size in the file's own order, where neither the file nor edgeseg.toml tells."
)
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
@click.option("--remote-python", default="python3", show_default=True, help="ssh: the Python there that has edgeseg.")
@click.option("--benchmark-model", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="adb: LiteRT's tool, built "
              "for the device; without it, the one in /data/local/tmp there.")  # fmt: skip
@click.option(
    "--limit", type=click.FloatRange(1), default=1800.0, show_default=True, help="ssh, adb: seconds before giving up."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the result with all samples as JSON; the samples "
              "go to FILE.<threads>t.jsonl as they come, so that a run that is cut off is not lost.")  # fmt: skip
@click.option("--recover", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Show such a cut-off run.")
@json_option
def command(
    subjects: tuple[Path, ...],
    spec: Path | None,
    device: str,
    threads: str,
    torch_ways: str | None,
    budget: float,
    rounds: int,
    image: Path | None,
    region: Path | None,
    end_to_end: bool,
    profile: bool,
    memory: bool,
    pixels: bool,
    shape: str | None,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    remote_python: str,
    benchmark_model: Path | None,
    limit: float,
    output: Path | None,
    recover: Path | None,
    as_json: bool,
) -> None:
    """Latency of SUBJECTS against each other, interleaved in one run; the first is the base.

    A subject is an artifact, a .tflite or .onnx file, or the trained model; without an edgeseg.toml it is fed noise. Ratios are
    time / time of the base with a 95 % interval; below 1 is faster. Absolute times hold for this machine at this moment only.
    """
    from edgeseg.bench import recover as recover_journal
    from edgeseg.benching import BenchOptions, bench, write_report
    from edgeseg.entries import EntryOptions
    from edgeseg.remote.ssh import RemoteOptions
    from edgeseg.report.result import BenchReport
    from edgeseg.subject import LoadOptions
    from edgeseg.targets.torch_variant import parse_variants

    if recover is not None:
        report = BenchReport(image="", runs=(recover_journal(recover),))
    else:
        place = parse_device(device)
        gpu = place.kind is DeviceKind.CUDA
        options = BenchOptions(
            threads=_numbers(threads, "--threads"),
            settings=BenchSettings(budget_seconds=budget, min_rounds=rounds, max_rounds=max(rounds, 500), memory=memory),
            entry=EntryOptions(
                load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name, pixels=pixels),
                device=place,
                torch=parse_variants(torch_ways or ("eager,fp16" if gpu else "eager"), cuda=gpu),
                shape=_shape(shape) if shape else None,
                image=image,
                region=region,
                end_to_end=end_to_end,
            ),
            profile=profile,
            remote=RemoteOptions(python=remote_python, limit_s=limit),
            tool=benchmark_model,
            journal=output,
        )
        with ProgressBar("bench", None) as bar:
            options = replace(options, progress=lambda _, done, expected: bar(done, expected))
            report = bench(subjects, spec, options)
    if output is not None:
        write_report(report, output)
    if as_json:
        print_json(report)
        return
    print_bench(report)


def _shape(text: str) -> tuple[int, ...]:
    lengths = _numbers(text, "--shape", distinct=False)
    if len(lengths) != 4:
        raise click.BadParameter(f"'{text}' has {len(lengths)} numbers; write four, 1,3,480,640 say.", param_hint="--shape")
    return lengths


def _numbers(text: str, flag: str, *, distinct: bool = True) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a list of numbers; write 1,2.", param_hint=flag) from error
    if min(counts) < 1 or (distinct and len(set(counts)) < len(counts)):
        raise click.BadParameter("each number must be at least 1" + (", and given once." if distinct else "."), param_hint=flag)
    return counts
