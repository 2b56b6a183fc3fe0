"""Zero padding goes into the convolution that reads it.

Where the amounts are those of SAME padding, the convolution does it itself. Elsewhere each convolution gets a PAD of its own:
a runtime that fuses a PAD into its reader (XNNPACK) can only do so where there is one reader.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from edgeseg.tflite.graph import Array, TfGraph, TfOp
from edgeseg.tflite.rewrite import Rewriter

__all__ = ["run"]

_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}
_SAME, _VALID = 0, 1


def run(graph: TfGraph) -> tuple[TfGraph, int]:
    """Zero PADs of height and width that convolutions read."""
    edit = Rewriter(graph)
    for op in graph.ops:
        pads = edit.data(op.inputs[1]) if op.kind == "PAD" else None
        if pads is None or pads.shape != (4, 2) or pads[0].any() or pads[3].any():
            continue
        readers = edit.readers(op.id)
        convolutions = [reader for reader in readers if reader.kind in _CONVOLUTIONS and reader.inputs.count(op.id) == 1]
        fused = [reader for reader in convolutions if _is_same(edit, op, reader, pads)]
        for reader in fused:
            options = {**reader.options, "padding": _SAME}
            edit.replace(reader, replace(reader, inputs=(op.inputs[0], *reader.inputs[1:]), options=options))
            edit.done()
        left = [reader for reader in readers if reader not in fused]
        others = [reader for reader in left if reader not in convolutions]
        own = [reader for reader in left if reader in convolutions]
        if not others and op.id not in edit.before.outputs:
            own = own[1:]  # the first keeps the PAD that is there
        for reader in own:
            copy = edit.tensor(f"{op.id}_for_{reader.id}", edit.shape(op.id))
            edit.replace(reader, replace(op, outputs=(copy,)), reader.with_inputs(copy, *reader.inputs[1:]))
            edit.done()
    return edit.finish()


def _is_same(edit: Rewriter, pad: TfOp, reader: TfOp, pads: Array) -> bool:
    """Whether the convolution with SAME padding on the unpadded input computes the same."""
    if reader.options.get("padding", _SAME) != _VALID:
        return False
    size, after = edit.shape(str(pad.inputs[0])), edit.shape(reader.id)
    kernel = edit.shape(str(reader.inputs[1]))
    for axis, side in ((1, "H"), (2, "W")):
        stride = cast(int, reader.options[f"stride{side}"])
        dilation = cast(int, reader.options.get(f"dilation{side}Factor", 1))
        length = -(-size[axis] // stride)
        total = max((length - 1) * stride + (kernel[axis] - 1) * dilation + 1 - size[axis], 0)
        # What lies behind the last window is never read, so the padding behind may be longer.
        before_it, behind = int(pads[axis][0]), int(pads[axis][1])
        if after[axis] != length or before_it != total // 2 or behind < total - total // 2:
            return False
    return True
