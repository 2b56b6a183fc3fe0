"""Fits the stored operator costs of this machine's processor, and shows how they do on nets that they were not fitted on.

    EDGESEG_DATA=... python benchmarks/stored_costs.py --write edgeseg/tflite/costs/x86-vnni.json --out FILE.json

Every operator of the trained models and of the zoo, as lowered and after all rewrites, is probed in float and in int8. A class
of operators gets ``base + mac * multiply-adds + byte * bytes`` by least squares of relative errors. For each net
the table is then fitted on the other nets alone, and its costs are compared with those probed on that net: rank
correlation over operators, error of the sum, and the measured processor time of the mixture that is fastest by it over that of
the mixture that is fastest by probing (interleaved).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from edgeseg.bench.machine import machine_facts
from edgeseg.cache import default_cache_root
from edgeseg.model import load_model
from edgeseg.quantize.assignment import assign
from edgeseg.quantize.plan import Domain, TensorQuant
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec, OutputKind, OutputSpec, PreprocessSpec
from edgeseg.spec_file import load_spec
from edgeseg.stages.export_onnx import export_onnx
from edgeseg.stages.lower_tflite import lower_tflite
from edgeseg.stages.simplify_onnx import simplify
from edgeseg.tflite.cost_table import CostTable, fused_pads
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import read
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import latency
from edgeseg.tflite.passes import PASSES, apply
from edgeseg.tflite.planning import Policy, initial_plan
from edgeseg.tflite.preparation import choices_of, links_of
from edgeseg.tflite.probe import probe
from edgeseg.tflite.statistics import activations
from edgeseg.tflite.stored_costs import ClassCost, StoredCosts, cost_class, features

HERE = Path(__file__).parent
_FEW = 4  # a class needs this many operators for a line of its own
_FLOOR_US = 3.0  # shorter times are mostly error
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One probed operator. ``us`` by domain; infinite where it cannot run."""

    net: str
    kind: str
    domain: Domain
    macs: float
    bytes: float
    us: float


class NetResult(msgspec.Struct, frozen=True, kw_only=True):
    """``rank_float``, ``rank_int8``: Spearman's correlation of stored and probed costs over operators; ``rank_saving``: of what
    int8 saves. ``sum_float``, ``sum_int8``: stored over probed sums. ``time_ratio``: measured time of the mixture that the
    stored costs call fastest over that of the mixture that the probe calls fastest."""

    net: str
    operators: int
    rank_float: float
    rank_int8: float
    rank_saving: float
    sum_float: float
    sum_int8: float
    time_ratio: float


class Results(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: object
    exposure: float
    samples: int
    nets: tuple[NetResult, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "trained.toml")
    parser.add_argument("--only", default="", help="nets whose name holds this")
    parser.add_argument("--graphs", type=Path, help="folder of lowered nets, made where they are missing")
    parser.add_argument("--exposure", type=float, default=1.0, help="0: caches full, 1: caches emptied")
    parser.add_argument("--write", type=Path, help="the table")
    parser.add_argument("--out", type=Path, help="the comparison")
    asked = parser.parse_args()
    folder = asked.graphs or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    store = default_cache_root() / "probe"
    graphs: dict[str, TfGraph] = {}
    samples: list[Sample] = []
    tables: dict[str, tuple[TfGraph, CostTable]] = {}
    for name, graph in lowered(folder, asked.suite):
        if asked.only not in name:
            continue
        graphs[name] = graph
        rewritten = apply(graph, tuple(PASSES))[0]
        for form in (graph, rewritten):
            table = probe(form, exposure=asked.exposure, store=store)
            samples += sampled(name, form, table)
            tables[name] = (form, table)
        print(f"{name}: {len(graph.ops)} operators", flush=True)
    if asked.write:
        table = fitted(samples, asked.exposure, sorted(graphs))
        asked.write.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    rows = [compared(name, samples, *tables[name]) for name in graphs]
    for row in rows:
        print(msgspec.json.encode(row).decode())
    if asked.out:
        found = Results(
            command="python benchmarks/stored_costs.py",
            machine=machine_facts(),
            exposure=asked.exposure,
            samples=len(samples),
            nets=tuple(rows),
        )
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


def lowered(folder: Path, suite: Path) -> Iterator[tuple[str, TfGraph]]:
    """The trained models of the suite that are there, and the zoo."""
    data = Path(os.environ.get("EDGESEG_DATA", HERE.parent.parent / "shared"))
    for entry in msgspec.toml.decode(suite.read_bytes())["model"]:
        stem = Path(entry["file"]).stem
        if (data / entry["file"]).is_file():
            yield stem, made(folder, stem, data / entry["file"], load_spec(HERE / "specs" / entry["spec"]))
    found = importlib.util.spec_from_file_location("edgeseg_zoo", HERE / "zoo" / "calibrated.py")
    assert found is not None
    assert found.loader is not None
    zoo = importlib.util.module_from_spec(found)
    import sys

    sys.modules[found.name] = zoo
    found.loader.exec_module(zoo)
    for name in zoo.names():
        if (folder / f"{name}.tflite").is_file():
            yield name, read(folder / f"{name}.tflite")
            continue
        net = zoo.load(name)
        path = folder / f"{name}.pt2"
        if not path.is_file():
            torch.export.save(torch.export.export(net.module, (torch.zeros(net.shape),)), path)
        names = tuple(f"class {index}" for index in range(max(net.classes, 2)))
        output = OutputSpec(kind=OutputKind.LOGITS if net.classes > 1 else OutputKind.SIGMOID, stride=net.stride)
        spec = ModelSpec(
            input=InputSpec(shape=net.shape), preprocess=PreprocessSpec(), output=output, classes=ClassesSpec(names=names)
        )
        yield name, made(folder, name, path, spec)


def made(folder: Path, name: str, model: Path, spec: ModelSpec) -> TfGraph:
    """The float graph as the compile lowers it."""
    out = folder / f"{name}.tflite"
    if not out.is_file():
        exported = export_onnx(load_model(model), spec, folder / f"{name}.export.onnx", opset=18)
        simple = simplify(exported.graph, folder / f"{name}.onnx")
        lower_tflite(simple.graph, out, route="auto", work=folder, time_limit_s=900)
    return read(out)


def sampled(net: str, graph: TfGraph, table: CostTable) -> Iterator[Sample]:
    absorbed = {pad.id for pad in fused_pads(graph).values()}
    for op in graph.ops:
        if op.id in absorbed:
            continue
        for domain, us in ((Domain.FLOAT, table.ops[op.id].float_us), (Domain.INT8, table.ops[op.id].int8_us)):
            yield Sample(net, cost_class(op, graph), domain, *features(op, graph, domain), us)
    for name, us in table.quantize_us.items():
        size = float(np.prod(graph.tensors[name].shape))
        yield Sample(net, "QUANTIZE", Domain.INT8, 0.0, 5 * size, us)
        yield Sample(net, "DEQUANTIZE", Domain.FLOAT, 0.0, 5 * size, table.dequantize_us[name])


def fitted(samples: list[Sample], exposure: float, nets: list[str]) -> StoredCosts:
    usable = [one for one in samples if math.isfinite(one.us)]
    groups: dict[str, dict[str, list[Sample]]] = {}
    for one in usable:
        for kind in (one.kind, "any"):
            groups.setdefault(kind, {}).setdefault(one.domain.value, []).append(one)
    classes = {
        kind: {domain: line(found) for domain, found in sorted(by.items()) if len(found) >= _FEW or kind == "any"}
        for kind, by in sorted(groups.items())
        if kind not in {"QUANTIZE", "DEQUANTIZE"}
    }
    return StoredCosts(
        name="x86-vnni",
        source=(
            f"Probed by edgeseg (benchmarks/stored_costs.py) with ai-edge-litert 2.3.0 and its XNNPACK, one thread, on "
            f"{machine_facts().cpu}, AVX-512 with VNNI; shortest of 3 to 9 repeats with the caches "
            f"{'emptied' if exposure else 'full'}; other processes shared the machine.",
            f"{len(usable)} operators of {len(nets)} nets: {', '.join(nets)}.",
        ),
        measured=True,
        classes={kind: by for kind, by in classes.items() if by},
        quantize=line(groups["QUANTIZE"]["int8"]),
        dequantize=line(groups["DEQUANTIZE"]["float32"]),
    )


def line(samples: list[Sample]) -> ClassCost:
    """Non-negative coefficients with the least relative errors: of the logarithms, large operators counting more, outliers less."""
    times = np.asarray([max(one.us, _FLOOR_US) for one in samples])
    rows = np.asarray([(1.0, one.macs / 1e3, one.bytes / 1e3) for one in samples])
    weights = times**0.25

    def off(logs: Float64) -> Float64:
        residual: Float64 = weights * np.log((rows @ np.exp(logs)) / times)
        return residual

    # Logarithms of the coefficients keep them positive; the start shares the time out evenly.
    means = rows.mean(axis=0)
    start = np.log(np.where(means > 0, times.mean() / 3 / np.maximum(means, 1e-9), 1e-12))
    found = least_squares(off, start, loss="soft_l1", f_scale=0.5)
    solution = np.exp(found.x) * (means > 0)
    # What contributes less than a thousandth anywhere is nothing.
    solution[(rows * solution / (rows @ solution)[:, None]).max(axis=0) < 1e-3] = 0.0
    return ClassCost(*(float(f"{value:.4g}") for value in solution))


def compared(name: str, samples: list[Sample], graph: TfGraph, probed: CostTable) -> NetResult:
    others = sorted({one.net for one in samples} - {name})
    stored = fitted([one for one in samples if one.net != name], 1.0, others)(graph)
    both = [op for op in probed.ops if math.isfinite(probed.ops[op].int8_us) and math.isfinite(probed.ops[op].float_us)]
    columns = [np.asarray([[table.ops[op].float_us, table.ops[op].int8_us] for op in both]) for table in (probed, stored)]
    graphs = [mixture(graph, table) for table in (probed, stored)]
    image = np.random.default_rng(0).standard_normal(graph.tensors[graph.inputs[0]].shape).astype(np.float32)
    # Processor time of the one thread that computes: what others do on the machine does not count.
    times = latency([(one, image) for one in graphs], rounds=25, clock=time.thread_time_ns)
    return NetResult(
        net=name,
        operators=len(both),
        rank_float=rank(columns[0][:, 0], columns[1][:, 0]),
        rank_int8=rank(columns[0][:, 1], columns[1][:, 1]),
        rank_saving=rank(columns[0][:, 0] - columns[0][:, 1], columns[1][:, 0] - columns[1][:, 1]),
        sum_float=round(float(columns[1][:, 0].sum() / columns[0][:, 0].sum()), 3),
        sum_int8=round(float(columns[1][:, 1].sum() / columns[0][:, 1].sum()), 3),
        time_ratio=round(times[1] / times[0], 3),
    )


def rank(left: np.ndarray, right: np.ndarray) -> float:
    return round(float(spearmanr(left, right).statistic), 3)


def mixture(graph: TfGraph, costs: CostTable) -> TfGraph:
    """The mixture that is fastest by these costs, harm not looked at; every range -6..6."""
    int8 = assign(choices_of(costs), links_of(graph, costs, Domain.FLOAT))
    ranges = {name: TensorQuant(scale=(12 / 255,), zero_point=(0,)) for name in activations(graph)}
    floats = {op.id for op in graph.ops} - int8
    return quantize(graph, initial_plan(graph, ranges, policy=Policy.FULL, float_ops=floats))


if __name__ == "__main__":
    main()
