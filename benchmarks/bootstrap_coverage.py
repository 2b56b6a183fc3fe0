"""How often the 95 % interval of a change of mIoU holds the true change, by simulation.

The true change of a population is known from 200,000 of its images; data sets of n images are drawn from it again and again,
and the interval of each either holds the true change or does not. Four populations: images that differ in what they show and in
how hard they are, rare classes, a loss that sits in a tenth of the images, and two classes.

python benchmarks/bootstrap_coverage.py [--trials 2000] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.bench.machine import machine_facts
from edgeseg.metrics.bootstrap import METHOD, MIN_IMAGES
from edgeseg.metrics.confusion import compute
from edgeseg.metrics.evidence import MIOU, Evidence

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "metrics"))
from populations import counts_of, draw

Pair = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Draw = Callable[[np.random.Generator, int], Pair]


def _concentrated(rng: np.random.Generator, images: int) -> Pair:
    """Nine images in ten are as they were; the tenth loses twelve points."""
    reference, mild = draw(rng, images, drop=0.0)
    hit = rng.random(images) < 0.1
    if hit.any():
        before, after = draw(rng, int(hit.sum()), drop=0.12)
        reference[hit], mild[hit] = before, after
    return reference, mild


POPULATIONS: dict[str, Draw] = {
    "five classes, 2 points": draw,
    "nineteen classes, rare ones": lambda rng, images: draw(rng, images, classes=19, drop=0.01),
    "a loss in a tenth of the images": _concentrated,
    "two classes, 1 point": lambda rng, images: draw(rng, images, classes=2, drop=0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--images", type=int, nargs="*", default=[20, 50, 100, 200])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, population in POPULATIONS.items():
        truth = _truth(population)
        for images in arguments.images:
            covered = _coverage(population, truth, images, arguments.trials, arguments.resamples)
            error = math.sqrt(covered * (1 - covered) / arguments.trials)
            rows.append({"population": name, "images": images, "covered": round(covered, 4), "standard_error": round(error, 4)})
            print(f"{name:34s} n = {images:4d}: {covered:.1%} +- {error:.1%}", flush=True)
    if arguments.output is not None:
        document = {
            "machine": msgspec.to_builtins(machine_facts()),
            "method": METHOD,
            "least_images": MIN_IMAGES,
            "confidence": 0.95,
            "trials": arguments.trials,
            "resamples": arguments.resamples,
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


def _truth(population: Draw) -> float:
    rng = np.random.default_rng(99)
    reference, candidate = 0, 0
    for _ in range(100):
        before, after = population(rng, 2000)
        reference, candidate = reference + before.sum(axis=0), candidate + after.sum(axis=0)
    return compute(np.asarray(candidate)).miou - compute(np.asarray(reference)).miou


def _coverage(population: Draw, truth: float, images: int, trials: int, resamples: int) -> float:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(trials):
        reference, candidate = population(rng, images)
        found = Evidence(counts_of(reference), counts_of(candidate), resamples=resamples, seed=seed)
        interval = found.segmentation.interval(MIOU)
        covered += interval is not None and interval.low <= truth <= interval.high
    return covered / trials


if __name__ == "__main__":
    main()
