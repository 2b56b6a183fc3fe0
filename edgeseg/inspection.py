"""What is inside a file: inputs and outputs, operators by domain, size, digest. Works on foreign files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgeseg.artifact import FloatOperator, Int8Record
from edgeseg.errors import ModelError
from edgeseg.graph import Format, digest_file
from edgeseg.quantize.plan import Domain, QuantPlan
from edgeseg.session import TensorInfo

__all__ = ["Inspection", "file_format", "inspect_file", "int8_record"]


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """``int8``/``floats``/``conversions``: operators by kind. ``mac_share``: share of the multiply-adds on 8-bit operands, 0..1.

    ``partitions`` and ``outside`` (TFLite): pieces that XNNPACK runs, and operators that it leaves to reference kernels.
    """

    schema: int = 1
    file: str
    format: str
    bytes: int
    digest: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    int8: dict[str, int]
    floats: dict[str, int]
    conversions: int
    mac_share: float
    partitions: int | None = None
    outside: dict[str, int] | None = None


def file_format(path: Path) -> Format | None:
    """TFLITE or ONNX by the file's bytes; None for anything else (a PyTorch file, say)."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        head = stream.read(8)
    # The flatbuffer file identifier of the TFLite schema stands at bytes 4 to 7.
    if head[4:8] == b"TFL3":
        return Format.TFLITE
    # A serialised ModelProto starts with field 1 (ir_version), a varint: tag 0x08.
    return Format.ONNX if head[:1] == b"\x08" else None


def inspect_file(path: Path) -> Inspection:
    """Look into a .tflite or .onnx file.

    Raises:
        ModelError: it is neither, or cannot be read.
    """
    form = file_format(path)
    if form is None:
        raise ModelError(f"'{path}' is neither a .tflite nor an .onnx file.", hint="Give such a file, or an artifact's folder.")
    return _inspect_tflite(path) if form is Format.TFLITE else _inspect_onnx(path)


def _inspect_tflite(path: Path) -> Inspection:
    from edgeseg.targets.tflite import open_tflite
    from edgeseg.tflite.cost import int8_share, operator_domains
    from edgeseg.tflite.flatbuffer import read
    from edgeseg.tflite.partitions import partitions

    graph = read(path)
    with open_tflite(path) as session:
        info = session.info
    domains = operator_domains(graph)
    facts = partitions(path)
    return Inspection(
        file=path.name,
        format="tflite",
        bytes=path.stat().st_size,
        digest=digest_file(path),
        inputs=info.inputs,
        outputs=info.outputs,
        int8=domains["integer"],
        floats=domains["float"],
        conversions=sum(domains["conversion"].values()),
        mac_share=int8_share(graph),
        partitions=facts.partitions,
        outside=dict(facts.outside_kinds),
    )


def _inspect_onnx(path: Path) -> Inspection:
    from edgeseg.onnxgraph.kernels import quantized_share
    from edgeseg.onnxgraph.view import load_model
    from edgeseg.targets.onnx import open_onnx

    with open_onnx(path) as session:
        info = session.info
    share = quantized_share(load_model(path))
    return Inspection(
        file=path.name,
        format="onnx",
        bytes=path.stat().st_size,
        digest=digest_file(path),
        inputs=info.inputs,
        outputs=info.outputs,
        int8=dict(share.int8),
        floats=dict(share.others),
        conversions=share.conversions,
        mac_share=share.share,
    )


def int8_record(path: Path, plan: Path | None) -> Int8Record:
    """What the manifest says of an INT8 file; reasons come from the plan that was carried out."""
    found = inspect_file(path)
    reasons: Mapping[str, Counter[str]] = {}
    if plan is not None and plan.is_file():
        carried = msgspec.json.decode(plan.read_bytes(), type=QuantPlan)
        reasons = _reasons(carried)
    return Int8Record(
        int8_operators=sum(found.int8.values()),
        float_operators=sum(found.floats.values()),
        conversions=found.conversions,
        mac_share=found.mac_share,
        float_kinds=tuple(
            FloatOperator(kind=kind, count=count, why=_first(reasons.get(kind)))
            for kind, count in sorted(found.floats.items(), key=lambda item: -item[1])
        ),
    )


def _reasons(plan: QuantPlan) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for entry in plan.ops:
        if entry.domain is Domain.FLOAT:
            found.setdefault(entry.kind, Counter())[entry.why] += 1
    return found


def _first(reasons: Counter[str] | None) -> str:
    return reasons.most_common(1)[0][0] if reasons else "part of a conversion"
