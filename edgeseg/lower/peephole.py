"""Clean-up of a lowered graph: fused activations, merged reshapes, nothing that nobody reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeseg.tflite.graph import TfGraph, TfOp, TfTensor

__all__ = ["tidy"]

_FUSIBLE = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
"""The schema's ActivationFunctionType."""

_FUSING = {
    "ADD",
    "AVERAGE_POOL_2D",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DIV",
    "FULLY_CONNECTED",
    "MAX_POOL_2D",
    "MUL",
    "SUB",
    "TRANSPOSE_CONV",
}
_MOVERS = {"RESHAPE", "TRANSPOSE"}


def tidy(graph: TfGraph) -> None:
    """Apply all clean-ups, in place."""
    _drop_dead(graph)
    _share_movers(graph)
    _connect_before_reshaping(graph)
    _merge_reshapes(graph)
    _drop_dead(graph)
    _fuse_activations(graph)
    _drop_dead(graph)


def _drop_dead(graph: TfGraph) -> None:
    wanted = set(graph.outputs)
    kept: list[TfOp] = []
    for op in reversed(graph.ops):
        if wanted.intersection(op.outputs):
            kept.append(op)
            wanted.update(name for name in op.inputs if name is not None)
    graph.ops = kept[::-1]
    named = wanted.union(graph.inputs, *(op.outputs for op in kept))
    graph.tensors = {name: tensor for name, tensor in graph.tensors.items() if name in named}


def _share_movers(graph: TfGraph) -> None:
    """Equal reshapes and transposes of one tensor are done once."""
    first: dict[tuple[str | None, ...], str] = {}
    renamed: dict[str, str] = {}
    kept: list[TfOp] = []
    for op in graph.ops:
        changed = op.with_inputs(*(renamed.get(name, name) if name is not None else None for name in op.inputs))
        key = (op.kind, *changed.inputs)
        if op.kind in _MOVERS and key in first and op.outputs[0] not in graph.outputs:
            renamed[op.outputs[0]] = first[key]
            continue
        if op.kind in _MOVERS:
            first.setdefault(key, op.outputs[0])
        kept.append(changed)
    graph.ops = kept


def _connect_before_reshaping(graph: TfGraph) -> None:
    """FULLY_CONNECTED works on the last axis and keeps the others: a reshape of those can wait until after it, where it often
    meets the one that leads back."""
    producers = graph.producers()
    kept: list[TfOp] = []
    for op in graph.ops:
        source = op.inputs[0] if op.inputs else None
        before = producers.get(source) if source is not None else None
        held = graph.tensors[source].shape if source is not None else ()
        if op.kind != "FULLY_CONNECTED" or before is None or before.kind != "RESHAPE" or before.inputs[0] is None:
            kept.append(op)
            continue
        origin = graph.tensors[before.inputs[0]].shape
        if not origin or origin[-1] != held[-1] or op.outputs[0] in graph.outputs:
            kept.append(op)
            continue
        made = graph.tensors[op.outputs[0]]
        early = replace(made, name=f"{made.name}/connected", shape=(*origin[:-1], made.shape[-1]))
        shape = f"{made.name}/shape"
        graph.tensors[early.name] = early
        graph.tensors[shape] = TfTensor(shape, (len(made.shape),), "int32", np.asarray(made.shape, np.int32))
        kept.append(replace(op, inputs=(before.inputs[0], *op.inputs[1:]), outputs=(early.name,)))
        back = TfOp("RESHAPE", (early.name, shape), (made.name,), {"newShape": made.shape}, "ReshapeOptions")
        kept.append(back)
        producers[made.name] = back
    graph.ops = kept


def _merge_reshapes(graph: TfGraph) -> None:
    """A reshape of a reshape reads the first one's input; one that leads back to the same shape is none."""
    producers = graph.producers()
    renamed: dict[str, str] = {}
    kept: list[TfOp] = []
    for op in graph.ops:
        changed = op.with_inputs(*(renamed.get(name, name) if name is not None else None for name in op.inputs))
        if op.kind == "RESHAPE":
            origin = changed.inputs[0]
            while origin is not None and origin in producers and producers[origin].kind == "RESHAPE":
                origin = producers[origin].inputs[0]
            origin = renamed.get(origin, origin) if origin is not None else None
            changed = changed.with_inputs(origin, *changed.inputs[1:])
            same = origin is not None and graph.tensors[origin].shape == graph.tensors[op.outputs[0]].shape
            if same and origin is not None and op.outputs[0] not in graph.outputs:
                renamed[op.outputs[0]] = origin
                continue
        kept.append(changed)
        producers[op.outputs[0]] = changed
    graph.ops = kept


def _fuse_activations(graph: TfGraph) -> None:
    """A clamp that alone reads the output of an operator with a fused activation becomes that activation."""
    consumers = graph.consumers()
    position = {op.outputs[0]: index for index, op in enumerate(graph.ops)}
    fused: set[int] = set()
    for index, op in enumerate(graph.ops):
        source = op.inputs[0] if op.inputs else None
        if op.kind not in _FUSIBLE or source is None or source in graph.outputs or source not in position:
            continue
        producer = graph.ops[position[source]]
        free = producer.options.get("fusedActivationFunction", 0) == 0
        floats = graph.tensors[source].dtype == "float32"
        if producer.kind in _FUSING and free and floats and len(consumers[source]) == 1 and len(producer.outputs) == 1:
            options = {**producer.options, "fusedActivationFunction": _FUSIBLE[op.kind]}
            graph.ops[position[source]] = replace(producer, outputs=op.outputs, options=options)
            position[op.outputs[0]] = position[source]
            fused.add(index)
    graph.ops = [op for index, op in enumerate(graph.ops) if index not in fused]
