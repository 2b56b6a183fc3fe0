"""The trained models of EDGESEG_DATA: what is exported and simplified computes what PyTorch computes, on a real picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseg.facts import probe
from edgeseg.model import load_model
from edgeseg.session import ModelInput, infer
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec, OutputKind, OutputSpec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.torch_ref import open_torch

DATA = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared"))
MODELS = sorted((DATA / "models").glob("*.pt*"))
SHAPES = {"espnet_camvid.pt": (1, 3, 360, 480), "wnet_drive.pt": (1, 3, 512, 512)}  # TorchScript files do not say

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS, reason=f"no models under EDGESEG_DATA ({DATA})"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_agrees_with_pytorch(tmp_path: Path, path: Path) -> None:
    torch.set_num_threads(1)
    model = load_model(path)
    facts = probe(model, shape=SHAPES.get(path.name))
    assert facts.input_shape is not None
    assert facts.channels is not None
    spec = ModelSpec(
        input=InputSpec(shape=facts.input_shape),
        output=OutputSpec(kind=OutputKind.LOGITS if facts.channels > 1 else OutputKind.SIGMOID, stride=facts.stride or 1),
        classes=ClassesSpec(names=tuple(f"class {index}" for index in range(max(2, facts.channels)))),
    )
    picture = sorted((DATA / "data" / "camvid" / "val" / "images").glob("*.png"))[0]
    pixels = np.asarray(Image.open(picture).convert("RGB").resize((spec.input.width, spec.input.height)))[None]
    image = ModelInput(pixels=pixels, values=((pixels / 255 - 0.45) / 0.22).astype(np.float32).transpose(0, 3, 1, 2))
    graph = simplify(export_onnx(model, spec, tmp_path / "a.onnx").graph, tmp_path / "b.onnx").graph
    with open_torch(model, spec) as reference, open_onnx(graph.path) as session:
        want, have = infer(reference, image), infer(session, image)
    assert np.abs(want - have).max() < 1e-4 * np.abs(want).max()
    assert (want.argmax(1) == have.argmax(1)).mean() > 0.9999
