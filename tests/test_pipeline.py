"""The chain: stages fit, run in order, and each is checked against the one before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from edgeseg.artifact import AgreementRecord
from edgeseg.errors import CheckFailed, StageError
from edgeseg.graph import Format, Graph
from edgeseg.pipeline import Outcome, Pipeline, Stage, peak_mb
from edgeseg.session import ModelInput, Session
from edgeseg.stages.check import EXACT, AgreementCheck, Floor
from edgeseg.targets.onnx import open_onnx

SIZE = 6


@dataclass
class Written:
    """A stage that writes ``gain * x + shift`` (or twice the size of it) as an ONNX file."""

    name: str
    takes: Format | None = Format.ONNX
    gives: Format = Format.ONNX
    gain: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    size: int = SIZE
    given: list[Graph | None] = field(default_factory=list)

    def run(self, graph: Graph | None, work: Path) -> Outcome:
        self.given.append(graph)
        path = work / f"{self.name}.onnx"
        onnx.save_model(affine(self.gain, self.shift, self.size), path)
        return Outcome(Graph.of(path, Format.ONNX), (f"gain {self.gain}",), child_peak_mb=99_999.0 if self.gain == 2 else 0.0)


def affine(gain: float, shift: tuple[float, float], size: int = SIZE) -> onnx.ModelProto:
    constants = [
        oh.make_tensor("gain", onnx.TensorProto.FLOAT, (), [gain]),
        oh.make_tensor("shift", onnx.TensorProto.FLOAT, (1, 2, 1, 1), shift),
    ]
    nodes = [oh.make_node("Mul", ["input", "gain"], ["scaled"]), oh.make_node("Add", ["scaled", "shift"], ["logits"])]
    shape = (1, 2, size, size)
    graph = oh.make_graph(
        nodes,
        "affine",
        [oh.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)],
        constants,
        value_info=[oh.make_tensor_value_info("scaled", onnx.TensorProto.FLOAT, shape)],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


def images(count: int = 3) -> list[ModelInput]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 1, 2, SIZE, SIZE)).astype(np.float32)
    return [ModelInput(pixels=np.zeros((1, SIZE, SIZE, 2), np.uint8), values=value) for value in values]


@pytest.fixture
def check(tmp_path: Path) -> AgreementCheck:
    """Against a model that is the identity."""
    onnx.save_model(affine(1.0, (0.0, 0.0)), tmp_path / "model.onnx")

    def open_session(graph: Graph | None) -> Session:
        return open_onnx(graph.path if graph else tmp_path / "model.onnx")

    return AgreementCheck(
        open_session=open_session,
        images=images(),
        floors={"rough": Floor(snr_db=5.0, argmax=0.8)},
        explain=lambda before, after: f" From {before.path.name} to {after.path.name}.",
    )


def test_graphs_and_figures_go_through(tmp_path: Path, check: AgreementCheck) -> None:
    first, second = Written("first", takes=None), Written("second", gain=1.0 + 1e-6)
    said: list[str] = []
    pipeline = Pipeline([first, second], check, said.append)
    last = pipeline.run(tmp_path)
    assert last.path == tmp_path / "second.onnx"
    assert first.given == [None]
    assert [graph.path.name for graph in second.given if graph] == ["first.onnx"]
    assert said == ["first", "second"]
    one, two = pipeline.records
    assert (one.name, one.notes) == ("first", ("gain 1.0",))
    assert one.agreement == AgreementRecord(against="PyTorch", images=3, snr_db=999.0, max_abs=0.0, argmax=1.0)
    assert two.agreement is not None
    assert two.agreement.against == "first"
    # A relative error of 1e-6 is 120 dB below the signal, up to float32 rounding of the products.
    assert two.agreement.snr_db == pytest.approx(120, abs=1.5)
    assert two.seconds >= 0
    assert 0 < one.peak_mb <= two.peak_mb


def test_peak_of_a_child_counts(tmp_path: Path, check: AgreementCheck) -> None:
    pipeline = Pipeline([Written("rough", takes=None, gain=2.0)], check)
    check.floors = {"rough": Floor(snr_db=-10, argmax=0.0)}
    pipeline.run(tmp_path)
    assert pipeline.records[0].peak_mb == 99_999.0
    assert peak_mb() < 99_999.0


def test_neighbours_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="stage 'second' takes onnx, but is given tflite"):
        Pipeline([Written("first", takes=None, gives=Format.TFLITE), Written("second")], _never)
    with pytest.raises(ValueError, match="stage 'first' takes onnx, but is given None"):
        Pipeline([Written("first")], _never)


def _never(stage: Stage, before: Graph | None, after: Graph) -> AgreementRecord:
    raise AssertionError((stage, before, after))


def test_disagreement_stops_before_the_next_stage(tmp_path: Path, check: AgreementCheck) -> None:
    broken, after = Written("broken", shift=(0.5, -0.5)), Written("after")
    pipeline = Pipeline([Written("first", takes=None), broken, after], check)
    with pytest.raises(CheckFailed) as raised:
        pipeline.run(tmp_path)
    message = raised.value.message
    assert raised.value.exit_code == 3
    assert "Stage 'broken' does not agree with first on 3 calibration images" in message
    assert f"at least {EXACT.snr_db:.0f} dB" in message
    assert "From first.onnx to broken.onnx." in message
    assert after.given == []
    assert [record.name for record in pipeline.records] == ["first"]


def test_a_rough_stage_has_its_own_floor_and_becomes_the_next_reference(tmp_path: Path, check: AgreementCheck) -> None:
    rough, last = Written("rough", gain=1.01), Written("last", gain=1.01)
    pipeline = Pipeline([Written("first", takes=None), rough, last], check)
    pipeline.run(tmp_path)
    figures = [record.agreement for record in pipeline.records]
    assert figures[1] is not None
    assert figures[1].snr_db == pytest.approx(40, abs=0.5)  # 1 % error
    assert figures[2] is not None
    assert (figures[2].against, figures[2].snr_db) == ("rough", 999.0)


def test_decisions_count_even_where_the_error_is_small(tmp_path: Path, check: AgreementCheck) -> None:
    """Two channels that differ by less than the error: many dB, other decisions."""
    base = np.full((1, 2, SIZE, SIZE), 10.0, np.float32)
    base[:, 0] += 1e-3
    check.images = [ModelInput(pixels=np.zeros((1, SIZE, SIZE, 2), np.uint8), values=base)]
    flipped = Written("flipped", shift=(-1e-3, 1e-3))
    with pytest.raises(CheckFailed, match=r"0\.00% equal decisions"):
        Pipeline([Written("first", takes=None), flipped], check).run(tmp_path)


def test_another_shape_is_the_stage_s_fault(tmp_path: Path, check: AgreementCheck) -> None:
    pipeline = Pipeline([Written("first", takes=None)], check)
    pipeline.run(tmp_path)
    wider = Written("wider", size=2 * SIZE)
    outcome = wider.run(None, tmp_path)
    check.images = [
        ModelInput(
            pixels=np.zeros((1, 2 * SIZE, 2 * SIZE, 2), np.uint8), values=np.zeros((1, 2, 2 * SIZE, 2 * SIZE), np.float32)
        )
        for _ in range(3)
    ]
    with pytest.raises(StageError, match=r"'wider'.*\(1, 2, 12, 12\).*\(1, 2, 6, 6\)"):
        check(wider, None, outcome.graph)
