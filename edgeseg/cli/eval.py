"""``edgeseg eval``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from edgeseg.cli.show import ProgressBar, json_option, print_json, print_table

__all__ = ["command"]


@click.command(name="eval")
@click.argument("subject", type=click.Path(path_type=Path))
@click.option("--spec", type=click.Path(path_type=Path), help="edgeseg.toml, for files that are not artifacts.")
@click.option("--reference", type=click.Path(path_type=Path), help="The model to compare with. [default: the artifact's own]")
@click.option("--no-reference", is_flag=True, help="Judge the subject alone.")
@click.option("--images", help="Evaluation images in place of the spec's.")
@click.option("--masks", help="Their masks.")
@click.option("--regions", help="Their region masks, where only a region counts.")
@click.option("--limit", type=click.IntRange(1), help="Judge this many images only, drawn by seed.")
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
    no_reference: bool,
    images: str | None,
    masks: str | None,
    regions: str | None,
    limit: int | None,
    threads: int,
    device: str,
    remote_python: str,
    pixels: bool,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    as_json: bool,
) -> None:
    """mIoU of SUBJECT (an artifact, a .tflite or .onnx file, or a model) against the PyTorch model it came from."""
    from edgeseg.api import LoadOptions, evaluate

    with ProgressBar("evaluate", None) as bar:
        result = evaluate(
            subject,
            spec=spec,
            reference=reference,
            with_reference=not no_reference,
            images=images,
            masks=masks,
            regions=regions,
            limit=limit,
            threads=threads,
            load=LoadOptions(factory=factory, trust_pickle=trust_pickle, output_name=output_name, pixels=pixels),
            device=device,
            remote_python=remote_python,
            progress=bar,
        )
    if as_json:
        print_json(result)
        return
    judged = [result.subject] if result.reference is None else [result.reference, result.subject]
    rows = [
        (
            "mIoU",
            *(_percent(one.scores.miou) for one in judged),
        ),
        ("mean Dice", *(_percent(one.scores.mean_dice) for one in judged)),
        ("pixel accuracy", *(_percent(one.scores.pixel_accuracy) for one in judged)),
        *((f"IoU {name}", *(_percent(one.scores.iou[index]) for one in judged)) for index, name in enumerate(result.classes)),
    ]
    print_table(f"{result.images} images", ("", *(f"{one.name} ({one.runtime})" for one in judged)), rows)
    if result.agreement is not None and result.drop is not None:
        click.echo(
            f"mIoU drop {result.drop:.2f} points; {result.agreement.agreement:.3%} equal decisions, "
            f"{result.agreement.snr_db:.1f} dB against {judged[0].name}."
        )
    elif not no_reference:
        click.echo("Judged alone: no reference model was found (or PyTorch is not installed); --reference names one.")


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"
