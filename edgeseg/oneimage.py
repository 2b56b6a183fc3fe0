"""An exported program in the form that edgeseg works with: one float32 image in, by position.

A .pt2 file keeps the call that it was exported with: the image may be a keyword argument, stand beside arguments that are no
tensors (flags, None), and be in half or double precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, dtype, float16, float32, float64, fx, nn
from torch import bfloat16 as bfloat
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    import torch

__all__ = ["in_single_precision", "taking_one_image"]

_OTHERS = (float16, bfloat, float64)


class _OneImage(nn.Module):  # type: ignore[misc]
    """Calls a program with the image in its place among the arguments of the exported call."""

    def __init__(self, inner: nn.Module, leaves: list[object], place: int, spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.inner = inner
        self._leaves, self._place, self._spec = leaves, place, spec

    def forward(self, image: Tensor) -> object:
        leaves = list(self._leaves)
        leaves[self._place] = image
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return self.inner(*args, **kwargs)

    def train(self, mode: bool = True) -> _OneImage:
        """An exported program has no modes."""
        del mode
        return self


def taking_one_image(program: torch.export.ExportedProgram, module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """``module`` (the program's) as one that is called with the image alone, and what had to be done for it.

    A program with several tensors comes back as it is: ``facts.declared_input`` refuses it.
    """
    from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

    given = [one.arg for one in program.graph_signature.input_specs if one.kind is InputKind.USER_INPUT]
    tensors = [place for place, one in enumerate(given) if isinstance(one, TensorArgument)]
    spec = program.call_spec.in_spec
    if len(tensors) != 1 or spec is None or spec.num_leaves != len(given):
        return module, ()
    if any(not isinstance(one, TensorArgument | ConstantArgument) for one in given):
        return module, ()
    if spec == pytree.tree_structure(((0,), {})):
        return module, ()
    leaves = [one.value if isinstance(one, ConstantArgument) else None for one in given]
    others = [f"{one.name}={one.value!r}" for one in given if isinstance(one, ConstantArgument)]
    name = given[tensors[0]].name
    note = f"called as it was exported: the image is '{name}'{''.join(f', {other}' for other in others)}"
    return _OneImage(module, leaves, tensors[0], spec), (note,)


def in_single_precision(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """``module`` with its weights and its arithmetic in float32 where all of its floating-point weights are in another type."""
    found = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}
    other = next(iter(found), float32)
    if len(found) != 1 or other not in _OTHERS:
        return module, ()
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            _retype(part, other)
    return module.float(), (f"cast from {str(other).removeprefix('torch.')} to float32",)


def _retype(graph_module: fx.GraphModule, other: dtype) -> None:
    """Types that the program's operators name, and constants that are no buffers."""
    for node in graph_module.graph.nodes:
        node.args = tuple(_replaced(argument, other) for argument in node.args)
        node.kwargs = {key: _replaced(argument, other) for key, argument in node.kwargs.items()}
        if node.op == "get_attr":
            held = getattr(graph_module, node.target, None)
            if isinstance(held, Tensor) and not isinstance(held, nn.Parameter) and held.dtype is other:
                setattr(graph_module, node.target, held.float())
    graph_module.recompile()


def _replaced(argument: fx.node.Argument, other: dtype) -> fx.node.Argument:
    return float32 if argument is other else argument
