"""The options of ``edgeseg compile`` that only TensorRT looks at, under a heading of their own."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import click

from edgeseg.cli.durations import seconds

__all__ = ["GroupedCommand", "engine_options"]

_GROUP = ("trt_", "allow_unbuilt")


class GroupedCommand(click.Command):
    """Shows TensorRT's options below the others in ``--help``."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        plain: list[tuple[str, str]] = []
        grouped: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (grouped if (parameter.name or "").startswith(_GROUP) else plain).append(record)
        for title, records in (("Options", plain), ("TensorRT engines", grouped)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


_OPTIONS = (
    click.option("--allow-unbuilt", is_flag=True, help="Exit code 0 also where this machine can build no engine."),
    click.option(
        "--trt-batch",
        default="1",
        show_default=True,
        help="Images a run: one number, or least,usual,most (1,4,16) for an ONNX file with a dynamic batch and a profile.",
    ),
    click.option(
        "--trt-size",
        help="Least and largest height x width (256x320,768x960) around the model's own, for a fully convolutional network.",
    ),
    click.option(
        "--trt-workspace", type=click.IntRange(1), default=2048, show_default=True, help="Device memory of a kernel, MiB."
    ),
    click.option("--trt-level", type=click.IntRange(0, 5), help="Optimisation level. [default: TensorRT's own]"),
    click.option(
        "--trt-timing-cache",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder that keeps the measurements of kernels, for equal rebuilds. [default: in edgeseg's cache]",
    ),
    click.option("--trt-version-compatible", is_flag=True, help="The engine also loads in later versions of the same major."),
    click.option(
        "--trt-hardware-compatible", is_flag=True, help="The engine also runs on other GPUs (Ampere and later), slower."
    ),
    click.option("--trt-tf32", is_flag=True, help="Allow float32 products at 10 bits of significand."),
    click.option("--trt-external-tactics", is_flag=True, help="Also try kernels of cuBLAS and cuDNN, where installed."),
    click.option("--trt-time-limit", default="30m", show_default=True, help="Longest build (90s, 30m)."),
)


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets them as ``allow_unbuilt`` and one ``engine`` (``BuildSettings``)."""

    @functools.wraps(command)
    def with_engine(
        *,
        trt_batch: str,
        trt_size: str | None,
        trt_workspace: int,
        trt_level: int | None,
        trt_timing_cache: Path | None,
        trt_version_compatible: bool,
        trt_hardware_compatible: bool,
        trt_tf32: bool,
        trt_external_tactics: bool,
        trt_time_limit: str,
        **others: object,
    ) -> None:
        from edgeseg.trt.build import BuildSettings

        engine = BuildSettings(
            workspace_mib=trt_workspace,
            level=trt_level,
            timing_cache=trt_timing_cache,
            version_compatible=trt_version_compatible,
            hardware_compatible=trt_hardware_compatible,
            tf32=trt_tf32,
            external_tactics=trt_external_tactics,
            batch=_batch(trt_batch),
            sizes=None if trt_size is None else _sizes(trt_size),
            time_limit_s=seconds(trt_time_limit, "--trt-time-limit"),
        )
        command(engine=engine, **others)

    decorated: Callable[..., None] = with_engine
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _batch(text: str) -> tuple[int, int, int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    match numbers:
        case [one]:
            return one, one, one
        case [least, usual, most]:
            return least, usual, most
    raise click.BadParameter(f"'{text}' is not a batch; write 4, or least,usual,most as 1,4,16.", param_hint="--trt-batch")


def _sizes(text: str) -> tuple[tuple[int, int], tuple[int, int]]:
    found = re.fullmatch(r"(\d+)x(\d+),(\d+)x(\d+)", text)
    if found is None:
        raise click.BadParameter(
            f"'{text}' is not two sizes; write least,most as height x width: 256x320,768x960.", param_hint="--trt-size"
        )
    least_height, least_width, most_height, most_width = map(int, found.groups())
    return (least_height, least_width), (most_height, most_width)
