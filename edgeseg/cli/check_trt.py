"""``edgeseg check-trt``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgeseg.cli.show import json_option, print_json, print_table

__all__ = ["CheckedRule", "command"]


class CheckedRule(msgspec.Struct, frozen=True, kw_only=True):
    """One finding as ``--json`` prints it. ``refused``: NVIDIA's parser or builder refuses the file for it."""

    node: str
    rule: str
    refused: bool
    message: str
    remedy: str


@click.command(name="check-trt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--opset",
    type=click.IntRange(13),
    default=17,
    show_default=True,
    help="Newest opset of the TensorRT meant: 17 for 8.6, 20 for 10.",
)
@click.option("--strict", is_flag=True, help="Exit code 3 also for findings that only cost speed or accuracy.")
@json_option
@click.pass_context
def command(ctx: click.Context, file: Path, opset: int, strict: bool, as_json: bool) -> None:
    """Hold an ONNX FILE against NVIDIA's rules for explicit Q/DQ networks. Needs no TensorRT and no GPU.

    Exit code 3 where TensorRT would refuse the file.
    """
    from edgeseg.onnxgraph.trt_rules import check_trt
    from edgeseg.onnxgraph.view import load_model

    found = [
        CheckedRule(
            node=finding.node,
            rule=finding.rule.value,
            refused=finding.refused,
            message=finding.message,
            remedy=finding.remedy,
        )
        for finding in check_trt(load_model(file), max_opset=opset)
    ]
    refused = sum(finding.refused for finding in found)
    if as_json:
        print_json({"file": str(file), "opset": opset, "refused": refused, "findings": found})
    else:
        if found:
            print_table(
                str(file),
                ("node", "rule", "TensorRT", "what", "remedy"),
                [
                    (f.node or "the graph", f.rule, "refuses it" if f.refused else "runs it worse", f.message, f.remedy)
                    for f in found
                ],
            )
        click.echo(f"{refused} reasons to refuse the file, {len(found) - refused} that cost speed or accuracy.")
    if refused or (strict and found):
        ctx.exit(3)
