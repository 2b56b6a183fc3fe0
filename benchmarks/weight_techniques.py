"""What each way of choosing weights changes on trained models, for one plan: noise at the output and loss of mIoU.

    edgeseg compile MODEL --target tflite-fp32 --spec SPEC -o ARTIFACT
    python benchmarks/weight_techniques.py ARTIFACT [ARTIFACT ...] --calibration FOLDER --images FOLDER --masks FOLDER
        [--limit N] [--seconds 240] [--out FILE]

One plan a model: every operator in int8 that XNNPACK takes in int8, ranges by the 99.99th percentile, so that the rows differ in
their weights and nothing else. Images that teach, that judge and that are scored are different ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.artifact import load_artifact
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.data.calibration import CalibrationSet, open_calibration
from edgeseg.data.pairs import EvaluationSet, open_evaluation
from edgeseg.evaluation import evaluate_sessions
from edgeseg.preprocess import raw_threshold
from edgeseg.quantize.learned import LayerWeights
from edgeseg.quantize.observe import Observer
from edgeseg.quantize.plan import QuantPlan
from edgeseg.quantize.ranges import choose
from edgeseg.targets.tflite import open_tflite
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.equalise import channel_peaks, equalise
from edgeseg.tflite.flatbuffer import read, write
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.passes import apply
from edgeseg.tflite.planning import initial_plan
from edgeseg.tflite.refine import BIAS, ROUNDING, RefineSettings, refine
from edgeseg.tflite.statistics import activations, collect
from edgeseg.tflite.weights import Rounding

TEACH, JUDGE, OBSERVE = 8, 12, 24
PASSES = ("affine_depthwise", "transpose_conv", "average_pool")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """``snr_db``: at the output, on the images that judge. ``drop``: points of mIoU on ``images`` evaluation images."""

    model: str
    weights: str
    snr_db: float
    drop: float | None
    images: int
    seconds: float
    notes: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    rows: tuple[Row, ...]


class Bench:
    def __init__(self, path: Path, calibration: CalibrationSet, samples: EvaluationSet, seconds: float) -> None:
        artifact = load_artifact(path)
        self.name, self.spec = artifact.manifest.name, artifact.manifest.spec
        self.samples, self.seconds = samples, seconds
        graph = read(path / artifact.manifest.files[0].name)
        self.graph = apply(graph, PASSES)[0]
        images = [np.ascontiguousarray(one.values.transpose(0, 2, 3, 1)) for one in calibration.take(TEACH + JUDGE + OBSERVE)]
        self.teach, self.observed, judged = images[:TEACH], images[: TEACH + OBSERVE], images[TEACH + OBSERVE :]
        self.judge = Judge(graph, judged, judged, threshold=raw_threshold(self.spec), probability=False)
        self.float_miou = self.miou(graph)

    def plan(self, graph: TfGraph) -> QuantPlan:
        observers = {name: Observer(name) for name in activations(graph)}
        collect(graph, self.observed, lambda name, values: observers[name].update(values))
        return initial_plan(graph, {name: choose(one, estimator="percentile-99.99") for name, one in observers.items()})

    def rows(self) -> list[Row]:
        plan = self.plan(self.graph)
        found = [
            self.row("nearest", quantize(self.graph, plan, rounding=Rounding.NEAREST)),
            self.row("balanced (default)", quantize(self.graph, plan)),
        ]
        for name, techniques in (
            ("+ bias correction", {BIAS}),
            ("+ learned rounding", {ROUNDING}),
            ("+ both", {ROUNDING, BIAS}),
        ):
            started = time.monotonic()
            settings = RefineSettings(deadline=started + self.seconds, techniques=frozenset(techniques))
            refined = refine(self.graph, plan, self.teach, self.judge, settings)
            seconds = time.monotonic() - started
            found.append(self.learned(name, plan, refined.layers, seconds, refined.notes))
        started = time.monotonic()
        graph, count = equalise(self.graph, channel_peaks(self.graph, self.teach))
        note = (f"{count} channels",)
        found.append(self.row("equalised", quantize(graph, self.plan(graph)), time.monotonic() - started, note))
        return found

    def learned(
        self, name: str, plan: QuantPlan, layers: Mapping[str, LayerWeights], seconds: float, notes: tuple[str, ...]
    ) -> Row:
        return self.row(name, quantize(self.graph, plan, learned=layers), seconds, notes)

    def row(self, name: str, graph: TfGraph, seconds: float = 0.0, notes: tuple[str, ...] = ()) -> Row:
        row = Row(
            model=self.name,
            weights=name,
            snr_db=round(self.judge.score(graph).snr_db, 2),
            drop=round(self.float_miou - self.miou(graph), 3),
            images=len(self.samples),
            seconds=round(seconds, 1),
            notes=notes,
        )
        print(f"{row.model:34s} {row.weights:20s} {row.snr_db:6.2f} dB  drop {row.drop:6.3f}  {row.seconds:6.1f} s  {notes}")
        return row

    def miou(self, graph: TfGraph) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            write(graph, path)
            with open_tflite(path) as session:
                return 100 * evaluate_sessions(session, self.samples, name=self.name).subject.scores.miou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--masks", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seconds", type=float, default=240.0, help="for learning one set of weights")
    parser.add_argument("--out", type=Path, help="JSON file to write; other models' rows in it are kept")
    asked = parser.parse_args()
    rows: list[Row] = []
    for path in asked.artifacts:
        spec = load_artifact(path).manifest.spec
        samples = open_evaluation(spec, Path(), images=asked.images, masks=asked.masks)
        samples = samples if asked.limit is None else samples.take(asked.limit)
        calibration = open_calibration(spec, Path(), images=[asked.calibration], count=TEACH + JUDGE + OBSERVE)
        rows += Bench(path, calibration, samples, asked.seconds).rows()
        if asked.out:
            earlier = msgspec.json.decode(asked.out.read_bytes(), type=Table).rows if asked.out.exists() else ()
            fresh = {row.model for row in rows}
            command = "python benchmarks/weight_techniques.py ... --seconds " + format(asked.seconds, "g")
            table = Table(
                command=command, machine=machine_facts(), rows=(*(row for row in earlier if row.model not in fresh), *rows)
            )
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
