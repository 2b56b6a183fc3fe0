"""What each operator costs on the machine at hand, in float and in int8: measured, one operator at a time.

Every distinct operator (kind, shapes, options) is built as a file of its own and run on LiteRT as an application would run
it, delegate included, so that an int8 kernel that the delegate lacks shows its true price. Times are kept between runs in a
file per processor and runtime version.

An operator run again and again finds its data in the cache; inside a network it finds some of it there. Both ends are
measured, with the caches full and with the caches emptied, and ``measure_exposure`` finds where between them a given
network lies: where the sum of its operators' times is the time of the whole.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from edgeseg.errors import ModelError
from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant
from edgeseg.spec import IoType
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.cost_table import CostTable, cost_table, fused_pads
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.graph import Array, Quant, TfGraph, TfOp, TfTensor
from edgeseg.tflite.runtime import LoadedGraph
from edgeseg.tflite.support import RELU_LIMITS, delegated, supported

__all__ = ["REPEATS", "cuts_delegate", "measure_exposure", "probe", "time_each"]

log = logging.getLogger("edgeseg.probe")

REPEATS = 9
_SPEND_S = 0.02  # per operator and domain, beyond three repeats
_COLD_REPEATS = 3
_RETIMED = 8  # operators timed again beside the whole network
_ROUNDS = 15
_FLUSH = np.zeros(12 * 2**20, np.float32)  # 48 MiB, more than the caches of one core's share hold
_QUANT = TensorQuant(scale=(0.05,), zero_point=(0,), dtype="int8")
_QUANT_FORM = Quant((0.05,), (0,))
_CLIPPING = TensorQuant(scale=(6 / 255,), zero_point=(-128,), dtype="int8")  # what clips runs as a conversion to such a scale


class _Known(msgspec.Struct):
    """The file of times: by key, microseconds with the caches full and emptied (negative: cannot run).

    ``yardstick``: shortest time ever seen of one fixed convolution, microseconds. Other work on the machine slows it and an
    operator alike; what it takes beside a measurement says by how much to correct that one.
    """

    times: dict[str, tuple[float, float]] = {}
    yardstick: float | None = None


def probe(
    graph: TfGraph,
    *,
    exposure: float = 0.0,
    threads: int = 1,
    store: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> CostTable:
    """Measure, or look up, every operator of a float graph.

    Args:
        graph: float.
        exposure: 0 for times with the caches full, 1 with the caches emptied, and between.
        threads: of the runtime.
        store: folder in which times are kept between runs; none are kept where None.
        progress: called with operators done and in all.
    """
    book = _Book(store, threads, exposure)
    table = cost_table(graph, lambda chain, domain: book.time(chain, graph, domain), book.conversion, progress)
    book.save()
    return table


def measure_exposure(graph: TfGraph, *, threads: int = 1, store: Path | None = None) -> float:
    """Where between full and emptied caches the operators of a float graph run, 0..1.

    The kept times may be of another hour, with the machine slower or faster as a whole: the dearest operators are timed
    again beside the network, and what they differ by is taken out of its time.
    """
    full, emptied = (
        {name: one.float_us for name, one in probe(graph, exposure=share, threads=threads, store=store).ops.items()}
        for share in (0.0, 1.0)
    )
    low, high = sum(full.values()), sum(emptied.values())
    if not math.isfinite(high) or high <= low:
        return 0.0
    pads = fused_pads(graph)
    dearest = sorted(graph.ops, key=lambda one: full[one.id], reverse=True)[:_RETIMED]
    alone = [_alone([pads[op.id], op] if op.id in pads else [op], graph) for op in dearest]
    whole, *again = _fastest([graph, *alone], threads)
    # Running an operator by itself costs a little beyond it, which the kept times are without: alike in all of them.
    idle = _fastest([_identity(TfTensor("x", (1, 1, 1, 1), "float32"))], threads)[0]
    speed = sum(full[op.id] for op in dearest) / max(sum(again) - idle * len(again), 0.1)
    return min(max((whole * speed - low) / (high - low), 0.0), 1.0)


def _fastest(graphs: Sequence[TfGraph], threads: int) -> list[float]:
    """Shortest time of each graph, microseconds, in turn; each is run untimed before, so that it finds its own data cached."""

    def timed(one: LoadedGraph) -> float:
        one.invoke()
        return _time(one)

    with ExitStack() as stack:
        loaded = [stack.enter_context(LoadedGraph(graph, threads=threads)) for graph in graphs]
        for one, graph in zip(loaded, graphs, strict=True):
            one.feed(_values(graph))
            one.invoke()
        return [min(times) for times in zip(*([timed(one) for one in loaded] for _ in range(_ROUNDS)), strict=True)]


def time_each(graph: TfGraph, *, threads: int = 1) -> dict[str, float | None]:
    """Every operator of a graph as it stands, float or integer, timed alone with the caches full.

    Returns:
        Microseconds by the operator's id, without what an empty file costs. 0 for a PAD that counts with its convolution; None
        for an operator that the runtime does not run alone.
    """
    known: dict[str, float] = {}
    idle = _run(_identity(TfTensor("x", (1, 1, 1, 1), "float32")), threads)[0]
    pads = fused_pads(graph)
    absorbed = {pad.id for pad in pads.values()}
    found: dict[str, float | None] = {}
    for op in graph.ops:
        if op.id in absorbed:
            found[op.id] = 0.0
            continue
        chain = [pads[op.id], op] if op.id in pads else [op]
        key = " + ".join(_key(one, graph, Domain.FLOAT) for one in chain)
        if key not in known:
            known[key] = _run(_alone(chain, graph), threads)[0]
        found[op.id] = max(known[key] - idle, 0.0) if known[key] >= 0 else None
    return found


class _Book:
    def __init__(self, folder: Path | None, threads: int, exposure: float) -> None:
        self._threads = threads
        self._exposure = exposure
        self._path = None if folder is None else folder / f"{_machine()}-t{threads}.json"
        self._known = _Known()
        self._yardstick: LoadedGraph | None = None
        if self._path is not None and self._path.is_file():
            try:
                self._known = msgspec.json.decode(self._path.read_bytes(), type=_Known)
            except msgspec.MsgspecError as error:
                log.warning("The kept operator times in %s cannot be read (%s); measuring again", self._path, error)
        self._idle = self._measure(lambda: _identity(TfTensor("x", (1, 1, 1, 1), "float32")), "idle")

    def time(self, chain: list[TfOp], graph: TfGraph, domain: Domain) -> float:
        if not all(supported(op, graph, domain) for op in chain) or any(cuts_delegate(op, graph, domain) for op in chain):
            return math.inf

        def alone() -> TfGraph:
            one = _alone(chain, graph)
            return _in_int8(one) if domain is Domain.INT8 else one

        return self._net(alone, " + ".join(_key(op, graph, domain) for op in chain))

    def conversion(self, tensor: TfTensor, kind: str) -> float:
        # A conversion depends on the number of elements alone.
        flat = TfTensor("x", (1, 1, 1, int(np.prod(tensor.shape))), "float32")
        return self._net(lambda: _conversion(flat, kind), f"{kind} {flat.shape[-1]}")

    def _net(self, graph: Callable[[], TfGraph], key: str) -> float:
        measured = self._measure(graph, key)
        return math.inf if measured < 0 else max(measured - self._idle, 0.1)

    def _measure(self, graph: Callable[[], TfGraph], key: str) -> float:
        """``graph``: makes what is run, where it is not known already."""
        if key not in self._known.times:
            before = self._pace()
            found = _run(graph(), self._threads)
            slowed = max(min(before, self._pace()) / (self._known.yardstick or before), 1.0)
            self._known.times[key] = (found[0] / slowed, found[1] / slowed)
        full, emptied = self._known.times[key]
        return full + self._exposure * max(0.0, emptied - full)

    def _pace(self) -> float:
        """Time of the yardstick now; the shortest is kept."""
        if self._yardstick is None:
            self._yardstick = LoadedGraph(_convolution(), threads=self._threads)
            self._yardstick.feed(_values(_convolution()))
            self._yardstick.invoke()
        now = min(_time(self._yardstick) for _ in range(3))
        self._known.yardstick = min(self._known.yardstick or now, now)
        return now

    def save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{time.monotonic_ns()}")
        partial.write_bytes(msgspec.json.encode(self._known))
        partial.replace(self._path)


def _machine() -> str:
    """A name for this processor and runtime."""
    model = "cpu"
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        model = "".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    digest = hashlib.sha256(model.encode()).hexdigest()[:12]
    return f"probe-{digest}-litert-{metadata.version('ai-edge-litert')}"


def _key(op: TfOp, graph: TfGraph, domain: Domain) -> str:
    def shown(name: str | None) -> str:
        if name is None:
            return "-"
        tensor = graph.tensors[name]
        small = tensor.data is not None and tensor.dtype.startswith("int")
        return f"{tensor.dtype}{list(tensor.shape)}" + (f"={np.asarray(tensor.data).tolist()}" if small else "")

    options = sorted((key, str(value)) for key, value in op.options.items())
    operands = [shown(name) for name in (*op.inputs, *op.outputs)]
    constants = [graph.is_constant(name) if name else None for name in op.inputs]
    text = f"{op.kind} {op.version} {domain.value} {options} {operands} {constants}"
    form = "converted" if domain is Domain.INT8 and op.kind in RELU_LIMITS else domain.value
    return f"{op.kind} {form} {hashlib.sha256(text.encode()).hexdigest()[:24]}"


def cuts_delegate(op: TfOp, graph: TfGraph, domain: Domain) -> bool:
    """Whether the delegate takes an operator in float and not in ``domain``.

    Its own time would not tell what it costs there: it cuts the delegate in two, and the hand-over around it costs more than
    it saves (a transformer took 1.26 of the float time with int8 GELU and BATCH_MATMUL that were faster by themselves).
    """
    return domain is not Domain.FLOAT and delegated(op, graph, Domain.FLOAT) and not delegated(op, graph, domain)


def _alone(chain: list[TfOp], graph: TfGraph) -> TfGraph:
    """Neighbouring operators as a graph of their own; the activations that they read become inputs."""
    names = [name for op in chain for name in (*op.inputs, *op.outputs) if name is not None]
    made = {name for op in chain for name in op.outputs}
    read = [name for op in chain for name in op.inputs if name is not None]
    inputs = tuple(dict.fromkeys(name for name in read if not graph.is_constant(name) and name not in made))
    return TfGraph({name: graph.tensors[name] for name in names}, list(chain), inputs, chain[-1].outputs)


def _in_int8(graph: TfGraph) -> TfGraph:
    plan = QuantPlan(
        target="probe",
        tensors={name: _QUANT for name, tensor in graph.tensors.items() if tensor.data is None}
        | {op.id: _CLIPPING for op in graph.ops if op.kind in RELU_LIMITS},
        ops=tuple(OpPlan(op=op.id, kind=op.kind, domain=Domain.INT8) for op in graph.ops),
    )
    return quantize(graph, plan, io=IoType.INT8)


def _identity(tensor: TfTensor) -> TfGraph:
    out = TfTensor("y", tensor.shape, "float32")
    return TfGraph({"x": tensor, "y": out}, [TfOp("ABS", ("x",), ("y",), {}, "AbsOptions")], ("x",), ("y",))


def _convolution() -> TfGraph:
    """The yardstick: 32 channels of 64x64, 3x3; about half a millisecond."""
    build = GraphBuilder(TfGraph({}, [], (), ()))
    x = build.input("x", (1, 64, 64, 32))
    operands = (
        x,
        build.constant("w", np.full((32, 3, 3, 32), 0.01, np.float32)),
        build.constant("b", np.zeros(32, np.float32)),
    )
    options = {"padding": 0, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
    build.graph.outputs = (build.op("CONV_2D", operands, (1, 64, 64, 32), name="y", options=options),)
    return build.graph


def _conversion(tensor: TfTensor, kind: str) -> TfGraph:
    quant = _QUANT_FORM
    fed, made = (
        (tensor, TfTensor("y", tensor.shape, "int8", None, quant))
        if kind == "QUANTIZE"
        else (
            TfTensor("x", tensor.shape, "int8", None, quant),
            TfTensor("y", tensor.shape, "float32"),
        )
    )
    op = TfOp(kind, ("x",), ("y",), {}, "QuantizeOptions" if kind == "QUANTIZE" else "DequantizeOptions")
    return TfGraph({"x": fed, "y": made}, [op], ("x",), ("y",))


def _run(graph: TfGraph, threads: int) -> tuple[float, float]:
    """Shortest time of one run with the caches full and emptied, microseconds; (-1, -1) where the runtime refuses the operator."""
    try:
        with LoadedGraph(graph, threads=threads) as loaded:
            loaded.feed(_values(graph))
            loaded.invoke()
            full = [_time(loaded) for _ in range(3)]
            spent = sum(full)
            while len(full) < REPEATS and spent < _SPEND_S * 1e6:
                full.append(_time(loaded))
                spent += full[-1]
            emptied = []
            for _ in range(_COLD_REPEATS):
                _FLUSH[:] += 1.0
                emptied.append(_time(loaded))
    except (ModelError, RuntimeError):
        # A refused operator is an answer: it cannot run in this domain.
        return -1.0, -1.0
    # The fastest run is the one that other processes disturbed least.
    return min(full), min(emptied)


def _values(graph: TfGraph) -> dict[str, Array]:
    """Something to feed a graph. Positive: some kernels (square roots, logarithms) refuse other values."""
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.uniform(0.1, 1.0, tensor.shape).astype(np.float32)
            if tensor.dtype == "float32"
            else rng.integers(1, 100, tensor.shape).astype(tensor.dtype)
        )
        for name in graph.inputs
        for tensor in [graph.tensors[name]]
    }


def _time(loaded: LoadedGraph) -> float:
    before = time.perf_counter_ns()
    loaded.invoke()
    return (time.perf_counter_ns() - before) / 1e3
