"""What the harness itself costs: the same session in a bare loop and in ``edgeseg.bench``, by turns.

    python benchmarks/harness_overhead.py [--file model.onnx] [--runs 100] [--repeats 10]

Two figures: the latency that the harness tells against the bare loop's (bias), and the wall time that it needs a run against
the bare loop's (cost). Without ``--file`` a small convolutional network is made on the spot.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from edgeseg.bench import BenchSettings, Candidate, measure
from edgeseg.bench.affinity import choose_cpus, pinned
from edgeseg.session import ModelInput, Session
from edgeseg.targets.onnx import open_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or small_model(Path(folder) / "model.onnx", arguments.size)
        _compare(path, arguments.runs, arguments.repeats)


def _compare(path: Path, runs: int, repeats: int) -> None:
    with open_onnx(path, threads=1) as probe:
        _, channels, height, width = probe.info.inputs[0].shape
    x = ModelInput(np.zeros((1, height, width, channels), np.uint8), np.zeros((1, channels, height, width), np.float32))
    candidate = Candidate(name="model", open=lambda: open_onnx(path, threads=1), x=x)
    settings = BenchSettings(budget_seconds=0.0, min_rounds=runs, max_rounds=runs, warmup_window=5)
    bias, cost, share = [], [], []
    for _ in range(repeats):
        bare_invoke, bare_wall = _bare(path, x, runs)
        result = measure([candidate], settings)
        entry = result.candidates[0]
        assert result.overhead is not None
        bias.append(entry.invoke.median / bare_invoke)
        cost.append(entry.total.mean / (1.0 - result.overhead) / bare_wall)
        share.append(result.overhead)
    print(f"one thread, {runs} runs by turns, {repeats} times; the model takes {bare_invoke / 1e6:.3f} ms")
    print(f"  latency told / bare loop's:   median {statistics.median(bias):.4f}")
    print(f"  wall time a run / bare loop's: median {statistics.median(cost):.4f}")
    print(f"  time outside the session:      median {statistics.median(share):.2%}")


def _bare(path: Path, x: ModelInput, runs: int) -> tuple[float, float]:
    """Median ns of invoke and wall ns a run, in the shortest loop that measures them."""
    with pinned(choose_cpus(1)):
        session: Session = open_onnx(path, threads=1)
        with session:
            for _ in range(10):
                session.feed(x)
                session.invoke()
                session.fetch()
            samples = []
            start = time.perf_counter_ns()
            for _ in range(runs):
                session.feed(x)
                before = time.perf_counter_ns()
                session.invoke()
                samples.append(time.perf_counter_ns() - before)
                session.fetch()
            wall = (time.perf_counter_ns() - start) / runs
    return statistics.median(samples), wall


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
