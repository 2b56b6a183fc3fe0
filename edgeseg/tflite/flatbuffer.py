"""TfGraph to a .tflite file and back.

``read`` maps the constants onto the file's bytes without copying them; ``write`` needs about twice the file's size. What a
file may hold beyond one static subgraph (control flow, variables, sparse or sub-byte tensors, StableHLO) is refused.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import numpy as np

from edgeseg.errors import OutputError, StageError
from edgeseg.tflite.graph import Array, TfGraph, TfOp, TfTensor
from edgeseg.tflite.reader import read
from edgeseg.tflite.schema import IDENTIFIER, TYPES, schema
from edgeseg.tflite.versions import required_version

__all__ = ["read", "serialise", "write"]

_STAGE = "tflite"
_ALIGNMENT = 16  # bytes; the schema's force_align of Buffer.data
_SCHEMA_VERSION = 3
_PLACEHOLDER = 127  # BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
_LARGEST = 2**31 - 2**20  # flatbuffers use signed 32-bit offsets


class _Builder(Protocol):
    """The part of ``flatbuffers.Builder`` that is used here."""

    Bytes: bytearray
    head: int

    def StartVector(self, element: int, count: int, alignment: int) -> int: ...
    def EndVector(self) -> int: ...
    def Finish(self, root: int, file_identifier: bytes) -> int: ...
    def Head(self) -> int: ...


def write(graph: TfGraph, path: Path, *, description: str = "edgeseg", signature: bool = True) -> None:
    """Write ``graph`` to a .tflite file; the file appears whole or not at all.

    Constants with equal bytes share one buffer, aligned to 16 bytes. Operators state the smallest sufficient version.
    ``signature`` adds the signature ``serving_default``, whose argument names are the tensors' names.

    Raises:
        StageError: the graph is malformed (an operator reads what nothing defines, a constant of the wrong shape, an
            unknown option), or larger than the format's 2 GB.
        OutputError: the file cannot be written.
    """
    content = serialise(graph, description=description, signature=signature)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Check folder, rights and space.") from error


def serialise(graph: TfGraph, *, description: str = "edgeseg", signature: bool = True) -> memoryview:
    """The bytes that ``write`` puts into the file."""
    return _Writer(graph).build(description, signature=signature)


class _Writer:
    def __init__(self, graph: TfGraph) -> None:
        self._graph = graph
        self._order = _referenced(graph)
        self._index = {name: index for index, name in enumerate(self._order)}
        self._api = schema()
        self._blobs: dict[bytes, int] = {}
        self._buffers: list[object] = [self._api.BufferT()]  # the schema wants buffer 0 to be empty
        self._bytes = 0

    def build(self, description: str, *, signature: bool) -> memoryview:
        import flatbuffers

        api = self._api
        subgraph = api.SubGraphT(
            tensors=[self._tensor(self._graph.tensors[name]) for name in self._order],
            inputs=[self._index[name] for name in self._graph.inputs],
            outputs=[self._index[name] for name in self._graph.outputs],
            name="main",
        )
        codes: dict[tuple[int, str, int], int] = {}
        subgraph.operators = [self._op(op, codes) for op in self._graph.ops]
        model = api.ModelT(
            version=_SCHEMA_VERSION,
            operatorCodes=[
                api.OperatorCodeT(
                    deprecatedBuiltinCode=min(code, _PLACEHOLDER), customCode=custom or None, version=version, builtinCode=code
                )
                for code, custom, version in codes
            ],
            subgraphs=[subgraph],
            description=description,
            buffers=self._buffers,
        )
        if signature:
            model.signatureDefs = [self._signature()]
        if self._bytes > _LARGEST:
            raise _malformed(f"its constants take {self._bytes / 1e9:.1f} GB, a .tflite file holds 2")
        builder = cast(_Builder, flatbuffers.Builder(self._bytes + (1 << 16) + 512 * len(self._order)))
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return memoryview(builder.Bytes)[builder.Head() :]  # Output() would copy

    def _tensor(self, tensor: TfTensor) -> object:
        api = self._api
        if tensor.dtype not in TYPES:
            raise _malformed(f"tensor '{tensor.name}' has element type {tensor.dtype}")
        quantization = None
        if tensor.quant is not None:
            quantization = api.QuantizationParametersT(
                scale=np.asarray(tensor.quant.scale, np.float32),
                zeroPoint=np.asarray(tensor.quant.zero_point, np.int64),
                quantizedDimension=tensor.quant.axis,
            )
        return api.TensorT(
            shape=list(tensor.shape),
            type=getattr(api.TensorType, TYPES[tensor.dtype]),
            buffer=self._buffer(tensor),
            name=tensor.name,
            quantization=quantization,
            hasRank=True,
        )

    def _buffer(self, tensor: TfTensor) -> int:
        if tensor.data is None or tensor.data.size == 0:
            return 0
        if tensor.data.shape != tensor.shape or tensor.data.dtype != np.dtype(tensor.dtype):
            raise _malformed(
                f"constant '{tensor.name}' is declared {tensor.dtype}{list(tensor.shape)} and holds "
                f"{tensor.data.dtype}{list(tensor.data.shape)}"
            )
        content = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        key = hashlib.blake2b(content.data, digest_size=16).digest()
        found = self._blobs.get(key)
        if found is None:
            found = self._blobs[key] = len(self._buffers)
            self._buffers.append(_AlignedBuffer(self._api, content))
            self._bytes += content.nbytes + 4 * _ALIGNMENT
        return found

    def _op(self, op: TfOp, codes: dict[tuple[int, str, int], int]) -> object:
        api = self._api
        builtin: int | None = getattr(api.BuiltinOperator, op.kind, None)
        custom = "" if builtin is not None else op.kind
        code = api.BuiltinOperator.CUSTOM if builtin is None else builtin
        version = op.version if custom else required_version(op, self._graph.tensors)
        key = (int(code), custom, version)
        raw = api.OperatorT(
            opcodeIndex=codes.setdefault(key, len(codes)),
            inputs=[-1 if name is None else self._index[name] for name in op.inputs],
            outputs=[self._index[name] for name in op.outputs],
        )
        if op.options_type:
            raw.builtinOptionsType = getattr(api.BuiltinOptions, op.options_type, 0)
            raw.builtinOptions = self._options(op)
        if op.custom_options:
            raw.customOptions = np.frombuffer(op.custom_options, np.uint8)
        return raw

    def _options(self, op: TfOp) -> object:
        factory = getattr(self._api, f"{op.options_type}T", None)
        if factory is None:
            raise _malformed(f"operator {op.kind} ('{op.id}') names the unknown options table {op.options_type}")
        table = factory()
        for name, value in op.options.items():
            if not hasattr(table, name):
                raise _malformed(f"{op.options_type} of operator {op.kind} ('{op.id}') has no field '{name}'")
            setattr(table, name, list(value) if isinstance(value, tuple) else value)
        return table

    def _signature(self) -> object:
        api = self._api

        def mapping(names: tuple[str, ...]) -> list[object]:
            return [api.TensorMapT(name=name, tensorIndex=self._index[name]) for name in names]

        return api.SignatureDefT(
            inputs=mapping(self._graph.inputs),
            outputs=mapping(self._graph.outputs),
            signatureKey="serving_default",
            subgraphIndex=0,
        )


class _AlignedBuffer:
    """Stands in for the schema's BufferT, whose own ``Pack`` aligns to one byte and copies element by element."""

    def __init__(self, api: ModuleType, content: Array) -> None:
        self._api = api
        self._content = content

    def Pack(self, builder: _Builder) -> int:
        size = self._content.nbytes
        builder.StartVector(1, size, _ALIGNMENT)
        # A vector is written downwards from the head; the builder has made room for it in StartVector.
        builder.head -= size
        builder.Bytes[builder.head : builder.head + size] = self._content.tobytes()
        data = builder.EndVector()
        self._api.BufferStart(builder)
        self._api.BufferAddData(builder, data)
        return cast(int, self._api.BufferEnd(builder))


def _referenced(graph: TfGraph) -> list[str]:
    """Names of the tensors that the file needs, inputs first; checks that each is defined before it is read."""
    for name, tensor in graph.tensors.items():
        if name != tensor.name:
            raise _malformed(f"tensor '{tensor.name}' is filed under the name '{name}'")
    for given in graph.inputs:
        if given not in graph.tensors:
            raise _malformed(f"the graph input '{given}' does not exist")
    order: dict[str, None] = dict.fromkeys(graph.inputs)
    for op in graph.ops:
        for read_name in filter(None, op.inputs):
            if read_name not in graph.tensors:
                raise _malformed(f"operator {op.kind} ('{op.id}') reads '{read_name}', which does not exist")
            if read_name not in order and not graph.is_constant(read_name):
                raise _malformed(f"operator {op.kind} ('{op.id}') reads '{read_name}' before anything computes it")
            order.setdefault(read_name)
        for made in op.outputs:
            if made not in graph.tensors:
                raise _malformed(f"operator {op.kind} writes '{made}', which does not exist")
            if made in order:
                raise _malformed(f"operator {op.kind} writes '{made}', which is defined already")
            order[made] = None
    for wanted in graph.outputs:
        if wanted not in graph.tensors or (wanted not in order and not graph.is_constant(wanted)):
            raise _malformed(f"nothing computes the graph output '{wanted}'")
        order.setdefault(wanted)
    return list(order)


def _malformed(why: str) -> StageError:
    return StageError(f"the TFLite graph is malformed: {why}.", hint="This is a defect of a pass; report it.", stage=_STAGE)
