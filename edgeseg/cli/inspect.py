"""``edgeseg inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseg.cli.show import json_option, print_json, print_table, size_text
from edgeseg.session import TensorInfo

__all__ = ["command"]


@click.command(name="inspect")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def command(file: Path, as_json: bool) -> None:
    """What is inside FILE: an artifact, or any .tflite or .onnx file."""
    from edgeseg.artifact import load_artifact
    from edgeseg.inspection import inspect_file

    artifact = load_artifact(file) if file.is_dir() else None
    found = inspect_file(artifact.model_path if artifact else file)
    if as_json:
        print_json({"inspection": found, "manifest": artifact.manifest if artifact else None})
        return
    print_table(
        f"{found.file}: {found.format}, {size_text(found.bytes)}, {found.digest}",
        ("tensor", "name", "type", "shape", "scale", "zero point"),
        [
            *(("input", *_tensor(tensor)) for tensor in found.inputs),
            *(("output", *_tensor(tensor)) for tensor in found.outputs),
        ],
    )
    kinds = sorted({*found.int8, *found.floats}, key=lambda kind: -(found.int8.get(kind, 0) + found.floats.get(kind, 0)))
    print_table(
        "Operators",
        ("operator", "int8", "float", "not taken by XNNPACK" if found.outside is not None else ""),
        [
            (
                kind,
                str(found.int8.get(kind, 0) or ""),
                str(found.floats.get(kind, 0) or ""),
                str((found.outside or {}).get(kind, "")),
            )
            for kind in kinds
        ],
    )
    partitions = f" {found.partitions} XNNPACK partitions." if found.partitions is not None else ""
    click.echo(f"{found.mac_share:.1%} of the multiply-adds in int8; {found.conversions} conversions.{partitions}")
    if artifact is not None and artifact.manifest.int8 is not None:
        for kind in artifact.manifest.int8.float_kinds:
            click.echo(f"  float: {kind.count} {kind.kind}: {kind.why}")


def _tensor(tensor: TensorInfo) -> tuple[str, str, str, str, str]:
    return (
        tensor.name,
        tensor.dtype,
        "x".join(str(size) for size in tensor.shape),
        ", ".join(f"{scale:.6g}" for scale in tensor.scale[:4]),
        ", ".join(str(zero) for zero in tensor.zero_point[:4]),
    )
