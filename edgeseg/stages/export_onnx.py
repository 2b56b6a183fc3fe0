"""From a trained model to an ONNX graph with one static NCHW input ``input`` and one NCHW output ``logits``.

PyTorch has two exporters. The one built on torch.export traces more models and gives better graphs, so it goes first;
the older one takes TorchScript files and some models that torch.export cannot trace. An ONNX file is brought into the
same form.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import OutputError, StageError
from edgeseg.facts import declared_input
from edgeseg.graph import Format, Graph
from edgeseg.model import Model, ModelKind
from edgeseg.noise import captured_python, captured_stdout
from edgeseg.onnxgraph.adopt import adopt
from edgeseg.reference import nchw_shape, reference_module
from edgeseg.spec import Layout, ModelSpec

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = ["DEFAULT_OPSET", "ExportResult", "export_onnx"]

STAGE = "export_onnx"

# The lowest that the torch.export route writes without a lossy conversion; ONNX Runtime, TensorRT 10 and onnx2tf read it.
DEFAULT_OPSET = 18

_LOGGERS = ("torch", "torch.onnx", "onnxscript", "onnx_ir")

_SIZE_LIMIT = 2**31 - 1  # bytes a protobuf message may have


@dataclass(frozen=True)
class ExportResult:
    """``route``: ``torch.export``, ``torchscript`` or ``onnx``. ``notes``: what the exporters said, and routes that failed."""

    graph: Graph
    route: str
    opset: int
    notes: tuple[str, ...] = ()


def export_onnx(model: Model, spec: ModelSpec, out: Path, *, opset: int = DEFAULT_OPSET) -> ExportResult:
    """Write ``model`` to ``out`` as one ONNX file, weights inside.

    Raises:
        SpecError: the model does not fit the spec.
        StageError: no route exports it (the message has every route's own error), or it is larger than 2 GB.
        OutputError: ``out`` cannot be written.
    """
    if model.kind is ModelKind.ONNX:
        adopted = adopt(model.path, spec, opset=opset, output_name=model.output_name, stage=STAGE)
        return _write(adopted.model, out, "onnx", adopted.notes)
    module, _ = reference_module(model, spec)
    routes: dict[str, Callable[[], onnx.ModelProto]] = {
        "torch.export": lambda: _by_torch_export(_program(model, spec) or module, spec, opset),
        "torchscript": lambda: _by_torchscript(module, spec, opset),
    }
    if model.kind is ModelKind.TORCHSCRIPT:
        del routes["torch.export"]  # it cannot trace a TorchScript module, unless that is converted first
        routes["torchscript to torch.export"] = lambda: _by_torch_export(_converted(module, spec), spec, opset)
    failures: list[str] = []
    for name, route in routes.items():
        try:
            # The TorchScript exporter prints the whole graph from C++ where it fails; the next route then succeeds in silence.
            with captured_stdout(), captured_python(*_LOGGERS) as noise:
                exported = route()
        except Exception as error:  # noqa: BLE001 - exporters raise any type; each is kept for the message
            failures.append(f"{name}: {type(error).__name__}: {_gist(error)}")
            continue
        result = _write(exported, out, name, (*failures, *_lines(noise)))
        if result.opset != opset:
            result = replace(result, notes=(f"opset {opset} was asked for; this route gave {result.opset}", *result.notes))
        return result
    raise StageError(
        f"{model.path} could not be exported to ONNX. " + " | ".join(failures),
        hint="Replace the operator that is named, or export the model to ONNX yourself and give edgeseg the .onnx file.",
        stage=STAGE,
    )


def _program(model: Model, spec: ModelSpec) -> torch.export.ExportedProgram | None:
    """The program of a .pt2 file where it already has the wanted form, so that it need not be traced again."""
    program, declared = model.program(), declared_input(model)
    if program is None or model.notes or declared is None or declared.shape != spec.input.shape:
        return None
    return program if spec.input.layout is Layout.NCHW and _returns_one_tensor(program) else None


def _by_torch_export(program: torch.export.ExportedProgram | torch.nn.Module, spec: ModelSpec, opset: int) -> onnx.ModelProto:
    import torch

    exported = torch.onnx.export(
        program,
        (torch.zeros(nchw_shape(spec.input)),),
        dynamo=True,
        opset_version=opset,
        input_names=["input"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    return exported.model_proto


def _converted(module: torch.nn.Module, spec: ModelSpec) -> torch.nn.Module:
    """A traced TorchScript program as PyTorch operators that torch.export can trace."""
    import torch
    from torch._export.converter import TS2EPConverter

    example = torch.zeros(nchw_shape(spec.input))
    traced = torch.jit.trace(module, example, strict=False, check_trace=False)
    return TS2EPConverter(traced, (example,), {}).convert().module(check_guards=False)


def _returns_one_tensor(program: torch.export.ExportedProgram) -> bool:
    outputs = program.graph_signature.user_outputs
    return len(outputs) == 1 and bool(program.call_spec.out_spec.is_leaf())


def _by_torchscript(module: torch.nn.Module, spec: ModelSpec, opset: int) -> onnx.ModelProto:
    import onnx
    import torch

    example = torch.zeros(nchw_shape(spec.input))
    # Traced first: the exporter's own tracer cannot see a TorchScript module inside a Python one.
    traced = torch.jit.trace(module, example, strict=False, check_trace=False)
    buffer = io.BytesIO()
    torch.onnx.export(
        traced,
        (example,),
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=["input"],
        output_names=["logits"],
        do_constant_folding=True,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _write(model: onnx.ModelProto, out: Path, route: str, notes: tuple[str, ...]) -> ExportResult:
    import onnx

    if model.ByteSize() > _SIZE_LIMIT:
        raise StageError(
            f"the graph has {model.ByteSize() / 1e9:.1f} GB, more than the 2 GB that one ONNX file may have.",
            hint="edgeseg compiles models for edge devices; use a smaller one.",
            stage=STAGE,
        )
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    try:
        onnx.save_model(model, str(out))
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {error.strerror}.", hint="Check the folder's permissions and free space."
        ) from error
    return ExportResult(Graph.of(out, Format.ONNX), route, opset, notes)


def _gist(error: Exception) -> str:
    """The line of a long exporter message that says what is wrong."""
    lines = _lines(str(error))
    for line in reversed(lines):
        if "Error" in line and ":" in line:
            return line[:400]
    return (lines[0] if lines else "no message")[:400]


def _lines(text: str | io.StringIO) -> tuple[str, ...]:
    if isinstance(text, io.StringIO):
        text = text.getvalue()
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
