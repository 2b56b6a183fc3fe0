"""Every trained model of EDGESEG_DATA, up to where a GPU would be needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg.data.calibration import open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.evaluation import evaluate_sessions
from edgeseg.model import load_model
from edgeseg.onnxgraph.trt_rules import check_trt
from edgeseg.onnxgraph.view import load_model as load_onnx
from edgeseg.spec_file import load_spec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.quantize_trt import quantize_trt
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.targets.onnx import open_onnx

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("EDGESEG_DATA", ROOT.parent / "shared")).resolve()
SPECS = ROOT / "benchmarks" / "specs"
IMAGES = 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["espnet_camvid", "deeplabv3plus_mobilenetv2_camvid", "unetplusplus_mobilenetv2_camvid",
                                  "segformer_mitb0_camvid", "wnet_drive"])  # fmt: skip
def test_the_int8_files_keep_the_rules_and_still_segment(name: str, tmp_path: Path) -> None:
    source = DATA / "models" / f"{name}.pt2"
    if not source.is_file():
        pytest.skip(f"there is no {source} (set EDGESEG_DATA)")
    spec = load_spec(SPECS / f"{name}.toml")
    drive = spec.preprocess.crop_to_region
    folder = DATA / "data" / ("drive" if drive else "camvid/train")
    regions = str(DATA / "data" / "drive" / "fov") if drive else None
    calibration = open_calibration(spec, SPECS, images=[str(folder / "images")], regions=regions, count=IMAGES)
    exported = export_onnx(load_model(source), spec, tmp_path / "export.onnx", opset=18).graph
    graph = simplify(exported, tmp_path / "float.onnx").graph
    done = quantize_trt(graph, calibration, tmp_path)
    assert not check_trt(load_onnx(done.result.graph.path))
    assert not check_trt(load_onnx(done.typed), max_opset=19)
    assert done.result.share.share > 0.85
    judged = folder if drive else DATA / "data" / "camvid" / "val"
    samples = open_evaluation(spec, SPECS, images=str(judged / "images"), masks=str(judged / "masks"), regions=regions)
    with open_onnx(done.result.graph.path) as subject, open_onnx(graph.path) as reference:
        result = evaluate_sessions(subject, samples.take(IMAGES), name=name, reference=reference)
    # A dozen images are noisy: the measured drop on whole sets is benchmarks/gpu.py's business.
    assert result.drop is not None
    assert result.drop < 1.0
