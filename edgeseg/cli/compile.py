"""``edgeseg compile``."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeseg.cli.durations import seconds
from edgeseg.cli.engine_options import GroupedCommand, engine_options
from edgeseg.cli.show import json_option, print_json, print_table, size_text, status
from edgeseg.spec import Head, IoType, Target, TuneFor

if TYPE_CHECKING:
    from edgeseg.trt.build import BuildSettings

__all__ = ["command"]


@click.command(name="compile", cls=GroupedCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", "-t", required=True, type=click.Choice([target.value for target in Target]), help="What to build.")
@click.option(
    "--output",
    "-o",
    multiple=True,
    metavar="FOLDER|HEAD",
    help="Folder to write [default: build/<model>-<target>]; or what the file gives: logits [default], small-logits (before the "
    "last resize) or labels. Repeatable; a folder of such a name is ./labels.",
)
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml. [default: beside the model, then here]")
@click.option("--images", multiple=True, help="Calibration images: folder or glob; in place of the spec's. Repeatable.")
@click.option(
    "--masks",
    help="Their masks, folder or glob, in place of the spec's: what INT8 loses is then measured against the truth too.",
)
@click.option("--count", type=click.IntRange(1), help="How many calibration images to draw.")
@click.option("--seed", type=int, help="Which ones.")
@click.option(
    "--io",
    type=click.Choice([io.value for io in IoType]),
    help="Element type of a tflite-int8 file's input and output.  [default: float32; int8 for --tune-for integer-only]",
)
@click.option(
    "--tune-for",
    type=click.Choice([one.value for one in TuneFor]),
    default=TuneFor.HERE.value,
    show_default=True,
    help="tflite-int8: the machine at hand, a processor by its stored operator costs, or hardware without float.",
)
@click.option("--budget", default="0.3pt", show_default=True, help="INT8: largest loss of mIoU the search may accept.")
@click.option(
    "--policy",
    default="auto",
    show_default=True,
    help="INT8: auto (measure what runs in int8), full (all that has a kernel) or float-ops=KIND,KIND.",
)
@click.option(
    "--effort",
    type=click.Choice(["quick", "normal", "max"]),
    default="normal",
    show_default=True,
    help="INT8: how much is measured; for tflite-int8, max learns weights too.",
)
@click.option("--time-limit", default="10m", show_default=True, help="INT8: longest search (90s, 10m).")
@click.option(
    "--plan",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="INT8: carry out this (edited) quantization.json.",
)
@click.option("--factory", help="package.module:function that builds the architecture of a state_dict or checkpoint.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file. Only for files you made.")
@click.option("--output-name", help="Which of several outputs of the model holds the logits (name or index).")
@click.option(
    "--lowering",
    type=click.Choice(["auto", "direct", "onnx2tf"]),
    default="auto",
    show_default=True,
    help="TFLite: how the ONNX graph is lowered.",
)
@click.option("--lowering-limit", default="15m", show_default=True, help="TFLite: longest run of onnx2tf (90s, 15m).")
@engine_options
@click.option("--no-cache", is_flag=True, help="Do the work even if nothing has changed.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log while working.")
@json_option
def command(
    model: Path,
    target: str,
    output: tuple[str, ...],
    spec: Path | None,
    images: tuple[str, ...],
    masks: str | None,
    count: int | None,
    seed: int | None,
    io: str | None,
    tune_for: str,
    budget: str,
    policy: str,
    effort: str,
    time_limit: str,
    plan: Path | None,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    lowering: str,
    lowering_limit: str,
    allow_unbuilt: bool,
    engine: BuildSettings,
    no_cache: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Turn MODEL into a checked file for one target.

    MODEL is a .pt2, TorchScript, state_dict or .onnx file; edgeseg.toml says what goes in and what comes out.
    """
    from edgeseg.api import CompileOptions, compile_model
    from edgeseg.stages.verdict import VETO

    if verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s %(message)s")
    folder, head = _outputs(output)
    started = time.monotonic()
    with status(f"compile {model.name} for {target}", enabled=not verbose) as progress:
        result = compile_model(
            model,
            target,
            spec=spec,
            options=CompileOptions(
                output=folder,
                head=head,
                io=IoType(io) if io else None,
                tune_for=TuneFor(tune_for),
                images=images,
                masks=masks,
                count=count,
                seed=seed,
                factory=factory,
                trust_pickle=trust_pickle,
                output_name=output_name,
                lowering=lowering,
                lowering_limit_s=seconds(lowering_limit, "--lowering-limit"),
                use_cache=not no_cache,
                plan=plan,
                policy=policy,
                effort=effort,
                budget=_points(budget),
                search_limit_s=seconds(time_limit, "--time-limit"),
                engine=engine,
                command=("edgeseg", *sys.argv[1:]),
                progress=progress,
            ),
        )
    manifest = result.artifact.manifest
    unbuilt = bool(manifest.status) and not allow_unbuilt
    if as_json:
        print_json({"path": str(result.artifact.path), "cached": result.cached, "manifest": manifest})
        if unbuilt:
            sys.exit(4)
        return
    print_table(
        f"{manifest.name} for {manifest.target}",
        ("stage", "seconds", "peak MiB", "against", "dB", "max diff", "equal decisions", "notes"),
        [
            (
                stage.name,
                f"{stage.seconds:.1f}",
                f"{stage.peak_mb:.0f}",
                stage.agreement.against if stage.agreement else "",
                f"{stage.agreement.snr_db:.1f}" if stage.agreement else "",
                f"{stage.agreement.max_abs:.2g}" if stage.agreement else "",
                f"{stage.agreement.argmax:.3%}" if stage.agreement else "",
                "; ".join(stage.notes),
            )
            for stage in manifest.stages
        ],
    )
    if manifest.int8 is not None:
        record = manifest.int8
        kept = "; ".join(f"{kind.count} {kind.kind} ({kind.why})" for kind in record.float_kinds)
        click.echo(
            f"{record.int8_operators} operators in int8 with {record.mac_share:.1%} of the multiply-adds, "
            f"{record.float_operators} in float, {record.conversions} conversions." + (f" Float: {kept}." if kept else "")
        )
    for note in (note for stage in manifest.stages for note in stage.notes):
        if note.startswith(VETO):
            click.echo(note, err=True)
    took = "from the cache" if result.cached else f"in {time.monotonic() - started:.1f} s"
    click.echo(f"{result.artifact.model_path} ({size_text(manifest.files[0].bytes)}), {took}.")
    if manifest.status:
        click.echo(f"{manifest.status}. What builds it lies beside the file: build_engine.py, trtexec.txt.")
    if unbuilt:
        sys.exit(4)


def _outputs(given: tuple[str, ...]) -> tuple[Path | None, Head]:
    """The folder to write and what the file gives, out of the values of ``--output``."""
    forms = [one for one in given if one in set(Head)]
    folders = [Path(one) for one in given if one not in set(Head)]
    for many in (forms, folders):
        if len(many) > 1:
            raise click.BadParameter(f"{many[0]} and {many[1]} cannot both be.", param_hint="--output")
    return (folders[0] if folders else None), Head(forms[0]) if forms else Head.LOGITS


def _points(text: str) -> float:
    try:
        value = float(text.removesuffix("pt"))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not points of mIoU; write 0.3pt.", param_hint="--budget") from error
    if value < 0:
        raise click.BadParameter("a budget cannot be negative.", param_hint="--budget")
    return value
