"""Time of one layer with int16 activations beside the same layer in int8 and in float, on LiteRT, one thread.

    python benchmarks/int16_cost.py [--rounds 15] [--out FILE]

Interleaved medians. XNNPACK takes no int16 operator, so LiteRT's own kernels run it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan
from edgeseg.quantize.ranges import Range, affine
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import latency

SHAPES = {
    "convolution 3x3, 32 to 32": ("CONV_2D", (64, 64, 32), (32, 3, 3, 32)),
    "convolution 1x1, 128 to 128": ("CONV_2D", (32, 32, 128), (128, 1, 1, 128)),
    "depthwise 3x3, 64": ("DEPTHWISE_CONV_2D", (64, 64, 64), (1, 3, 3, 64)),
    "addition, 64": ("ADD", (64, 64, 64), None),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    layer: str
    float_ms: float
    int8_ms: float
    int16_ms: float


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str = "python benchmarks/int16_cost.py"
    machine: MachineFacts
    rows: tuple[Row, ...]


def layer(kind: str, shape: tuple[int, int, int], weights: tuple[int, int, int, int] | None) -> TfGraph:
    made = GraphBuilder(TfGraph({}, [], (), ()))
    x = made.input("x", (1, *shape))
    draw = np.random.default_rng(0)
    if weights is None:
        out = made.op(kind, (x, x), (1, *shape), name="y", options={"fusedActivationFunction": 0})
    else:
        channels = weights[3] if kind == "DEPTHWISE_CONV_2D" else weights[0]
        options = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
        options |= {"depthMultiplier": 1} if kind == "DEPTHWISE_CONV_2D" else {}
        w = made.constant("w", draw.standard_normal(weights).astype(np.float32))
        b = made.constant("b", np.zeros(channels, np.float32))
        out = made.op(kind, (x, w, b), (1, *shape[:2], channels), name="y", options=options)
    made.graph.outputs = (out,)
    return made.graph


def measure(name: str, rounds: int) -> Row:
    kind, shape, weights = SHAPES[name]
    graph = layer(kind, shape, weights)
    image = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    tensors = {"x": affine(Range(-4.0, 4.0)), "y": affine(Range(-64.0, 64.0))}
    graphs = [
        quantize(graph, QuantPlan(target="tflite", tensors=tensors, ops=(OpPlan(op="y", kind=kind, domain=domain),)))
        for domain in (Domain.FLOAT, Domain.INT8, Domain.INT16)
    ]
    times = latency([(one, image) for one in graphs], rounds=rounds)
    return Row(layer=name, float_ms=times[0], int8_ms=times[1], int16_ms=times[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = tuple(measure(name, asked.rounds) for name in SHAPES)
    for row in rows:
        print(
            f"{row.layer:28s} float {row.float_ms:7.3f} ms  int8 {row.int8_ms:7.3f}  int16 {row.int16_ms:8.3f}  "
            f"{row.int16_ms / row.float_ms:6.1f} times float"
        )
    if asked.out:
        asked.out.write_bytes(
            msgspec.json.format(msgspec.json.encode(Table(machine=machine_facts(), rows=rows)), indent=1) + b"\n"
        )


if __name__ == "__main__":
    main()
