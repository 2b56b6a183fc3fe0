#!/usr/bin/env python3
"""Write README's tables from benchmarks/results/*/int8.json and trt_simulation.json. With --check: fail where it is out of date."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    wanted = text
    for name, made in (("results", table()), ("simulation", simulation())):
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
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/int8.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found["machine"]
        parts.append(
            f"Measured with `{found['command']}` on {machine['cpu']} ({machine['logical_cores']} cores, Python "
            f"{machine['python']}), calibration and evaluation images disjoint, the same settings for every model. Time is the "
            "ratio to the float file of the same runtime, interleaved.\n"
        )
        parts.append("| model | target | mIoU PyTorch | mIoU | drop, points | time / float, 1 thread | 2 threads | size |")
        parts.append("|---|---|---|---|---|---|---|---|")
        parts += [
            f"| {row['model']} | {row['target']} | {row['reference_miou']:.2f} | {row['miou']:.2f} | {row['drop']:.2f} | "
            f"{number(row['ratio_1_thread'])} | {number(row['ratio_2_threads'])} | {row['bytes'] / 1e6:.2f} MB |"
            for row in found["rows"]
        ]
        parts.append("")
    return "\n".join(parts) + ("\n" if parts else "")


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
