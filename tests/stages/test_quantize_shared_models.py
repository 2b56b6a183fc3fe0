"""The trained models of EDGESEG_DATA: for TensorRT no rule is broken, and INT8 agrees with float on pictures it has not seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.facts import probe
from edgeseg.graph import Graph
from edgeseg.model import load_model
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.onnxgraph.statistics import run_images
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import load_model as load_onnx
from edgeseg.quantize.estimate import decision_snr
from edgeseg.session import ModelInput
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec, OutputKind, OutputSpec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_onnx import quantize_onnx
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.trt.opset import at_opset

DATA = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared"))
MODELS = sorted((DATA / "models").glob("*.pt2"))
PICTURES = sorted((DATA / "data" / "camvid" / "train" / "images").glob("*.png"))[::8]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS or not PICTURES, reason=f"no models and pictures under EDGESEG_DATA ({DATA})"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


def prepared(picture: Path, spec: ModelSpec) -> ModelInput:
    """The preprocessing that the models were trained with matters little here: only that images are real."""
    pixels = np.asarray(Image.open(picture).convert("RGB").resize((spec.input.width, spec.input.height)))[None]
    values = ((pixels / 255 - 0.45) / 0.22).astype(np.float32).transpose(0, 3, 1, 2)
    return ModelInput(pixels=pixels, values=np.ascontiguousarray(values))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_int8_agrees_with_float(tmp_path: Path, path: Path) -> None:
    model = load_model(path)
    facts = probe(model)
    assert facts.input_shape is not None
    assert facts.channels is not None
    kind = OutputKind.LOGITS if facts.channels > 1 else OutputKind.SIGMOID
    names = tuple(f"class {index}" for index in range(max(2, facts.channels)))
    spec = ModelSpec(input=InputSpec(shape=facts.input_shape), output=OutputSpec(kind=kind), classes=ClassesSpec(names=names))
    graph: Graph = simplify(export_onnx(model, spec, tmp_path / "a.onnx", opset=17).graph, tmp_path / "b.onnx").graph
    calibration = [prepared(picture, spec) for picture in PICTURES[:6]]
    held_out = [prepared(picture, spec) for picture in PICTURES[16:18]]
    reference = run_images(load_onnx(graph.path), held_out)
    for style in QdqStyle:
        result = quantize_onnx(graph, calibration, tmp_path / f"{style}.onnx", style=style)
        quantized = load_onnx(result.graph.path)
        assert decision_snr(reference, run_images(quantized, held_out)) > 20
        assert result.share.share > 0.75
        if style is QdqStyle.TENSORRT:
            assert [(finding.node, finding.message) for finding in check_trt(at_opset(quantized, 17, stage="test"))] == []
