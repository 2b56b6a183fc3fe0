"""An edited ``quantization.json`` given back with ``--plan``: the files of all three runtimes hold exactly what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from shell import edgeseg, refused
from workshop import Workshop

TARGETS = {"tflite-int8": "model.tflite", "onnx-int8": "model.onnx", "tensorrt-int8": "model.qdq.onnx"}


def scales_of(path: Path) -> set[float]:
    """Every per-tensor scale in a file, by the runtime's own reader."""
    if path.suffix == ".tflite":
        loaded = Interpreter(str(path), experimental_preserve_all_tensors=True)
        found = [one["quantization_parameters"]["scales"] for one in loaded.get_tensor_details() if one["dtype"] is np.int8]
        return {float(scales[0]) for scales in found if len(scales) == 1}
    graph = onnx.load(path).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    used = [constants[node.input[1]] for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    return {float(scale.reshape(-1)[0]) for scale in used if scale.size == 1}


def int8_convolutions(path: Path) -> int:
    """Convolutions whose weights are int8."""
    if path.suffix == ".tflite":
        loaded = Interpreter(str(path), experimental_preserve_all_tensors=True)
        types = {one["index"]: one["dtype"] for one in loaded.get_tensor_details()}
        convs = [one for one in loaded._get_ops_details() if one["op_name"] == "CONV_2D"]
        return sum(1 for one in convs if types[one["inputs"][1]] is np.int8)
    graph = onnx.load(path).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(1 for node in graph.node if node.op_type == "Conv" and node.input[1] in dequantized)


def edited(plan: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    """One tensor's scale made a quarter larger, and the first convolution put in float; the old and the new scale."""
    convs = [entry for entry in plan["ops"] if entry["kind"].upper().startswith("CONV") and entry["domain"] == "int8"]
    convs[0]["domain"] = "float32"
    # An operator that is fused with the next has no quantized output of its own.
    inner = [entry["op"] for entry in plan["ops"] if entry["op"] in plan["tensors"] and entry is not convs[0]]
    quant = plan["tensors"][inner[0]]
    old = quant["scale"][0]
    quant["scale"] = [float(np.float32(1.25 * old))]
    return plan, old, quant["scale"][0]


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_plan_says_is_in_the_file(target: str, workshop: Workshop, tmp_path: Path) -> None:
    asked = ("compile", workshop.model("tiny.pt2"), "-t", target, "--allow-unbuilt")
    first = edgeseg(*asked, "--policy", "full", "-o", "first", cwd=tmp_path)
    assert first.code == 0, first.err
    plan = json.loads((tmp_path / "first" / "quantization.json").read_text())
    given = {np.float32(quant["scale"][0]) for quant in plan["tensors"].values()}
    before = scales_of(tmp_path / "first" / TARGETS[target])
    assert {np.float32(one) for one in before} <= given | {np.float32(1 / 256)}
    changed, old, new = edited(plan)
    (tmp_path / "plan.json").write_text(json.dumps(changed))
    second = edgeseg(*asked, "--plan", "plan.json", "-o", "second", cwd=tmp_path)
    assert second.code == 0, second.err
    after = scales_of(tmp_path / "second" / TARGETS[target])
    assert any(np.isclose(one, new, rtol=1e-6) for one in after)
    assert not any(np.isclose(one, old, rtol=1e-6) for one in after)
    convs = [int8_convolutions(tmp_path / name / TARGETS[target]) for name in ("first", "second")]
    assert convs[1] == convs[0] - 1
    carried_out = json.loads((tmp_path / "second" / "quantization.json").read_text())
    assert [entry["domain"] for entry in carried_out["ops"]] == [entry["domain"] for entry in changed["ops"]]


@pytest.mark.parametrize(
    ("made_for", "flags", "said"),
    [
        ("tflite", ("-t", "onnx-int8"), "is a plan for tflite, not for onnx-int8"),
        ("tflite", ("-t", "tensorrt-int8"), "is a plan for tflite, not for tensorrt-int8"),
        ("onnx-int8", ("-t", "tflite-int8"), "is a plan for onnx, not for tflite-int8"),
        ("tensorrt-int8", ("-t", "onnx-int8"), "is a plan for tensorrt, not for onnx-int8"),
        ("onnx-int8", ("-t", "tensorrt-int8"), "is a plan for onnx, not for tensorrt-int8"),
        ("onnx-int8", ("-t", "onnx-fp32"), "--plan is for INT8 targets"),
        ("onnx-int8", ("-t", "onnx-int8", "--policy", "float-ops=Conv"), "so does --policy float-ops=Conv"),
        ("tflite", ("-t", "tflite-int8", "--policy", "full"), "so does --policy full"),
        ("tflite", ("-t", "tflite-int8", "--effort", "max"), "--effort max learns weights"),
        ("tflite", ("-t", "tflite-int8", "--tune-for", "x86-vnni"), "leaves nothing to choose"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_so(
    made_for: str, flags: tuple[str, ...], said: str, workshop: Workshop, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"target": made_for, "tensors": {}, "ops": []}))
    done = edgeseg("compile", workshop.model("tiny.onnx"), *flags, "--plan", "plan.json", "-o", "out", cwd=tmp_path)
    refused(done, 2, said)
    assert not (tmp_path / "out").exists()


def test_a_plan_of_another_network_is_refused(artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path) -> None:
    plan = json.loads((artifact("tflite-int8") / "quantization.json").read_text())
    plan["ops"][0]["op"] = "nowhere"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = edgeseg("compile", workshop.model("tiny.pt2"), "-t", "tflite-int8", "--plan", "plan.json", "-o", "o", cwd=tmp_path)
    assert done.code != 0
    assert "nowhere" in done.err
    assert "Traceback" not in done.err
