"""What gathering statistics costs over plain inference of the same images, and whether memory grows with their number.

    python benchmarks/statistics_cost.py FILE.tflite [FILE.tflite ...] [--images 24] [--rounds 5] [--out FILE]

Times are CPU times of one thread, medians over rounds in which plain inference, inference that shows every activation, and the
full statistics take turns, each with loading the file; noise serves as images, since the time does not depend on what they
show. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.quantize.observe import Observer
from edgeseg.tflite.flatbuffer import read
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.runtime import Feed, LoadedGraph
from edgeseg.tflite.statistics import activations, collect
from edgeseg.tflite.summaries import summarise


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds an image; ``exposed``: every activation is an output and nobody looks at it. MiB at 8 and at 64 images."""

    model: str
    tensors: int
    values: int
    plain_ms: float
    exposed_ms: float
    statistics_ms: float
    ratio: float
    peak_mb_few: float
    peak_mb_many: float


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    rows: tuple[Row, ...]


def pictures(graph: TfGraph, count: int) -> list[Feed]:
    draw = np.random.default_rng(0)
    return [draw.standard_normal(graph.tensors[graph.inputs[0]].shape).astype(np.float32) for _ in range(count)]


def plain(graph: TfGraph, images: list[Feed]) -> float:
    started = time.process_time()
    with LoadedGraph(graph) as loaded:
        for image in images:
            loaded.feed(image)
            loaded.invoke()
    return time.process_time() - started


def exposed(graph: TfGraph, images: list[Feed]) -> float:
    started = time.process_time()
    collect(graph, images, lambda *_: None)
    return time.process_time() - started


def statistics(graph: TfGraph, images: list[Feed]) -> float:
    observers = {name: Observer(name) for name in activations(graph)}
    started = time.process_time()
    summarise(graph, images, observers)
    return time.process_time() - started


def peak(path: Path, count: int) -> float:
    command = [sys.executable, __file__, str(path), "--images", str(count), "--peak"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(path: Path, count: int, rounds: int) -> Row:
    graph = read(path)
    images = pictures(graph, count)
    samples = [[run(graph, images) for run in (plain, exposed, statistics)] for _ in range(rounds)]
    ratio = float(np.median([one[2] / one[0] for one in samples]))
    times = np.median(np.asarray(samples), axis=0) / count * 1e3
    names = activations(graph)
    return Row(
        model=path.parent.name if path.stem == "model" else path.stem,
        tensors=len(names),
        values=sum(int(np.prod(graph.tensors[name].shape)) for name in names),
        plain_ms=round(float(times[0]), 2),
        exposed_ms=round(float(times[1]), 2),
        statistics_ms=round(float(times[2]), 2),
        ratio=round(ratio, 3),
        peak_mb_few=peak(path, 8),
        peak_mb_many=peak(path, 64),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", action="store_true", help="only the peak memory of the statistics of one file, MiB")
    asked = parser.parse_args()
    if asked.peak:
        graph = read(asked.files[0])
        one = pictures(graph, 1)[0]
        observers = {name: Observer(name) for name in activations(graph)}
        summarise(graph, (one for _ in range(asked.images)), observers)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows = [measure(path, asked.images, asked.rounds) for path in asked.files]
    for row in rows:
        print(
            f"{row.model:32s} {row.tensors:4d} tensors  plain {row.plain_ms:7.1f} ms  exposed {row.exposed_ms:7.1f} ms  "
            f"statistics {row.statistics_ms:7.1f} ms  ratio {row.ratio:.2f}  {row.peak_mb_few:.0f} -> {row.peak_mb_many:.0f} MiB"
        )
    if asked.out:
        command = f"python benchmarks/statistics_cost.py ... --images {asked.images} --rounds {asked.rounds}"
        table = Table(command=command, machine=machine_facts(), rows=tuple(rows))
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
