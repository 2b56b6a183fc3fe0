"""LiteRT, loaded with a file or a TfGraph."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, Self, TypeAlias, cast

import numpy as np

from edgeseg.errors import DataError, ModelError, missing_extra
from edgeseg.noise import captured_stderr
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import Array, TfGraph

__all__ = ["Feed", "Interpreter", "LoadedGraph", "open_interpreter", "run", "workers"]

Feed: TypeAlias = Array | Mapping[str, Array]
"""One image: the value of the graph's only input, or of each input by name."""


_MOST_WORKERS = 4


class Interpreter(Protocol):
    """The part of LiteRT's interpreter that edgeseg.tflite uses."""

    def allocate_tensors(self) -> None: ...
    def invoke(self) -> None: ...
    def set_tensor(self, index: int, value: object) -> None: ...
    def get_tensor(self, index: int) -> object: ...
    def tensor(self, index: int) -> Callable[[], object]: ...
    def get_input_details(self) -> list[dict[str, object]]: ...
    def get_output_details(self) -> list[dict[str, object]]: ...
    def get_tensor_details(self) -> list[dict[str, object]]: ...
    def _get_ops_details(self) -> list[dict[str, object]]: ...


def open_interpreter(model: Path | bytes, *, threads: int = 1) -> Interpreter:
    """LiteRT with its default delegate (XNNPACK), tensors allocated.

    Raises:
        ModelError: the runtime refuses the file.
        EnvironmentLack: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter as LiteRt
    except ImportError as error:
        raise missing_extra("ai-edge-litert", "tflite", "to run TFLite files") from error
    try:
        with captured_stderr():  # it announces its delegate there; a refusal comes as an exception
            if isinstance(model, Path):
                found = cast(Interpreter, LiteRt(model_path=str(model), num_threads=threads))
            else:
                found = cast(Interpreter, LiteRt(model_content=model, num_threads=threads))
            found.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        shown = model if isinstance(model, Path) else "the graph"
        raise ModelError(
            f"LiteRT refuses {shown}: {str(error).strip().splitlines()[-1]}.", hint="Make the file again with edgeseg compile."
        ) from error
    return found


def workers() -> int:
    """Threads for runs that nobody times: the cores that this process may use, at most four. The numbers are the same with any
    count, since XNNPACK splits no sum."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


class LoadedGraph:
    """A graph serialised in memory and loaded; a context manager. ``feed``, ``invoke``, then ``view``."""

    def __init__(self, graph: TfGraph, *, threads: int = 1) -> None:
        self._graph = graph
        self._interpreter: Interpreter = open_interpreter(bytes(serialise(graph)), threads=threads)
        details = self._interpreter.get_input_details()
        # Inputs and outputs keep their order through the file, so names need not survive in it.
        self._inputs = {name: cast(int, raw["index"]) for name, raw in zip(graph.inputs, details, strict=True)}
        outputs = self._interpreter.get_output_details()
        self._outputs = {name: cast(int, raw["index"]) for name, raw in zip(graph.outputs, outputs, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._interpreter

    def feed(self, feed: Feed) -> dict[str, Array]:
        """Copy an input in; gives the values by the inputs' names.

        Raises:
            DataError: an input is missing or has the wrong shape.
        """
        named = dict(feed) if isinstance(feed, Mapping) else {self._graph.inputs[0]: feed}
        for name, index in self._inputs.items():
            tensor = self._graph.tensors[name]
            if name not in named or named[name].shape != tensor.shape:
                given = list(named[name].shape) if name in named else "nothing"
                raise DataError(
                    f"Input '{name}' wants {tensor.dtype} {list(tensor.shape)} and was given {given}.",
                    hint="Prepare the images with the model's edgeseg.toml.",
                )
            named[name] = np.ascontiguousarray(named[name], tensor.dtype)
            self._interpreter.set_tensor(index, named[name])
        return named

    def invoke(self) -> None:
        self._interpreter.invoke()

    def view(self, name: str) -> Array:
        """The runtime's own memory of a graph output, overwritten by the next ``invoke``."""
        if name not in self._outputs:
            return np.asarray(self._interpreter.get_tensor(self._inputs[name]))
        return cast("Array", self._interpreter.tensor(self._outputs[name])())


def run(graph: TfGraph, inputs: Iterable[Feed], *, threads: int = 1) -> list[dict[str, Array]]:
    """The graph's outputs for each input, by the outputs' names. Runs graphs of any element types."""
    with LoadedGraph(graph, threads=threads) as loaded:
        results: list[dict[str, Array]] = []
        for feed in inputs:
            loaded.feed(feed)
            loaded.invoke()
            results.append({name: loaded.view(name).copy() for name in graph.outputs})
    return results
