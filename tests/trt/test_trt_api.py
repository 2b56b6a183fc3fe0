"""Every tensorrt name that the code touches exists in each version's API table, or is asked for with hasattr first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from trt_doubles import VERSIONS, table

import edgeseg.trt.runner
import edgeseg.trt.standalone
import edgeseg.trt.worker

FILES = [Path(module.__file__) for module in (edgeseg.trt.worker, edgeseg.trt.runner, edgeseg.trt.standalone)]

# What the code calls the objects of each class.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "inspector": "EngineInspector",
    "source_tensor": "ITensor",
}
# Not in the tables, which list the classes above only; in every version's documentation.
DOCUMENTED = {
    ("Logger", "ERROR"),
    ("Logger", "INTERNAL_ERROR"),
    ("Logger", "INFO"),
    ("Logger", "WARNING"),
    ("ILogger", "__init__"),
    ("TensorIOMode", "INPUT"),
}
FOREIGN = {"__version__"}


def uses(path: Path) -> Iterator[tuple[str, str]]:
    """(class or "top", name) of every attribute, except those guarded by hasattr in the same function."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        guarded = {
            (ast.unparse(node.args[0]), node.args[1].value)
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr" and isinstance(node.args[1], ast.Constant)
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute) or node.attr in FOREIGN:
                continue
            base = ast.unparse(node.value).removeprefix("self.")
            if (ast.unparse(node.value), node.attr) in guarded:
                continue
            if base in {"trt", "self._trt"}:
                yield "top", node.attr
            elif base.startswith("trt."):
                if ("trt", base.removeprefix("trt.")) not in guarded:
                    yield base.removeprefix("trt."), node.attr
            elif base in CLASSES:
                yield CLASSES[base], node.attr


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_is_in_every_version(version: str) -> None:
    names = table(version)
    missing = []
    found = {use for path in FILES for use in uses(path)}
    for owner, name in sorted(found - DOCUMENTED):
        if owner == "top" and name in {"Logger", "ILogger"}:
            continue
        assert names.get(owner) is not None, f"the table of {version} does not list {owner}, of which {name} is used"
        if name not in names[owner]:
            missing.append(f"{owner}.{name}")
    assert not missing, f"TensorRT {version} has no {', '.join(missing)}: guard them with hasattr"


def test_the_analysis_sees_the_code() -> None:
    """Were variables renamed, the test above would pass for want of anything to test."""
    found = {use for path in FILES for use in uses(path)}
    assert {owner for owner, _ in found} >= {*CLASSES.values(), "top", "BuilderFlag"} - {"INetworkDefinition"}
    assert ("IExecutionContext", "execute_async_v3") in found
    assert ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH") not in found  # guarded
    assert ("IBuilderConfig", "builder_optimization_level") not in found  # guarded


def test_flags_set_by_name_are_known_somewhere() -> None:
    """A misspelt name would be "not in this TensorRT" in every version."""
    everywhere = {name for version in VERSIONS for name in table(version)["BuilderFlag"] or []}
    tree = ast.parse(FILES[0].read_text())
    names = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "flag" and isinstance(node.args[0], ast.Constant)
    }
    assert {"FP16", "INT8", "VERSION_COMPATIBLE"} <= names <= everywhere


@pytest.mark.parametrize("path", [*FILES, FILES[0].with_name("memory.py")], ids=lambda path: path.name)
def test_foreign_interpreters_can_read_it(path: Path) -> None:
    """Python 3.8's grammar, and no import beyond the standard library, tensorrt and the CUDA packages."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    imported = set()
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    standard = {
        "__future__",
        "argparse",
        "ctypes",
        "importlib",
        "json",
        "contextlib",
        "mmap",
        "os",
        "pathlib",
        "sys",
        "time",
        "traceback",
        "typing",
    }
    assert imported <= standard | {"tensorrt"}
