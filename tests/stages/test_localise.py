"""Errors per tensor, against values that PyTorch computes and torchmetrics compares."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torchmetrics.audio import SignalNoiseRatio

from edgeseg.graph import Format, Graph
from edgeseg.session import ModelInput
from edgeseg.stages.localise import tensor_errors, worst_tensor

RNG = np.random.default_rng(0)
FIRST = RNG.normal(0, 1, (8, 3, 3, 3)).astype(np.float32)
SECOND = RNG.normal(0, 1, (4, 8, 1, 1)).astype(np.float32)


def image(seed: int) -> ModelInput:
    values = np.random.default_rng(seed).normal(0, 1, (1, 3, 12, 16)).astype(np.float32)
    return ModelInput(pixels=np.zeros((1, 12, 16, 3), np.uint8), values=values)


def net(path: Path, first: np.ndarray, second: np.ndarray) -> Graph:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 12, 16])],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Graph.of(path, Format.ONNX)


def values(first: np.ndarray, second: np.ndarray, seeds: range) -> dict[str, torch.Tensor]:
    x = torch.from_numpy(np.concatenate([image(seed).values for seed in seeds])).double()
    a = torch.nn.functional.conv2d(x, torch.from_numpy(first).double(), padding=1)
    b = a.relu()
    return {"a": a, "b": b, "y": torch.nn.functional.conv2d(b, torch.from_numpy(second).double())}


def test_errors_equal_torchs_over_all_images(tmp_path: Path) -> None:
    damaged = SECOND + np.float32(0.1) * RNG.normal(0, 1, SECOND.shape).astype(np.float32)
    before, after = net(tmp_path / "before.onnx", FIRST, SECOND), net(tmp_path / "after.onnx", FIRST, damaged)
    errors = tensor_errors(before, after, [image(seed) for seed in range(3)])
    assert list(errors) == ["a", "b", "y"], "in execution order"
    assert [error.op for error in errors.values()] == ["Conv", "Relu", "Conv"]
    assert errors["a"].snr_db == errors["b"].snr_db == math.inf
    good, bad = values(FIRST, SECOND, range(3))["y"], values(FIRST, damaged, range(3))["y"]
    assert errors["y"].snr_db == pytest.approx(float(SignalNoiseRatio()(bad.ravel(), good.ravel())), abs=1e-3)
    assert "first tensor that differs is 'y'" in worst_tensor(before, net(tmp_path / "c.onnx", FIRST, -SECOND), [image(0)])


def test_equalised_channels_are_compared_as_they_were(tmp_path: Path) -> None:
    """Channels enlarged by factors of their own are no error; one that is too small is."""
    factors = np.float32([1, 2, 4, 8, 16, 32, 64, 128])
    before = net(tmp_path / "before.onnx", FIRST, SECOND)
    first = FIRST * factors[:, None, None, None]
    after = net(tmp_path / "after.onnx", first, SECOND / factors[None, :, None, None])
    raw = tensor_errors(before, after, [image(0)])
    assert raw["b"].snr_db < 0
    assert raw["y"].snr_db > 100
    undone = tensor_errors(before, after, [image(0)], equalised=True)
    assert min(error.snr_db for error in undone.values()) > 100
    small = net(tmp_path / "small.onnx", FIRST * np.float32(0.5), SECOND * np.float32(2))
    assert tensor_errors(before, small, [image(0)], equalised=True)["a"].snr_db == pytest.approx(20 * math.log10(2), abs=1e-3)
