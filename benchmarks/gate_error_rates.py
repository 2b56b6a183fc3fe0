"""How often the gate is wrong, measured on CamVid val with the trained ESPNet of EDGESEG_DATA.

    python benchmarks/gate_error_rates.py [--seeds 200] [--latency-repeats 50] [--cache predictions.npz] [--only NAME]

Every trial draws a data set (images of val with replacement) and corrupts the model's own predictions block by block, as
conversion errors are: in patches, not in single pixels.

- ``equal``: both sides are corrupted alike, with different patches. ``miou:-0.5pt`` must not fail (at most 5 %), nor must
  ``miou:0pt``, the strictest rule there is: it fails exactly where the interval misses the truth on one side (2.5 % expected).
- ``several``: as ``equal``, under four rules with limits of 0 at once, one of them about every class. The gate must not fail (at
  most 5 %).
- ``drop``: the candidate has about 2 points less mIoU. ``miou:-0.5pt`` must fail (at least 95 %).
- ``boundary``: contours become ragged and nothing else changes, mIoU stays within 0.5 points. ``boundary:-1pt`` must fail.
- ``latency``: a file against itself, with one core kept busy by another process and without. ``latency:+5%`` must not fail.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from harness_overhead import small_model

from edgeseg.bench import BenchSettings, Candidate, measure
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.data.pairs import open_evaluation
from edgeseg.gate import GateInputs, Outcome, decide, parse_rules
from edgeseg.metrics.confusion import empty, update
from edgeseg.metrics.counts import CountSettings, ImageCounter, ImageCounts
from edgeseg.metrics.evidence import MIOU, Evidence
from edgeseg.model import load_model
from edgeseg.preprocess import decide as winners
from edgeseg.preprocess import restore
from edgeseg.session import ModelInput, infer
from edgeseg.spec import ClassesSpec, ColorOrder, InputSpec, ModelSpec, PreprocessSpec
from edgeseg.targets.onnx import open_onnx
from edgeseg.targets.torch_ref import open_torch


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment under one rule: how often the gate said what."""

    experiment: str
    rule: str
    outcomes: dict[str, int]
    note: str


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    rates: tuple[Rate, ...]


Labels = npt.NDArray[np.int16]
CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
SETTINGS = CountSettings(classes=CLASSES)
SEVERAL = ("miou:0pt", "dice:0pt", "accuracy:0pt", "worst_class:0pt")
BLOCK = 8
BASE_NOISE = 0.02


@dataclass(frozen=True)
class Scene:
    """One image of val: its truth and the model's prediction, int16 (H, W). The model's void channel has index 11."""

    name: str
    truth: Labels
    prediction: Labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--latency-repeats", type=int, default=50)
    parser.add_argument("--cache", type=Path, help="file that keeps the model's predictions between runs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", choices=("equal", "several", "drop", "boundary", "latency"))
    arguments = parser.parse_args()
    rates: list[Rate] = []
    wanted = {arguments.only} if arguments.only else {"equal", "several", "drop", "boundary", "latency"}
    if wanted - {"latency"}:
        scenes = _scenes(arguments.cache)
        if "equal" in wanted:
            rates += _run("equal", ("miou:-0.5pt", "miou:0pt"), arguments.seeds, lambda seed: _equal(scenes, seed))
        if "several" in wanted:
            rates += _run("several", SEVERAL, arguments.seeds, lambda seed: _equal(scenes, seed))
        if "drop" in wanted:
            share = _calibrate(lambda value: _drop(scenes, 0, value), -0.02)
            rates += _run("drop", ("miou:-0.5pt",), arguments.seeds, lambda seed: _drop(scenes, seed, share))
        if "boundary" in wanted:
            rules = ("boundary:-1pt", "miou:-0.5pt")
            rates += _run("boundary", rules, arguments.seeds, lambda seed: _boundary(scenes, seed))
    if "latency" in wanted:
        rates += _latency(arguments.latency_repeats)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        command = (
            f"python benchmarks/gate_error_rates.py --seeds {arguments.seeds} --latency-repeats {arguments.latency_repeats}"
        )
        table = Rates(command=command, machine=machine_facts(), rates=tuple(rates))
        arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def _run(name: str, texts: tuple[str, ...], seeds: int, make: Callable[[int], Evidence]) -> list[Rate]:
    rules = parse_rules(texts)
    outcomes: list[Counter[Outcome]] = [Counter() for _ in rules]
    together: Counter[Outcome] = Counter()
    changes, contours = [], []
    for seed in range(seeds):
        evidence = make(seed)
        result = decide(rules, GateInputs(evidence=evidence), candidate="x", against="reference")
        for counter, finding in zip(outcomes, result.findings, strict=True):
            counter[finding.outcome] += 1
        together[result.outcome] += 1
        changes.append(100.0 * evidence.delta(MIOU).change)
        contours.append(100.0 * evidence.boundary_delta().change)
    note = f"mIoU change {np.mean(changes):+.2f} pt on average, {np.min(changes):+.2f} at worst"
    if not np.isnan(contours).any():
        note += f", boundary IoU {np.mean(contours):+.2f} pt"
    said = [_said(name, text, counter, note) for text, counter in zip(texts, outcomes, strict=True)]
    return [*said, _said(name, "all together", together, note)]


def _said(name: str, rule: str, outcomes: Counter[Outcome], note: str) -> Rate:
    """Print a rate and give it."""
    total = sum(outcomes.values())
    shares = ", ".join(f"{outcome.value} {outcomes[outcome]}/{total}" for outcome in Outcome)
    print(f"{name:9s} {rule:14s} {shares}; {note}", flush=True)
    return Rate(experiment=name, rule=rule, outcomes={outcome.value: outcomes[outcome] for outcome in Outcome}, note=note)


def _equal(scenes: list[Scene], seed: int) -> Evidence:
    return _evidence(scenes, seed, lambda scene, rng: _corrupt(scene.prediction, BASE_NOISE, rng))


def _drop(scenes: list[Scene], seed: int, share: float) -> Evidence:
    return _evidence(scenes, seed, lambda scene, rng: _corrupt(scene.prediction, share, rng))


def _evidence(scenes: list[Scene], seed: int, candidate: Callable[[Scene, np.random.Generator], Labels]) -> Evidence:
    """Reference and candidate on images drawn with replacement; confusion only. Patches of the two are independent."""
    rng = np.random.default_rng(seed)
    classes = len(CLASSES)
    sides: tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]] = ([], [])
    for index in rng.integers(0, len(scenes), len(scenes)):
        scene = scenes[index]
        predictions = (_corrupt(scene.prediction, BASE_NOISE, rng), candidate(scene, rng))
        for side, prediction in zip(sides, predictions, strict=True):
            matrix = empty(classes, 1)
            update(matrix, scene.truth, prediction)
            side.append(matrix)
    zeros = np.zeros((len(scenes), 4, classes), np.int64)
    names = tuple(str(i) for i in range(len(scenes)))
    counts = [ImageCounts(SETTINGS, names, np.stack(side), zeros[:, :2], zeros, zeros[:, :2]) for side in sides]
    return Evidence.pair(*counts, seed=seed)


def _boundary(scenes: list[Scene], seed: int) -> Evidence:
    """The candidate decides seven images of ten at 0.6 of the resolution and enlarges to the nearest neighbour: ragged contours."""
    rng = np.random.default_rng(seed)
    counter = ImageCounter(SETTINGS, (1, 1))
    for place, index in enumerate(rng.integers(0, len(scenes), len(scenes))):
        scene = scenes[index]
        candidate = scene.prediction
        if rng.random() < 0.7:
            candidate = candidate[np.ix_(*(_coarse(size, 0.6, rng.random()) for size in candidate.shape))]
        counter.update(str(place), scene.truth, (scene.prediction, candidate))
    return Evidence.pair(*counter.compute(), seed=seed)


def _coarse(size: int, scale: float, phase: float) -> npt.NDArray[np.intp]:
    """Which position each position takes its label from: the middle of its cell in a grid of ``scale``."""
    cell = np.floor(np.arange(size) * scale + phase)
    return np.clip(np.floor((cell + 0.5 - phase) / scale), 0, size - 1).astype(np.intp)


def _corrupt(prediction: Labels, share: float, rng: np.random.Generator) -> Labels:
    """In a share of the blocks, put what is predicted elsewhere in the image."""
    height, width = prediction.shape
    blocks = rng.random((-(-height // BLOCK), -(-width // BLOCK))) < share
    mask = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    elsewhere = np.roll(prediction, rng.integers(40, 200, 2), (0, 1))
    return np.where(mask, elsewhere, prediction)


def _calibrate(make: Callable[[float], Evidence], change: float) -> float:
    """The share of blocks that gives this change of mIoU, by bisection on one seed."""
    low, high = BASE_NOISE, 0.5
    for _ in range(10):
        middle = (low + high) / 2
        if make(middle).segmentation.estimate[MIOU] > change:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _scenes(cache: Path | None) -> list[Scene]:
    if cache is None or not cache.exists():
        scenes = _predict()
        if cache is not None:
            arrays = {f"{s.name}/truth": s.truth for s in scenes} | {f"{s.name}/prediction": s.prediction for s in scenes}
            np.savez_compressed(cache, allow_pickle=False, **arrays)
        return scenes
    stored = np.load(cache)
    names = sorted({key.split("/")[0] for key in stored})
    return [Scene(name, stored[f"{name}/truth"], stored[f"{name}/prediction"]) for name in names]


def _predict() -> list[Scene]:
    data = Path(os.environ.get("EDGESEG_DATA", "../shared"))
    path = data / "models" / "espnet_camvid.pt2"
    if not path.exists():
        sys.exit("EDGESEG_DATA does not name a folder with models/espnet_camvid.pt2: nothing to measure.")
    spec = ModelSpec(
        input=InputSpec(shape=(1, 3, 360, 480)),
        classes=ClassesSpec(names=CLASSES, ignore_index=11),
        preprocess=PreprocessSpec(
            color=ColorOrder.BGR,
            scale=1.0,
            mean=(110.3313, 108.4091, 105.0335),
            std=(72.1252, 72.6885, 69.9026),
            post_scale=1.0 / 255.0,
        ),
    )
    val = data / "data" / "camvid" / "val"
    samples = open_evaluation(spec, Path.cwd(), images=str(val / "images"), masks=str(val / "masks"))
    scenes = []
    with open_torch(load_model(path), spec, threads=1) as session:
        for loaded in samples.load():
            logits = infer(session, loaded.prepared.input)
            prediction = winners(restore(logits, loaded.prepared.placement, spec), spec)
            scenes.append(Scene(loaded.sample.name, loaded.truth, prediction))
    return scenes


def _latency(repeats: int) -> list[Rate]:
    x = ModelInput(np.zeros((1, 128, 128, 3), np.uint8), np.zeros((1, 3, 128, 128), np.float32))
    rules, rates = parse_rules(("latency:+5%",)), list[Rate]()
    with tempfile.TemporaryDirectory() as folder:
        path = small_model(Path(folder) / "model.onnx", 128)
        candidates = [Candidate(name=name, open=lambda: open_onnx(path, threads=1), x=x) for name in ("base", "same")]
        for loaded in (False, True):
            outcomes: Counter[Outcome] = Counter()
            ratios = []
            for _ in range(repeats):
                with _busy_core(loaded):
                    run = measure(candidates, BenchSettings(budget_seconds=1.0))
                inputs = GateInputs(latency=run.pair(1))
                outcomes[decide(rules, inputs, candidate="same", against="base").outcome] += 1
                ratios.append(run.comparisons[0].invoke.value.estimate)
            note = f"{'another core busy' if loaded else 'as it is'}, ratio {min(ratios):.3f} to {max(ratios):.3f}"
            rates.append(_said("latency", "latency:+5%", outcomes, note))
    return rates


@contextmanager
def _busy_core(wanted: bool) -> Iterator[None]:
    """Another process that computes all the time."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
