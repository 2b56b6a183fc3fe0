"""The schema's generated code, loaded when first needed, and the names of its enumerations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import cast

from edgeseg.errors import missing_extra

__all__ = ["IDENTIFIER", "TYPES", "names_of", "schema"]

IDENTIFIER = b"TFL3"

TYPES: Mapping[str, str] = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "float64": "FLOAT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "BOOL",
    "complex64": "COMPLEX64",
}
"""numpy's name of an element type to the schema's; what TfGraph can hold."""


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """The module of generated flatbuffer classes (``...T``: its object API)."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise missing_extra("ai-edge-litert", "tflite", "to read and write TFLite files") from error
    return cast(ModuleType, schema_py_generated)


@lru_cache(maxsize=8)
def names_of(enumeration: str) -> dict[int, str]:
    """Value to name of one of the schema's enumerations."""
    members = vars(getattr(schema(), enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int) and not name.startswith("_")}
