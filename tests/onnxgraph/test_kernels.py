"""What counts as int8 in a file, against what onnxruntime makes of the same file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_nets import filters, net

from edgeseg.errors import ModelError
from edgeseg.onnxgraph.kernels import quantized_share, runtime_operators

CONSTANTS = {
    "s": np.float32(0.02),
    "z": np.uint8(128),
    "ws": np.full(3, 0.01, np.float32),
    "wz": np.zeros(3, np.int8),
    "w": np.random.default_rng(0).integers(-127, 127, (3, 3, 1, 1)).astype(np.int8),
    "wf": filters(3, 3, 1),
}
CONV = (
    "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear<axis=0>(w, ws, wz) c = Conv(xd, wd)"
    " cq = QuantizeLinear(c, s, z) cd = DequantizeLinear(cq, s, z)"
)
PAIR = "tq = QuantizeLinear(t, s, z) y = DequantizeLinear(tq, s, z)"


@pytest.mark.parametrize(
    ("tail", "kind", "integer"),
    [
        (f"t = Add(cd, xd) {PAIR}", "Add", True),
        ("y = Add(cd, xd)", "Add", False),
        (f"t = Add(cd, x) {PAIR}", "Add", False),
        (f"t = Exp(cd) {PAIR}", "Exp", False),
        (f"t = MaxPool<kernel_shape=[2,2]>(cd) {PAIR}", "MaxPool", True),
    ],
)
def test_an_operator_is_int8_where_onnxruntime_needs_no_float_for_it(tail: str, kind: str, integer: bool) -> None:
    model = net(f"{CONV} {tail}", CONSTANTS)
    share = quantized_share(model)
    assert share.int8["Conv"] == 1
    assert (share.int8[kind], share.others[kind]) == ((1, 0) if integer else (0, 1))
    conversions = runtime_operators(model)["DequantizeLinear"]
    assert (conversions == 1) == integer or kind == "Exp"


def test_multiply_adds_of_float_and_int8_convolutions() -> None:
    model = net(f"{CONV} y = Conv(cd, wf)", CONSTANTS)
    share = quantized_share(model)
    assert share.multiply_adds == 2 * share.multiply_adds_int8 == 2 * 16 * 16 * 9
    assert share.share == 0.5
    assert share.conversions == 4, "constants are not converted at run time"
    kinds = runtime_operators(model)
    assert kinds["QLinearConv"] == 1


def test_a_graph_that_onnxruntime_refuses() -> None:
    model = net(CONV + " y = Relu(cd)", CONSTANTS)
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(ModelError, match="refuses"):
        runtime_operators(model)
