"""Shapes, neighbours and multiply-adds of a graph; PyTorch's flop counter is the oracle for the latter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_nets import filters, net, residual, vector

from edgeseg.errors import ModelError
from edgeseg.onnxgraph.view import GraphView, load_model


def test_multiply_adds_are_half_of_torchs_flops() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = net(
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1) b = Conv<group=8>(a, w2) c = ConvTranspose<strides=[2,2]>(b, w3)"
        " f = Flatten(c) g = Gemm<transB=1>(f, w4, b4) y = MatMul(g, w5)",
        {
            "w1": filters(8, 3),
            "w2": filters(8, 1),
            "w3": filters(8, 5, 2),
            "w4": vector(10 * 720).reshape(10, 720),
            "b4": vector(10),
            "w5": vector(70).reshape(10, 7),
        },
    )
    torch_net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        torch.nn.Conv2d(8, 8, 3, groups=8, bias=False),
        torch.nn.ConvTranspose2d(8, 5, 2, 2, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(720, 10),
        torch.nn.Linear(10, 7, bias=False),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch_net(torch.zeros(1, 3, 16, 16))
    view = GraphView(model)
    assert 2 * sum(view.multiply_adds(node) for node in view.nodes) == counter.get_total_flops()


def test_neighbours_and_types() -> None:
    view = GraphView(residual())
    assert view.inputs == ("x",)
    assert view.activations() == ("x", "a", "r", "c", "s", "p", "u", "v", "k", "y")
    assert [node.op_type for node in view.consumers["r"]] == ["Conv", "Add", "MaxPool"]
    assert view.shape("k") == (1, 16, 16, 16)
    assert view.is_constant("w1")
    assert not view.is_constant("a")
    np.testing.assert_array_equal(view.constant("scales"), [1, 1, 2, 2])
    assert view.opset == 17


def test_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("not a graph")
    with pytest.raises(ModelError, match=r"a\.onnx"):
        load_model(tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="no file"):
        load_model(tmp_path / "b.onnx")
