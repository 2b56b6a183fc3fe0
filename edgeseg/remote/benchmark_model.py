"""LiteRT's own command ``benchmark_model``: the line that starts it, and what it prints.

What it prints is documented by examples only; read here are the forms of releases from 2019 to 2025.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeseg.bench.profile import OperatorTime
from edgeseg.errors import ModelError

__all__ = ["ToolRun", "command_line", "parse_operators", "parse_run"]

_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
_STATISTICS = re.compile(r"\bcount=(\d+) (.*\bcurr=.*)")
_FIELD = re.compile(rf"\b(first|curr|min|max|avg|std|median)={_NUMBER}")
_TIMINGS = re.compile(rf"Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}")
_OLD_TIMINGS = re.compile(rf"Average inference timings in us: Warmup: {_NUMBER}, Init: {_NUMBER}, no stats: {_NUMBER}")
_MEMORY = re.compile(r"emory footprint[^:]*\(MB\): init=(-?[\d.]+) overall=(-?[\d.]+)")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate[^,]*, yielding (\d+) partitions")
_ORDER = "Run Order"
_NOISE = re.compile(r"^(?:[IWE] tflite\s*: |INFO: |WARNING: |ERROR: )")


@dataclass(frozen=True)
class ToolRun:
    """One run of the tool: microseconds over ``runs`` inferences.

    Attributes:
        average: of the inferences that count.
        first: the first of the warm-up.
        init: loading the file.
        memory_mb: resident memory that loading and all of the run added, as the tool guesses it; None where it does not tell.
        delegated, operators, partitions: what the delegate took; None where the tool does not tell.
    """

    runs: int
    average: float
    first: float
    init: float
    memory_mb: tuple[float, float] | None = None
    delegated: int | None = None
    operators: int | None = None
    partitions: int | None = None


def command_line(tool: str, graph: str, *, threads: int, runs: int, profile: bool = False) -> list[str]:
    """One warm-up and ``runs`` inferences on XNNPACK, however long they take.

    >>> command_line("./benchmark_model", "a.tflite", threads=2, runs=10)[1:4]
    ['--graph=a.tflite', '--num_threads=2', '--num_runs=10']
    """
    options = {
        "graph": graph,
        "num_threads": str(threads),
        "num_runs": str(runs),
        "min_secs": "0",
        "warmup_runs": "1",
        "warmup_min_secs": "0",
        "use_xnnpack": "true",
    }
    if profile:
        options["enable_op_profiling"] = "true"
    return [tool, *(f"--{name}={value}" for name, value in options.items())]


def parse_run(text: str) -> ToolRun:
    """What one run printed, on whichever stream.

    Raises:
        ModelError: it holds no times; the tool's own last words are in the message.
    """
    statistics: list[tuple[int, dict[str, str]]] = [
        (int(found[1]), dict(_FIELD.findall(found[2]))) for found in _STATISTICS.finditer(text)
    ]
    timings, old = _TIMINGS.search(text), _OLD_TIMINGS.search(text)
    if timings is not None:
        init, first, _, average = map(float, timings.groups())
    elif old is not None and statistics:
        _, init, average = map(float, old.groups())
        first = float(statistics[0][1].get("first") or statistics[0][1]["curr"])
    else:
        words = [_NOISE.sub("", line).strip() for line in text.splitlines() if line.strip()]
        raise ModelError(
            f"benchmark_model gave no times. Its last words: {(words or ['none'])[-1]}",
            hint="Run it by hand with adb shell; the file may need a newer benchmark_model.",
        )
    memory, replaced = _MEMORY.search(text), _REPLACED.search(text)
    return ToolRun(
        runs=statistics[-1][0] if statistics else 1,
        average=average,
        first=first,
        init=init,
        memory_mb=(float(memory[1]), float(memory[2])) if memory else None,
        delegated=int(replaced[1]) if replaced else None,
        operators=int(replaced[2]) if replaced else None,
        partitions=int(replaced[3]) if replaced else None,
    )


def parse_operators(text: str) -> tuple[OperatorTime, ...]:
    """The last table "Run Order" of a run with operator profiling: that of the inferences. Empty where there is none.

    Columns are found by their titles: releases differ in which they print.
    """
    _, found, table = text.rpartition(_ORDER)
    if not found:
        return ()
    lines = [_NOISE.sub("", line) for line in table.splitlines()[1:]]
    titles: list[str] = []
    operators = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("\t ").split("\t")]
        if not titles:
            titles = [cell.strip("[]") for cell in cells] if "[node type]" in line else []
            continue
        if len(cells) != len(titles):
            break
        row = dict(zip(titles, cells, strict=True))
        kind = row["node type"]
        delegated = "delegate" in kind.lower() or row["Name"].startswith("Delegate/")
        operators.append(
            OperatorTime(
                name=row["Name"],
                kind=kind,
                place="XNNPACK" if delegated else "LiteRT",
                microseconds=1e3 * float(row["avg ms"]),
                calls=float(row.get("times called", "1")),
            )
        )
    return tuple(operators)
