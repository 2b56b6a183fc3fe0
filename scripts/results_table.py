#!/usr/bin/env python3
"""Write README's tables from the JSON files of benchmarks/results/*: int8, integer_only, bench, peers and trt_simulation.

With --check: fail where README is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HARMLESS = {"slow-first-run", "governor"}


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    wanted = text
    for name, made in (
        ("results", table()),
        ("integers", integers()),
        ("bench", benches()),
        ("peers", peers()),
        ("simulation", simulation()),
    ):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = wanted.split(begin)
        wanted = f"{before}{begin}\n{made}{end}{rest.split(end)[1]}"
    if "--check" in sys.argv[1:]:
        if wanted != text:
            sys.exit("README.md's results table is out of date: run scripts/results_table.py")
        return
    readme.write_text(wanted, encoding="utf-8")


def table() -> str:
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/int8.json"), reverse=True):
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found["machine"]
        floats = [row["drop"] for row in found["rows"] if "int8" not in row["target"]]
        parts.append(
            f"Measured with `{found['command']}` on {machine['cpu']} ({machine['logical_cores']} cores, Python "
            f"{machine['python']}), calibration and evaluation images disjoint, the same settings for every model. Time is the "
            "ratio to the float file of the same runtime, interleaved. "
            f"The {len(floats)} float files lose at most {max(map(abs, floats)):.2f} points.\n"
        )
        parts += rows_of(found)
    return "\n".join(parts) + ("\n" if parts else "")


def rows_of(found: dict[str, list[dict[str, object]]]) -> list[str]:
    return [
        "| model | target | mIoU PyTorch | mIoU | drop, points | time / float, 1 thread | 2 threads | size |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['model']} | {row['target']} | {row['reference_miou']:.2f} | {row['miou']:.2f} | {row['drop']:.2f} | "
            f"{number(row['ratio_1_thread'])} | {number(row['ratio_2_threads'])} | {row['bytes'] / 1e6:.2f} MB |"
            for row in found["rows"]
            if "int8" in row["target"]
        ),
        "",
    ]


def integers() -> str:
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/integer_only.json"), reverse=True):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append(
            f"`--tune-for integer-only` (`{found['command']} --tune-for integer-only`) on {found['machine']['cpu']}:\n"
        )
        parts += rows_of(found)
    return "\n".join(parts) + ("\n" if parts else "")


def benches() -> str:
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/bench.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found["machine"]
        parts += [
            f"`edgeseg bench` and `edgeseg report` (`{found['command']}`) on {machine['cpu']} ({machine['logical_cores']} "
            "cores), each model's files in turn in one run. Time: ratio to the float file of the same runtime, or to the first of "
            "foreign files. Change: points of mIoU against the trained model; of foreign files, how alike they decide to the "
            "first. [95 % intervals]; ~ marks noisy times.\n",
            "| model | file | size | 1 thread, ms | time ratio | 2 threads | change of mIoU, points | miou:-0.5pt | GPU |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for result in found["results"]:
            for row in result["rows"]:
                one, two = row["times"]
                noisy = "~" if any(kind not in HARMLESS for kind in one["noise"]) else ""
                parts.append(
                    f"| {result['model']} | {row['file']} | {row['bytes'] / 1e6:.2f} MB | {noisy}{one['median_ms']:.1f} | "
                    f"{interval(one['ratio'], 1, '.2f')} | {interval(two['ratio'], 1, '.2f')} | "
                    f"{interval(row['change'], 100, '+.2f')} | {row['verdict'] or ''} | {row['cuda']} |"
                )
        parts.append("")
    return "\n".join(parts) + ("\n" if parts else "")


def interval(value: dict[str, float] | None, factor: float, form: str) -> str:
    if value is None:
        return ""
    estimate, low, high = (format(factor * value[end], form) for end in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def peers() -> str:
    """Other quantizers on the same images, and edgeseg's own rows beside them."""
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/peers.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        ours = json.loads(path.with_name("int8.json").read_text(encoding="utf-8"))["rows"]
        parts += [
            f"Other quantizers with their defaults, on the same calibration and evaluation images (`{found['command']}`). Time is "
            "the ratio to the route's own float file, interleaved; edgeseg's rows are those of the table above, of another run.\n",
            "| model | route | drop, points | time / float, 1 thread | 2 threads |",
            "|---|---|---|---|---|",
        ]
        for model in dict.fromkeys(row["model"] for row in found["rows"]):
            parts += [
                f"| {model} | **edgeseg {row['target']}** | {row['drop']:.2f} | {number(row['ratio_1_thread'])} | "
                f"{number(row['ratio_2_threads'])} |"
                for row in ours
                if row["model"] == model and row["target"].endswith("int8")
            ]
            parts += [_peer(row) for row in found["rows"] if row["model"] == model]
        parts.append("")
    return "\n".join(parts) + ("\n" if parts else "")


def _peer(row: dict[str, object]) -> str:
    if row["status"] != "ok":
        return f"| {row['model']} | {row['label']} | {row['status']} | | |"
    own = row["own"]
    return f"| {row['model']} | {row['label']} | {row['drop']:.2f} | {number(own.get('1'))} | {number(own.get('2'))} |"


def simulation() -> str:
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/trt_simulation.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts += [
            f"TensorRT int8, {found['label']} (`{found['command']}`):\n",
            "| model | images | mIoU PyTorch | mIoU | drop, points | multiply-adds in int8 |",
            "|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {row['model']} | {row['images']} | {row['reference_miou']:.2f} | {row['miou']:.2f} | {row['drop']:.2f} | "
            f"{row['mac_share']:.1%} |"
            for row in found["rows"]
        ]
        parts.append("")
    return "\n".join(parts) + ("\n" if parts else "")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
