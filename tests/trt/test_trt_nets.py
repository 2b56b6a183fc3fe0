"""Networks of kinds that TensorRT's users bring, all the way to files that keep NVIDIA's rules and say what the network says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from trt_nets import CLASSES, NETS, SHAPE

from edgeseg.data.scenes import SPLITS, render
from edgeseg.model import load_model
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.session import ModelInput
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_trt import quantize_trt
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.trt.opset import as_written, decibel

SPEC = ModelSpec(input=InputSpec(shape=SHAPE), classes=ClassesSpec(names=tuple("abcdef"[:CLASSES])))
_LEAST_DB = 20.0
"""Of the logits of a network whose weights nobody trained; below this the int8 form says something else."""


def pictures(first: int, count: int) -> torch.Tensor:
    images = torch.from_numpy(np.stack([render(first + i)[0] for i in range(count)])).permute(0, 3, 1, 2).float()
    return (nn.functional.interpolate(images, size=SHAPE[2:], mode="bilinear", align_corners=False) - 120) / 60


@pytest.mark.parametrize("network", NETS, ids=lambda network: network.__name__.lower())
def test_any_kind_of_network_keeps_the_rules_and_agrees(network: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = network().train()
    seen = pictures(SPLITS["train"], 8)
    with torch.no_grad():
        for _ in range(20):
            module(seen)  # batch norms get the statistics of pictures
    torch.jit.trace(module.eval(), seen[:1]).save(str(tmp_path / "model.pt"))
    exported = export_onnx(load_model(tmp_path / "model.pt"), SPEC, tmp_path / "export.onnx", opset=18).graph
    graph = simplify(exported, tmp_path / "float.onnx").graph
    images = [ModelInput(np.zeros((1, *SHAPE[2:], 3), np.uint8), image[None].numpy()) for image in pictures(0, 6)]
    done = quantize_trt(graph, images, tmp_path)
    weak, typed = onnx.load_model(str(done.result.graph.path)), onnx.load_model(str(done.typed))
    assert [(f.node, f.message) for f in check_trt(weak)] == []
    assert [(f.node, f.message) for f in check_trt(typed, max_opset=20)] == []
    assert done.result.share.int8.total() > 0
    judged = pictures(SPLITS["val"], 3)
    with torch.inference_mode():
        wanted = np.concatenate([module(image[None]).numpy() for image in judged])
    session = as_written(weak)
    name = session.get_inputs()[0].name
    got = np.concatenate([session.run(None, {name: image[None].numpy()})[0] for image in judged])
    assert decibel(wanted, got) > _LEAST_DB
