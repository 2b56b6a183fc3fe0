"""TfGraph from a .tflite file. The public face is ``edgeseg.tflite.flatbuffer``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg.errors import ModelError
from edgeseg.tflite.graph import Array, OptionValue, Quant, TfGraph, TfOp, TfTensor
from edgeseg.tflite.schema import IDENTIFIER, TYPES, names_of, schema

__all__ = ["read"]


def read(path: Path) -> TfGraph:
    """The graph in a .tflite file. Constants are read-only views of the file's bytes; unreferenced tensors are dropped.

    Raises:
        ModelError: the file is missing, no TFLite file, or holds something that TfGraph does not express.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"{path} is not a TFLite file.", hint="Its bytes 4 to 8 must read 'TFL3'.")
    try:
        return _Reader(path, content, schema().ModelT.InitFromPackedBuf(content, 0)).graph()
    except ModelError:
        raise
    except Exception as error:  # the generated reader raises struct.error, IndexError, UnicodeDecodeError ...
        raise ModelError(f"{path} is damaged: {error}.", hint="Make or copy the file again.") from error


class _Reader:
    """One ModelT (generated code without types) on its way to a TfGraph."""

    def __init__(self, path: Path, content: bytes, model: object) -> None:
        self._path = path
        self._content = content
        self._model = model
        subgraphs = _items(model, "subgraphs")
        if len(subgraphs) != 1:
            raise self._refused(f"it has {len(subgraphs)} subgraphs")
        self._subgraph = subgraphs[0]
        self._tensors = _items(self._subgraph, "tensors")
        self._names = self._unique_names()

    def graph(self) -> TfGraph:
        ops = [self._op(raw) for raw in _items(self._subgraph, "operators")]
        inputs = tuple(self._names[i] for i in _ints(self._subgraph, "inputs"))
        outputs = tuple(self._names[i] for i in _ints(self._subgraph, "outputs"))
        computed = {*inputs, *(name for op in ops for name in op.outputs)}
        used = computed | set(outputs) | {name for op in ops for name in op.inputs if name is not None}
        tensors = {
            name: self._tensor(index, name, constant=name not in computed)
            for index, name in enumerate(self._names)
            if name in used
        }
        return TfGraph(tensors, ops, inputs, outputs)

    def _unique_names(self) -> list[str]:
        """File names where they are unique and not empty; others get the tensor's index."""
        taken: set[str] = set()
        names: list[str] = []
        for index, raw in enumerate(self._tensors):
            stored = getattr(raw, "name", None)
            name = stored.decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored or "")
            if not name or name in taken:
                name = f"{name or 'tensor'}__{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            names.append(name)
        return names

    def _tensor(self, index: int, name: str, *, constant: bool) -> TfTensor:
        raw = self._tensors[index]
        stored = names_of("TensorType").get(_int(raw, "type"), "?")
        dtype = next((own for own, schema_name in TYPES.items() if schema_name == stored), None)
        if dtype is None:
            raise self._refused(f"tensor '{name}' has element type {stored}")
        if getattr(raw, "sparsity", None) is not None or getattr(raw, "isVariable", False):
            raise self._refused(f"tensor '{name}' is sparse or a variable")
        shape = tuple(_ints(raw, "shape"))
        data = self._data(raw, name, dtype, shape) if constant else None
        return TfTensor(name, shape, dtype, data, self._quant(raw))

    def _data(self, raw: object, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        buffer = _items(self._model, "buffers")[_int(raw, "buffer")]
        offset, size = _int(buffer, "offset"), _int(buffer, "size")
        if offset > 1:  # data behind the flatbuffer, the form of files above 2 GB
            content = np.frombuffer(self._content, np.uint8, count=size, offset=offset)
        else:
            stored = getattr(buffer, "data", None)
            content = np.zeros(0, np.uint8) if stored is None else np.asarray(stored, np.uint8)
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if content.nbytes != wanted:
            raise self._refused(f"tensor '{name}' has {content.nbytes} bytes of data where its shape needs {wanted}")
        if content.ctypes.data % np.dtype(dtype).alignment:
            content = content.copy()
        return content.view(dtype).reshape(shape)

    @staticmethod
    def _quant(raw: object) -> Quant | None:
        stored = getattr(raw, "quantization", None)
        if stored is None or getattr(stored, "scale", None) is None:
            return None
        scale = tuple(float(value) for value in stored.scale)
        zero = _ints(stored, "zeroPoint") or [0] * len(scale)
        axis = _int(stored, "quantizedDimension")
        return Quant(scale, tuple(zero), axis) if scale else None

    def _op(self, raw: object) -> TfOp:
        code = _items(self._model, "operatorCodes")[_int(raw, "opcodeIndex")]
        builtin = max(_int(code, "builtinCode"), _int(code, "deprecatedBuiltinCode"))
        kind = names_of("BuiltinOperator").get(builtin, f"UNKNOWN_{builtin}")
        if kind == "CUSTOM":
            stored = getattr(code, "customCode", b"") or b""
            kind = stored.decode() if isinstance(stored, bytes) else str(stored)
        if _int(raw, "builtinOptions2Type"):
            raise self._refused(f"it uses operator {kind}")
        options_type = names_of("BuiltinOptions")[_int(raw, "builtinOptionsType")]
        custom = getattr(raw, "customOptions", None)
        return TfOp(
            kind=kind,
            inputs=tuple(None if i < 0 else self._names[i] for i in _ints(raw, "inputs")),
            outputs=tuple(self._names[i] for i in _ints(raw, "outputs")),
            options=self._options(kind, getattr(raw, "builtinOptions", None)),
            options_type="" if options_type == "NONE" else options_type,
            version=_int(code, "version"),
            custom_options=b"" if custom is None else bytes(bytearray(custom)),
        )

    def _options(self, kind: str, table: object) -> dict[str, OptionValue]:
        values: dict[str, OptionValue] = {}
        for name, value in vars(table).items() if table is not None else ():
            if value is None:
                continue
            if isinstance(value, bytes):
                values[name] = value.decode()
            elif isinstance(value, bool | int | float | str):
                values[name] = value
            elif isinstance(value, np.ndarray | list):
                values[name] = tuple(int(item) for item in value)
            else:
                raise self._refused(f"operator {kind} has a nested option '{name}'")
        return values

    def _refused(self, why: str) -> ModelError:
        return ModelError(
            f"{self._path}: {why}, which edgeseg does not read.",
            hint="A single static graph of dense tensors is needed; convert the model with edgeseg compile.",
        )


def _items(holder: object, name: str) -> list[object]:
    return list(getattr(holder, name, None) or ())


def _ints(holder: object, name: str) -> list[int]:
    stored = getattr(holder, name, None)
    return [] if stored is None else [int(value) for value in stored]


def _int(holder: object, name: str) -> int:
    return int(getattr(holder, name, 0))
