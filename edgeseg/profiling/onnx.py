"""ONNX Runtime's own profiler: every node as it is executed, after fusion, with its execution provider."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import msgspec

from edgeseg.bench.profile import OperatorTime, Placement, Profile
from edgeseg.errors import ModelError
from edgeseg.profiling.whole import whole_us
from edgeseg.session import ModelInput, Session, SessionInfo
from edgeseg.spec import Layout
from edgeseg.targets.onnx import open_onnx

__all__ = ["onnx_placement", "profile_onnx"]

_WARM_UPS = 2
_RUNS = 20
_KERNEL = "_kernel_time"


class _Arguments(msgspec.Struct):
    op_name: str = ""
    provider: str = ""


class _Event(msgspec.Struct):
    """An entry of the trace (Chrome's trace event format): begin and duration in microseconds."""

    cat: str = ""
    name: str = ""
    ts: float = 0.0
    dur: float = 0.0
    args: _Arguments = msgspec.field(default_factory=_Arguments)


def onnx_placement(path: Path, info: SessionInfo, x: ModelInput) -> Placement:
    """Nodes by execution provider, from the trace of one run.

    Raises:
        ModelError: ONNX Runtime refuses the file, or its trace cannot be read.
    """
    (nodes,) = _traced(path, info, x, warm_ups=0, runs=1)
    places = Counter(event.args.provider for event in nodes)
    return Placement(operators=len(nodes), places=dict(places))


def profile_onnx(path: Path, session: Session, x: ModelInput) -> Profile:
    """Median time of every node over 20 runs, in execution order.

    Args:
        session: the one that is measured, fed; run for the time of the whole.

    Raises:
        ModelError: as ``onnx_placement``.
    """
    runs = _traced(path, session.info, x, warm_ups=_WARM_UPS, runs=_RUNS)
    times: dict[str, list[float]] = {}
    for nodes in runs:
        for event in nodes:
            times.setdefault(event.name, []).append(event.dur)
    first = {event.name: event for event in runs[0]}
    return Profile(
        method="ONNX Runtime's profiler, which adds a little to each node",
        runs=_RUNS,
        whole_us=whole_us(session, _RUNS, statistics.median),
        operators=tuple(
            OperatorTime(
                name=name.removesuffix(_KERNEL),
                kind=event.args.op_name,
                place=event.args.provider.removesuffix("ExecutionProvider"),
                microseconds=statistics.median(times[name]),
            )
            for name, event in first.items()
        ),
    )


def _traced(path: Path, info: SessionInfo, x: ModelInput, *, warm_ups: int, runs: int) -> list[list[_Event]]:
    """The node events of each run, in execution order."""
    source = info.inputs[0]
    layout = Layout.NCHW if source.shape[1] in {x.values.shape[1], -1} else Layout.NHWC
    with open_onnx(
        path,
        threads=info.threads,
        # How an integer input is filled makes no difference to the nodes; pixels need no scale.
        pixels=source.dtype in {"uint8", "int8"},
        profile=True,
        input_layout=layout,
        output_name=info.outputs[0].name,
        any_output=True,
    ) as session:
        session.feed(x)
        for _ in range(warm_ups + runs):
            session.invoke()
        trace = session.finish_profile().read_bytes()
    try:
        events = msgspec.json.decode(trace, type=list[_Event])
    except msgspec.MsgspecError as error:
        raise ModelError(
            f"ONNX Runtime's trace of {path} cannot be read: {error}.", hint="Measure without --profile."
        ) from error
    begins = sorted(event.ts for event in events if event.name == "model_run")[warm_ups:]
    nodes = sorted(
        (event for event in events if event.cat == "Node" and event.name.endswith(_KERNEL)), key=lambda event: event.ts
    )
    ends = [*begins[1:], float("inf")]
    return [[node for node in nodes if begin <= node.ts < end] for begin, end in zip(begins, ends, strict=True)]
