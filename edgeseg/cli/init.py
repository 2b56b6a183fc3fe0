"""``edgeseg init``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli.show import json_option, print_json
from edgeseg.spec import ColorOrder, Interpolation, OutputKind, Resize

__all__ = ["command"]


@click.command(name="init")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--images", help="Calibration (and evaluation) images: folder or glob.")
@click.option("--masks", help="Masks of the evaluation images.")
@click.option("--eval-images", help="Evaluation images, where they are not the calibration images.")
@click.option("--shape", help="Input shape 1,C,H,W, where the file does not say it (TorchScript, state_dict).")
@click.option("--classes", help="Class names in channel order, separated by commas.")
@click.option(
    "--ignore-index",
    metavar="VALUE|none",
    help="Mask value that does not count. [default: 255; none for two classes whose masks hold 0 and 255]",
)
@click.option("--color", type=click.Choice([c.value for c in ColorOrder]), help="Colour order of the input. [default: RGB]")
@click.option("--scale", help="Factor on 0..255 pixels first, 1/255 say. [default: 1/255]")
@click.option("--mean", help="Mean per channel after scaling, separated by commas. [default: 0]")
@click.option("--std", help="Standard deviation per channel after scaling, separated by commas. [default: 1]")
@click.option("--post-scale", help="Factor on the normalised values, 1/255 say. [default: 1]")
@click.option("--resize", type=click.Choice([r.value for r in Resize]), help="How images are brought to size. [default: exact]")
@click.option("--interpolation", type=click.Choice([i.value for i in Interpolation]), help="[default: bilinear]")
@click.option(
    "--kind", type=click.Choice([k.value for k in OutputKind]), help="What the output means. [default: from its channels]"
)
@click.option("--threshold", type=float, help="For one channel. [default: 0.5]")
@click.option("--factory", help="package.module:function for a state_dict.")
@click.option("--trust-pickle", is_flag=True, help="Run the code inside a pickled model file.")
@click.option("--output-name", help="Which of several outputs holds the logits.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write. [default: edgeseg.toml beside the model]")
@click.option("--force", is_flag=True, help="Replace an edgeseg.toml that is there.")
@json_option
def command(
    model: Path,
    images: str | None,
    masks: str | None,
    eval_images: str | None,
    shape: str | None,
    classes: str | None,
    ignore_index: str | None,
    color: str | None,
    scale: str | None,
    mean: str | None,
    std: str | None,
    post_scale: str | None,
    resize: str | None,
    interpolation: str | None,
    kind: str | None,
    threshold: float | None,
    factory: str | None,
    trust_pickle: bool,
    output_name: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Look into MODEL and write edgeseg.toml beside it; what the file cannot tell is asked for by flags."""
    from edgeseg.initialise import Answers, propose, write_spec
    from edgeseg.spec_file import SPEC_NAME

    answers = Answers(
        images=images,
        masks=masks,
        eval_images=eval_images,
        shape=shape,
        classes=classes,
        ignore_index=ignore_index,
        color=color,
        scale=scale,
        mean=mean,
        std=std,
        post_scale=post_scale,
        resize=resize,
        interpolation=interpolation,
        kind=kind,
        threshold=threshold,
        factory=factory,
        trust_pickle=trust_pickle,
        output_name=output_name,
    )
    path = output or model.parent / "edgeseg.toml"
    proposal = propose(model, answers, path.parent)
    write_spec(path, proposal.spec, force=force)
    if as_json:
        print_json({"path": str(path), "spec": proposal.spec, "guessed": proposal.guessed})
        return
    click.echo(f"Wrote {path}.")
    for line in proposal.guessed:
        click.echo(f"  check: {line}")
    beside = path.name == SPEC_NAME and path.parent.resolve() in {model.parent.resolve(), Path.cwd()}
    click.echo(f"Next: edgeseg compile {model}{'' if beside else f' --spec {path}'} --target tflite-int8")
