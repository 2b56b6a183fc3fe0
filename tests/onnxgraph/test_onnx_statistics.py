"""Activations as onnxruntime computes them, against PyTorch's own convolution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_nets import filters, images, net, residual, two_convs

from edgeseg.errors import DataError, ModelError
from edgeseg.onnxgraph import statistics
from edgeseg.onnxgraph.statistics import collect, groups_within
from edgeseg.onnxgraph.view import GraphView


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save_model(model, str(path))
    return path


def test_extremes_are_those_of_torch(tmp_path: Path) -> None:
    import torch

    model, data = two_convs(), images(3)
    observers = collect(saved(model, tmp_path), data)
    weights = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    made = [torch.nn.functional.conv2d(torch.from_numpy(i.values), weights["w1"], weights["b1"], padding=1) for i in data]
    assert list(observers) == ["x", "c", "r", "y"]
    assert observers["c"].low == pytest.approx(min(float(t.min()) for t in made), rel=1e-5)
    assert observers["c"].high == pytest.approx(max(float(t.max()) for t in made), rel=1e-5)
    assert observers["r"].low == 0
    assert observers["x"].high == max(float(i.values.max()) for i in data)
    assert all(observer.images == 3 for observer in observers.values())


def test_several_runs_an_image_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(residual(), tmp_path)
    whole = collect(path, images(2))
    monkeypatch.setattr(statistics, "_BUDGET", 20_000)
    parts = collect(path, images(2))
    for name, observer in whole.items():
        assert (observer.low, observer.high) == (parts[name].low, parts[name].high)
        np.testing.assert_array_equal(observer.histogram.counts, parts[name].histogram.counts)


def test_groups_fit_the_budget_and_keep_the_order() -> None:
    view = GraphView(residual())
    names = list(view.activations())
    groups = list(groups_within(view, names, 20_000))
    assert [name for group in groups for name in group] == names
    sizes = [sum(4 * math.prod(view.shape(name)) for name in group) for group in groups]
    assert all(size <= 20_000 for size in sizes)
    assert len(groups) == 5
    assert list(groups_within(view, names, 1)) == [[name] for name in names]


def test_images_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive = 0

    def stream():
        nonlocal alive
        for image in images(4):
            alive += 1
            yield image

    observers = collect(saved(two_convs(), tmp_path), stream(), tensors=["r"], channel_axis=1)
    assert alive == observers["r"].images == 4
    assert observers["r"].channel_high.shape == (8,)


def test_raw_pixels_are_fed_where_the_graph_takes_them(tmp_path: Path) -> None:
    model = net("s = Div(x, d) y = Conv(s, w)", {"d": np.float32(255), "w": filters(4, 3)})
    observers = collect(saved(model, tmp_path), images(2), pixels=True)
    assert 250 < observers["x"].high <= 255
    assert 0.9 < observers["s"].high <= 1


def test_mistakes_are_told(tmp_path: Path) -> None:
    path = saved(two_convs(), tmp_path)
    with pytest.raises(ModelError, match="'nowhere'"):
        collect(path, images(1), tensors=["nowhere"])
    with pytest.raises(DataError, match="no calibration image"):
        collect(path, [])
    broken = two_convs()
    weights = onnx.numpy_helper.to_array(broken.graph.initializer[0]).copy()
    weights[0] = np.nan
    broken.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w1"))
    with pytest.raises(ModelError, match="'c' holds NaN"):
        collect(saved(broken, tmp_path), images(1))
