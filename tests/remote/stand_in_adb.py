#!/usr/bin/env python3
"""Stands for adb where there is no Android device: notes every command, keeps pushed files, and answers as a device would.

``STAND_IN`` is a folder: ``devices`` (what ``adb devices -l`` prints), ``tool`` (there: a benchmark_model lies on the device),
``broken`` (what a failing tool prints), ``log`` (the commands, one JSON list a line), ``root`` (the device's files).
"""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("STAND_IN", "."))
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.soc.model": "Tensor G3",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "15",
}
FILES = {
    "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\n",
    "/proc/meminfo": "MemTotal:        7819432 kB\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "sched_pixel\n",
}
# The lines of a run, as LiteRT's tool prints them; the times are the stand-in's.
RUN = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model {graph}
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 53 out of 55 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for the whole graph.
INFO: The input model file size (MB): 16.9008
INFO: Initialized session in 12.75ms.
INFO: Running benchmark for at least 1 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=1 curr=14744

INFO: Running benchmark for at least 10 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=10 first={time} curr={time} min={time} max={time} avg={time} std=470 p5={time} median={time} p95={time}

INFO: Inference timings in us: Init: 12750, First inference: 14744, Warmup (avg): 14744, Inference (avg): {time}
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""
HEAD = "============================== Run Order ==============================\n"
TITLES = "\t  [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]\n"
PROFILE = (
    "INFO: Profiling Info for Benchmark Initialization:\n"
    + HEAD
    + TITLES
    + "\t  ModifyGraphWithDelegate\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tModifyGraphWithDelegate/0\n\n"
    + "INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n"
    + HEAD
    + TITLES
    + "\t  TfLiteXNNPackDelegate\t    9.100\t    9.000\t 90.000%\t 90.000%\t     0.000\t        1\t[scores]:55\n"
    + "\t  RESIZE_BILINEAR\t    1.100\t    1.000\t 10.000%\t100.000%\t     0.000\t        1\t[resized]:54\n\n"
    + "Timings (microseconds): count=10 first=10010 curr=10000 min=9900 max=10100 avg=10000 std=11\nMemory (bytes): count=0\n"
)


def shell(words: list[str]) -> int:
    name, *rest = words
    if name == "getprop":
        print(PROPERTIES.get(rest[0], ""))
    elif name == "cat":
        if rest[0] not in FILES:
            return 1
        print(FILES[rest[0]], end="")
    elif name == "nproc":
        print(9)
    elif name == "test":
        return 0 if (FOLDER / "tool").exists() else 1
    elif name == "mkdir":
        (FOLDER / "root" / rest[-1].strip("/")).mkdir(parents=True)
    elif name == "rm":
        shutil.rmtree(FOLDER / "root" / rest[-1].strip("/"))
    elif name.endswith("benchmark_model"):
        graph = next(word.partition("=")[2] for word in rest if word.startswith("--graph="))
        assert (FOLDER / "root" / graph.strip("/")).is_file()
        if (FOLDER / "broken").exists():
            print((FOLDER / "broken").read_text(), file=sys.stderr)
            return 0
        # The larger the file, the longer it takes: 10 us a byte.
        print(RUN.format(graph=graph, time=10 * (FOLDER / "root" / graph.strip("/")).stat().st_size), end="")
        if "--enable_op_profiling=true" in rest:
            print(PROFILE, end="")
    return 0


def main(arguments: list[str]) -> int:
    with (FOLDER / "log").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments[0] == "devices":
        print((FOLDER / "devices").read_text(), end="")
        return 0
    assert arguments[0] == "-s"
    if arguments[2] == "push":
        shutil.copy(arguments[3], FOLDER / "root" / arguments[4].strip("/"))
        return 0
    return shell(shlex.split(arguments[3]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
