"""What a model file is, found by looking into it, and whether opening it could run code that it carries.

No function here unpickles anything or imports torch: a file is judged from its container alone, before a framework
touches it.
"""

from __future__ import annotations

import ast
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from edgeseg.errors import ModelError

__all__ = ["Container", "code_in_export", "code_in_torchscript", "sniff", "tree_types"]

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | int | float | bool | None"

_SAVE_HINT = "Save the model with torch.export.save(torch.export.export(model, (example,)), 'model.pt2')."
_LEGACY_PICKLE = re.compile(rb"\x80[\x02-\x05]")


class Container(StrEnum):
    """The outer form of a model file."""

    TORCHSCRIPT = "torchscript"
    EXPORT = "export"
    PICKLE = "pickle"
    ONNX = "onnx"


def sniff(path: Path) -> Container:
    """The container of ``path``, from its bytes and never from its name.

    Raises:
        ModelError: no such file, a folder, an empty or truncated file, or something that is not a model.
    """
    if not path.exists():
        raise ModelError(f"There is no file {path}.", hint="Check the path of the model.")
    if not path.is_file():
        raise ModelError(f"{path} is a folder, not a model file.", hint="Give the model file inside it.")
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    if not head:
        raise ModelError(f"{path} is empty.", hint="Copy or download the model again.")
    if head.startswith(b"PK"):
        return _sniff_zip(path)
    if _LEGACY_PICKLE.match(head) or tarfile.is_tarfile(path):
        return Container.PICKLE
    # A ModelProto starts with its field 1 (ir_version, a varint): tag byte 0x08.
    if head[0] == 0x08 and _is_onnx(path):
        return Container.ONNX
    raise _not_a_model(path, head)


def _sniff_zip(path: Path) -> Container:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.split("/", 1)[-1] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(
            f"{path} starts like a PyTorch file, but its end is missing or damaged ({error}).",
            hint="Copy or download the model again.",
        ) from error
    if any(name.startswith("code/") for name in members):
        return Container.TORCHSCRIPT
    if "archive_format" in members or any(re.fullmatch(r"models/.+\.json", name) for name in members):
        return Container.EXPORT
    if "serialized_exported_program.json" in members:
        raise ModelError(
            f"{path} is a torch.export file in the form that PyTorch wrote before 2.8.",
            hint="Load it with that PyTorch and save it again with a current one.",
        )
    if "data.pkl" in members:
        return Container.PICKLE
    raise ModelError(f"{path} is a zip archive, but not one that PyTorch wrote.", hint=_SAVE_HINT)


def _is_onnx(path: Path) -> bool:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError:
        return False
    return bool(model.graph.node)


def _not_a_model(path: Path, head: bytes) -> ModelError:
    if head.startswith(b"version https://git-lfs"):
        return ModelError(f"{path} is a Git LFS pointer, not the model itself.", hint="Run: git lfs pull")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return ModelError(
            f"{path} looks like a safetensors file, which edgeseg does not read.",
            hint="Load it into the model in PyTorch. " + _SAVE_HINT,
        )
    what = "is not a model file that edgeseg knows"
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in head):
        first = head.decode("utf-8", "replace").splitlines()[0][:60]
        what = f"is a text file (it starts with {first!r}), not a model"
    return ModelError(
        f"{path} {what}.",
        hint="Give a torch.export .pt2, a TorchScript .pt, a state_dict with --factory, or an ONNX file.",
    )


# --- torch.export archives -------------------------------------------------------------------------------------------

_AOT = "data/aotinductor/"
_PICKLED_OBJECT = re.compile(r"data/constants/(custom_obj|opaque_obj)_")
_OPERATOR = re.compile(r"torch\.ops\.(?!load_library\b|loaded_libraries\b|import_module\b)[a-zA-Z]\w*\.\w+(\.\w+)?")
_PYTHON_OPERATOR = re.compile(r"(_operator|math)\.[a-z_]+")
_FILE_OPERATOR = re.compile(r"\baten\.(save|from_file)\b")
_SYMBOL = re.compile(r"[a-z]{1,4}\d+")
_SHAPE_FUNCTIONS = frozenset(
    {
        "Abs",
        "Add",
        "And",
        "CeilDiv",
        "CeilToInt",
        "CleanDiv",
        "Equality",
        "Float",
        "FloatTrueDiv",
        "FloorDiv",
        "FloorToInt",
        "GreaterThan",
        "Integer",
        "IntTrueDiv",
        "LessThan",
        "Max",
        "Min",
        "Mod",
        "ModularIndexing",
        "Mul",
        "Not",
        "Or",
        "Piecewise",
        "Pow",
        "PowByNatural",
        "PythonMod",
        "Rational",
        "RoundToInt",
        "StrictGreaterThan",
        "StrictLessThan",
        "Symbol",
        "ToFloat",
        "TruncToFloat",
        "TruncToInt",
        "Unequality",
        "Where",
        "ceiling",
        "floor",
        "sqrt",
    }
)
_SHAPE_SYNTAX = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator,
    ast.unaryop, ast.Compare, ast.cmpop,
)  # fmt: skip


def code_in_export(path: Path) -> str | None:
    """Why opening a torch.export archive could run code from it, or None where it cannot.

    ``torch.export.load`` unpickles some members without restriction, evaluates shape expressions as Python, resolves
    operator names by attribute look-up and loads compiled libraries. An archive with none of these is only data.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            member = name.split("/", 1)[-1]
            if member.startswith(_AOT):
                return f"it carries a compiled library ({member})"
            if _PICKLED_OBJECT.match(member):
                return f"it carries a pickled object ({member})"
            if re.fullmatch(r"models/.+\.json", member):
                reason = _code_in_program(json.loads(archive.read(name)))
                if reason:
                    return reason
            elif member.endswith("_config.json") and _pickled_payloads(json.loads(archive.read(name))):
                return f"it carries pickled tensors ({member})"
    return None


def tree_types(path: Path) -> frozenset[str]:
    """Names of the container types in which the program of a torch.export archive takes its inputs and returns its outputs,
    ``builtins.dict`` say, or a class of the library that the model comes from."""
    found: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if re.fullmatch(r"models/.+\.json", name.split("/", 1)[-1]):
                for key, value in _fields(json.loads(archive.read(name))):
                    if key in {"in_spec", "out_spec"} and isinstance(value, str) and value:
                        found.update(str(kind) for inner, kind in _fields(json.loads(value)) if inner == "type" and kind)
    return frozenset(found)


def _pickled_payloads(config: _Json) -> bool:
    return any(key == "use_pickle" and value for key, value in _fields(config))


def _code_in_program(program: _Json) -> str | None:
    for key, value in _fields(program):
        if not isinstance(value, str):
            continue
        if key == "target" and not _is_plain_operator(value):
            return f"its graph calls {value!r}, which is not an operator"
        if key == "expr_str" and not _is_plain_expression(value):
            return f"its graph has the shape expression {value!r}"
    return None


def _is_plain_operator(target: str) -> bool:
    if _FILE_OPERATOR.search(target):
        return False
    return bool(_OPERATOR.fullmatch(target) or _PYTHON_OPERATOR.fullmatch(target) or not re.match(r"torch|#", target))


def _is_plain_expression(expression: str) -> bool:
    """Numbers, symbols such as ``s12`` and shape functions of these, with no other name, attribute or string.

    >>> _is_plain_expression("Mul(Integer(2), Symbol('s77', integer=True))"), _is_plain_expression("open('s0')")
    (True, False)
    """
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except SyntaxError:
        return False
    return all(isinstance(node, _SHAPE_SYNTAX) and _is_plain_node(node) for node in nodes)


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SHAPE_FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id in _SHAPE_FUNCTIONS or node.id in ("oo", "int_oo") or bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(_SYMBOL.fullmatch(node.value) or re.fullmatch(r"-?[\d.]+", node.value))
    return True


def _fields(value: _Json) -> Iterator[tuple[str, _Json]]:
    """Every (key, value) of a JSON document, at any depth."""
    pending: list[_Json] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


# --- TorchScript -----------------------------------------------------------------------------------------------------

_SCRIPT_FILE_CALL = re.compile(r"\b(?:ops\.aten|torch)\.(?:save|from_file)\s*\(")


def code_in_torchscript(path: Path) -> str | None:
    """Why running a TorchScript file could touch other files, or None.

    TorchScript is interpreted by PyTorch and cannot reach Python, but its operators can read and write files.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            member = name.split("/", 1)[-1]
            if member.startswith("code/") and member.endswith(".py"):
                call = _SCRIPT_FILE_CALL.search(archive.read(name).decode("utf-8", "replace"))
                if call:
                    return f"its program calls {call.group().rstrip('( ')} ({member})"
    return None
