"""The trained models of EDGESEG_DATA: for TensorRT no rule is broken, and INT8 agrees with float on pictures it has not seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.data.calibration import open_calibration
from edgeseg.graph import Graph
from edgeseg.model import load_model
from edgeseg.onnxgraph.qdq import QdqStyle
from edgeseg.onnxgraph.statistics import run_images
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import load_model as load_onnx
from edgeseg.quantize.estimate import decision_snr
from edgeseg.spec_file import load_spec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_onnx import quantize_onnx
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.trt.opset import at_opset

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGESEG_DATA", ROOT.parent / "shared"))
MODELS = sorted((DATA / "models").glob("*.pt2"))
STREETS = DATA / "data" / "camvid" / "train" / "images"
RETINAS = DATA / "data" / "drive"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS or not STREETS.is_dir(), reason=f"no models and pictures under EDGESEG_DATA ({DATA})"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_int8_agrees_with_float(tmp_path: Path, path: Path) -> None:
    """Each model on pictures of its own kind, prepared as in its training: others leave ranges that mean nothing."""
    model, spec = load_model(path), load_spec(ROOT / "benchmarks" / "specs" / f"{path.stem}.toml")
    retina = spec.preprocess.crop_to_region
    images = RETINAS / "images" if retina else STREETS
    regions = str(RETINAS / "fov") if retina else None
    drawn = open_calibration(spec, tmp_path, images=[str(images)], regions=regions, count=8)
    calibration, held_out = drawn.split(0.25)
    graph: Graph = simplify(export_onnx(model, spec, tmp_path / "a.onnx", opset=17).graph, tmp_path / "b.onnx").graph
    unseen = list(held_out)
    reference = run_images(load_onnx(graph.path), unseen)
    for style in QdqStyle:
        result = quantize_onnx(graph, calibration, tmp_path / f"{style}.onnx", style=style)
        quantized = load_onnx(result.graph.path)
        assert decision_snr(reference, run_images(quantized, unseen)) > 20
        assert result.share.share > 0.85
        if style is QdqStyle.TENSORRT:
            assert [(finding.node, finding.message) for finding in check_trt(at_opset(quantized, 17, stage="test"))] == []
