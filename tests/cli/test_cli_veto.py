"""INT8 that is slower than float says so, with the cause, through the real command; on nets where it must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from shell import edgeseg
from workshop import Workshop

from edgeseg.bench.profile import OperatorTime, Placement, Profile
from edgeseg.race import causes_of


class Gelus(torch.nn.Module):
    """Hardly any multiply-adds, and an activation whose int8 kernel the delegate does not have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(5))
        self.head = torch.nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.nn.functional.gelu(conv(x))
        return self.head(x)


def test_a_slow_int8_file_names_its_cause_and_what_serves_better(workshop: Workshop, tmp_path: Path) -> None:
    net = torch.export.export(Gelus().eval(), (torch.zeros(1, 3, 32, 32),))
    torch.export.save(net, tmp_path / "gelus.pt2")
    done = edgeseg(
        *("compile", tmp_path / "gelus.pt2", "--spec", workshop.folder / "edgeseg.toml", "-t", "tflite-int8"),
        *("--policy", "full", "-o", "out"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "VETO: int8 is not faster than tflite-fp32" in said
    assert "tflite-fp16 serves better" in said
    speed = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"][-1]["speed"]
    assert speed["vetoed"]
    assert max(speed["ratios"]) >= 1.0
    assert any("partition count" in cause and "GELU" in cause for cause in speed["causes"])
    assert "GELU" in edgeseg("explain", "out", cwd=tmp_path).out


def test_what_was_asked_for_is_rated_too(workshop: Workshop, tmp_path: Path) -> None:
    """Nobody searched it, so nobody promised that it holds: it is carried out, and what it loses is said. Here each pixel's
    brightness is added to all its logits: no decision changes, and the logits are lost in int8 steps of the sum."""
    model = onnx.load_model(workshop.model("tiny.onnx"))
    weights = onnx.numpy_helper.from_array(np.full((3, 3, 1, 1), 800, np.float32), "bright")
    model.graph.initializer.append(weights)
    model.graph.node.append(onnx.helper.make_node("Conv", [model.graph.input[0].name, "bright"], ["brightness"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["logits", "brightness"], ["sum"]))
    model.graph.output[0].name = "sum"
    onnx.save_model(model, tmp_path / "bright.onnx")
    asked = ("compile", tmp_path / "bright.onnx", "--spec", workshop.folder / "edgeseg.toml", "-t", "tflite-int8")

    def compiled(*options: str) -> tuple[str, list[str]]:
        done = edgeseg(*asked, *options, cwd=tmp_path)
        stages = json.loads((tmp_path / options[-1] / "manifest.json").read_text())["stages"]
        return " ".join(done.err.split()), [note for stage in stages for note in stage["notes"]]

    said, notes = compiled("--policy", "full", "-o", "whole")

    assert "VETO: what was asked for is not within the budget; tflite-fp16 keeps the accuracy" in said
    (expected,) = [note for note in notes if note.startswith("expected loss")]
    assert float(expected.split()[2]) > 0.3
    said, notes = compiled("--plan", "whole/quantization.json", "--budget", "90pt", "-o", "again")
    assert "within the budget" not in said
    assert expected.replace("0.3 allowed", "90 allowed") in notes, "the same plan loses the same"
    said, notes = compiled("-o", "searched")
    (expected,) = [note for note in notes if note.startswith("expected loss")]
    assert float(expected.split()[2]) <= 0.3
    assert "within the budget" not in said


def test_a_fast_file_has_its_ratios_and_no_causes(workshop: Workshop, tmp_path: Path) -> None:
    done = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "onnx-int8", "-o", "out", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    speed = json.loads(done.out)["manifest"]["stages"][-1]["speed"]
    assert speed["against"] == "onnx-fp32"
    assert all(ratio > 0 for ratio in speed["ratios"])
    assert bool(speed["causes"]) is speed["vetoed"] is (max(speed["ratios"]) >= 1.0)


def profile(**times: float) -> Profile:
    """Microseconds by kind, the second of a kind written with a number behind it."""
    operators = tuple(
        OperatorTime(name=name, kind=name.rstrip("0123456789_") if name[-1].isdigit() else name, place="", microseconds=us)
        for name, us in times.items()
    )
    return Profile(method="", runs=1, whole_us=sum(times.values()), operators=operators)


def test_the_dearest_cause_comes_first() -> None:
    before = profile(Conv=100.0, Relu=20.0)
    islands = causes_of(before, profile(QLinearConv=40.0, QuantizeLinear=50.0, DequantizeLinear=50.0, Relu=20.0))
    assert islands[0].startswith("float islands: 2 conversions")
    assert causes_of(before, profile(QLinearConv=110.0, Relu=20.0))[0].startswith("kernels")
    assert causes_of(before, profile(QLinearConv=10.0, Relu=120.0))[0].startswith("memory-bound")
    parts = [Placement(operators=2, places={}, partitions=n, outside=out) for n, out in ((1, {}), (3, {"GELU": 2}))]
    assert "3 parts" in causes_of(before, profile(CONV=40.0, GELU=400.0), parts)[0]
