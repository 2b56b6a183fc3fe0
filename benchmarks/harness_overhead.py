"""What the harness itself costs: the same session in a bare loop and in ``edgeseg.bench``, by turns.

    python benchmarks/harness_overhead.py [--file model.onnx] [--runs 100] [--repeats 10] [--wall] [--output result.json]

Two figures: the latency that the harness tells against the bare loop's (bias), and the time that it needs a run against the bare
loop's (cost). Both are taken in CPU time of the process, which other programs hardly touch; --wall takes them by the wall clock.
Without ``--file`` a small convolutional network is made on the spot.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.bench import BenchSettings, Candidate, Instruments, measure
from edgeseg.bench.affinity import choose_cpus, pinned
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.session import ModelInput, Session
from edgeseg.targets.onnx import open_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--wall", action="store_true", help="by the wall clock: on a quiet machine only")
    parser.add_argument("--output", type=Path, help="write the figures of every repeat as JSON, with the machine's facts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or small_model(Path(folder) / "model.onnx", arguments.size)
        result = _compare(path, arguments.runs, arguments.repeats, "wall" if arguments.wall else "cpu")
    if arguments.output is not None:
        arguments.output.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios of the harness to the bare loop, one a repeat; ``outside``: share of the harness's time outside the session."""

    schema: int = 1
    machine: MachineFacts
    clock: str
    model_ms: float
    runs: int
    latency_ratios: tuple[float, ...]
    run_ratios: tuple[float, ...]
    outside: tuple[float, ...]


def _compare(path: Path, runs: int, repeats: int, name: str) -> Overhead:
    clock = time.perf_counter_ns if name == "wall" else time.process_time_ns
    instruments = Instruments(clock=clock)
    with open_onnx(path, threads=1) as probe:
        _, channels, height, width = probe.info.inputs[0].shape
    x = ModelInput(np.zeros((1, height, width, channels), np.uint8), np.zeros((1, channels, height, width), np.float32))
    candidate = Candidate(name="model", open=lambda: open_onnx(path, threads=1), x=x)
    settings = BenchSettings(budget_seconds=0.0, min_rounds=runs, max_rounds=runs, warmup_window=5)
    bias, cost, share, bare = [], [], [], []
    for repeat in range(repeats):
        # Which goes first changes by turns, so that a load that grows or falls favours neither.
        if repeat % 2:
            result = measure([candidate], settings, instruments=instruments)
        bare_invoke, bare_run = _bare(path, x, runs, clock)
        if not repeat % 2:
            result = measure([candidate], settings, instruments=instruments)
        bare.append(bare_invoke)
        entry = result.candidates[0]
        assert result.overhead is not None
        bias.append(entry.invoke.median / bare_invoke)
        cost.append(entry.total.mean / (1.0 - result.overhead) / bare_run)
        share.append(result.overhead)
    print(
        f"{name} time, one thread, {runs} runs by turns, {repeats} times; the model takes {statistics.median(bare) / 1e6:.3f} ms"
    )
    print(f"  latency told / bare loop's:   median {statistics.median(bias):.4f}")
    print(f"  time a run / bare loop's:      median {statistics.median(cost):.4f}")
    print(f"  time outside the session:      median {statistics.median(share):.2%}")
    return Overhead(
        machine=machine_facts(),
        clock=name,
        model_ms=statistics.median(bare) / 1e6,
        runs=runs,
        latency_ratios=tuple(bias),
        run_ratios=tuple(cost),
        outside=tuple(share),
    )


def _bare(path: Path, x: ModelInput, runs: int, clock: Callable[[], int]) -> tuple[float, float]:
    """Median ns of invoke and ns a run, in the shortest loop that measures them."""
    with pinned(choose_cpus(1)):
        session: Session = open_onnx(path, threads=1)
        with session:
            for _ in range(10):
                session.feed(x)
                session.invoke()
                session.fetch()
            samples = []
            start = clock()
            for _ in range(runs):
                session.feed(x)
                before = clock()
                session.invoke()
                samples.append(clock() - before)
                session.fetch()
            whole = (clock() - start) / runs
    return statistics.median(samples), whole


def small_model(path: Path, size: int) -> Path:
    """A stack of four 3x3 convolutions, written as ONNX to ``path``; input float32 (1, 3, size, size)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, before, channels = [], [], "x", 3
    for layer, width in enumerate((16, 32, 32, 11)):
        kernel = rng.normal(0, 0.1, (width, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [before, f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]))
        before, channels = f"y{layer}", width
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info(before, TensorProto.FLOAT, (1, channels, size, size))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


if __name__ == "__main__":
    main()
