"""Confusion-matrix update against torchmetrics on 1024 x 1024 masks: interleaved, medians, ratio.

edgeseg refuses indices that have no row or column, as torchmetrics does unless it is told not to; both of its ways are timed.
Processor time of one thread, not wall time: what other processes take away is no property of either.

python benchmarks/confusion.py [--size 1024] [--classes 19] [--rounds 30] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.segmentation import MeanIoU

from edgeseg.bench.machine import machine_facts
from edgeseg.metrics import confusion

_ONE_HOT = 12  # MeanIoU makes one plane a class: seconds an update beyond this


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 11, 19, 150])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        _report(arguments.size, classes, arguments.rounds, kind)
        for classes in arguments.classes
        for kind in ("regions", "noise")
    ]
    if arguments.output is not None:
        document = {"machine": msgspec.to_builtins(machine_facts()), "size": arguments.size, "threads": 1, "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


def _masks(size: int, classes: int, kind: str) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """``regions``: blocks of 32 x 32, the prediction off by three pixels and wrong in a tenth of the blocks. ``noise``: every
    pixel drawn on its own, the worst case."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return (
            rng.integers(-1, classes, (size, size)).astype(np.int16),
            rng.integers(0, classes, (size, size)).astype(np.int16),
        )
    blocks = rng.integers(-1, classes, (size // 32, size // 32))
    wrong = np.where(rng.random(blocks.shape) < 0.1, rng.integers(0, classes, blocks.shape), np.maximum(blocks, 0))
    tile = np.ones((32, 32), np.int64)
    return np.kron(blocks, tile).astype(np.int16), np.roll(np.kron(wrong, tile), 3, (0, 1)).astype(np.int16)


def _report(size: int, classes: int, rounds: int, kind: str) -> dict[str, object]:
    truth, prediction = _masks(size, classes, kind)
    matrix = confusion.empty(classes)
    oracle = MulticlassConfusionMatrix(classes, ignore_index=-1)
    unchecked = MulticlassConfusionMatrix(classes, ignore_index=-1, validate_args=False)
    mean_iou = MeanIoU(classes, input_format="index")
    truth_t, prediction_t = torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(prediction.astype(np.int64))
    truth_positive = truth_t.clamp_min(0)
    contestants: dict[str, Callable[[], object]] = {
        "edgeseg": lambda: confusion.update(matrix, truth, prediction),
        "torchmetrics MulticlassConfusionMatrix": lambda: oracle.update(prediction_t, truth_t),
        "the same with validate_args=False": lambda: unchecked.update(prediction_t, truth_t),
    }
    if classes <= _ONE_HOT:
        contestants["torchmetrics MeanIoU"] = lambda: mean_iou.update(prediction_t[None], truth_positive[None])
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time_ns()
            run()
            samples[name].append((time.process_time_ns() - start) / 1e6)
    if not np.array_equal(oracle.compute().numpy(), matrix):
        raise SystemExit("The two matrices differ.")
    own = statistics.median(samples["edgeseg"])
    ratios = {name: statistics.median(values) / own for name, values in samples.items()}
    print(f"{size}x{size}, {kind}, {classes} classes, one thread, {rounds} interleaved updates: median processor time")
    for name, values in samples.items():
        median = statistics.median(values)
        print(f"  {name:42s} {median:8.2f} ms   {ratios[name]:6.1f}x")
    return {
        "classes": classes,
        "masks": kind,
        "rounds": rounds,
        "edgeseg_cpu_ms": round(own, 3),
        "times_slower": {name: round(ratio, 1) for name, ratio in ratios.items() if name != "edgeseg"},
    }


if __name__ == "__main__":
    main()
