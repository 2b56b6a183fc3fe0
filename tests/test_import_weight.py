"""Importing edgeseg and asking for help load none of the heavy packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "tensorflow", "ai_edge_litert", "tensorrt", "scipy", "rich", "PIL")

PUBLIC = """\
import edgeseg
for name in edgeseg.__all__:
    getattr(edgeseg, name)
"""


def loaded(program: str, *arguments: str) -> set[str]:
    """Top-level packages in sys.modules after ``program`` in a fresh interpreter."""
    code = f"{program}\nimport sys\nsys.stderr.write('LOADED ' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.rpartition("LOADED ")[2].split()}


def command(*arguments: str) -> str:
    """A program that runs the command and goes on."""
    return f"""\
import sys
from edgeseg.cli.main import entry
sys.argv = ["edgeseg", *{arguments!r}]
try:
    entry()
except SystemExit:
    pass
"""


def test_import_loads_nothing_but_itself() -> None:
    found = loaded("import edgeseg")
    assert "edgeseg" in found
    assert not found & {*HEAVY, "numpy", "msgspec", "click"}


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("compil",)])
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    found = loaded(command(*arguments))
    assert "click" in found
    assert not found & {*HEAVY, "numpy"}


@pytest.mark.parametrize(
    "arguments",
    [(verb, "--help") for verb in ("compile", "eval", "init", "inspect", "demo", "data", "cache")]
    + [("cache", "show"), ("targets", "--json"), ("doctor", "--json")],
    ids=" ".join,
)
def test_verbs_are_light_until_they_work(arguments: tuple[str, ...]) -> None:
    assert not loaded(command(*arguments)) & set(HEAVY)


def test_public_names_need_no_framework() -> None:
    """What ``from edgeseg import ...`` gives works where neither PyTorch nor TensorFlow is installed."""
    assert not loaded(PUBLIC) & (set(HEAVY) - {"PIL"})


def test_public_names() -> None:
    import edgeseg

    assert sorted(edgeseg.__all__) == edgeseg.__all__
    assert sorted(edgeseg._HOMES) == [name for name in edgeseg.__all__ if name != "__version__"]
    with pytest.raises(AttributeError, match="no attribute 'compile_modle'"):
        _ = edgeseg.compile_modle
