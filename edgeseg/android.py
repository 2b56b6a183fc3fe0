"""A benchmark on an Android device: LiteRT's ``benchmark_model``, started there in turn for each file."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeseg.artifact import load_artifact
from edgeseg.bench.analysis import Observation, analyze
from edgeseg.bench.device import Device
from edgeseg.bench.journal import Header, Journal, Round
from edgeseg.bench.machine import KNOWN_FLAGS, MachineFacts
from edgeseg.bench.memory import MemoryUse
from edgeseg.bench.profile import Placement, Profile
from edgeseg.bench.result import BenchResult, CandidateFacts, Sample
from edgeseg.bench.settings import BenchSettings
from edgeseg.errors import EnvironmentLack, ModelError
from edgeseg.graph import Format
from edgeseg.inspection import file_format
from edgeseg.remote.adb import Adb, open_adb
from edgeseg.remote.benchmark_model import ToolRun, command_line, parse_operators, parse_run
from edgeseg.report.result import BenchReport
from edgeseg.session import SessionInfo

__all__ = ["AndroidErrand", "bench_by_adb"]

_FOLDER = "/data/local/tmp"
_RUNS = 10  # inferences of one start of the tool


@dataclass(frozen=True)
class AndroidErrand:
    """``tool``: a ``benchmark_model`` of this machine to copy there; None: the one that lies in /data/local/tmp."""

    device: Device
    threads: tuple[int, ...]
    settings: BenchSettings
    tool: Path | None = None
    profile: bool = False
    journals: Callable[[int], Path] | None = None
    limit_s: float = 1800.0


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    place: str


def bench_by_adb(paths: Sequence[Path], errand: AndroidErrand) -> BenchReport:
    """Measure .tflite files, or artifacts of one, on an Android device. Each sample is the mean of one start of the tool.

    Raises:
        EnvironmentLack: no adb, no device, or no ``benchmark_model``.
        ModelError: a file is no .tflite, or the tool fails on it.
    """
    named = [_file(path) for path in paths]
    adb = open_adb(errand.device.serial, errand.limit_s)
    folder = f"{_FOLDER}/edgeseg-{secrets.token_hex(4)}"
    adb.shell(["mkdir", "-p", folder])
    try:
        tool = _tool(adb, errand.tool, folder)
        files = [_File(name, path, f"{folder}/{index}.tflite") for index, (name, path) in enumerate(named)]
        for file in files:
            adb.push(file.path, file.place)
        machine = _machine(adb)
        runs = tuple(_measure(adb, tool, files, machine, threads, errand) for threads in errand.threads)
    finally:
        adb.attempt(["rm", "-rf", folder])
    note = f"every sample is the mean of {_RUNS} inferences of one start of benchmark_model, so p90 and p99 are of such means"
    return BenchReport(image="noise", device=errand.device.text, runs=runs, notes=(note,))


def _file(path: Path) -> tuple[str, Path]:
    name, file = path.name, path
    if path.is_dir():
        artifact = load_artifact(path)
        name, file = f"{artifact.manifest.name}-{artifact.manifest.target}", artifact.model_path
    if file_format(file) is not Format.TFLITE:
        raise ModelError(
            f"'{path}' is not a .tflite file, and Android devices are measured with LiteRT.",
            hint="Compile it with --target tflite-int8 or tflite-fp32.",
        )
    return name, file


def _tool(adb: Adb, given: Path | None, folder: str) -> str:
    if given is not None:
        place = f"{folder}/benchmark_model"
        adb.push(given, place)
        adb.shell(["chmod", "755", place])
        return place
    place = f"{_FOLDER}/benchmark_model"
    if adb.attempt(["test", "-x", place]).returncode:
        raise EnvironmentLack(
            f"There is no benchmark_model on {adb.serial}.",
            hint=f"Get LiteRT's benchmark_model for its processor and give it with --benchmark-model, or put it at {place}.",
        )
    return place


def _measure(
    adb: Adb, tool: str, files: Sequence[_File], machine: MachineFacts, threads: int, errand: AndroidErrand
) -> BenchResult:
    settings = msgspec.structs.replace(errand.settings, threads=threads, memory=False, lead_in=0, runs_per_turn=1)
    first = [_start(adb, tool, file, threads) for file in files]
    header = Header(
        machine=machine,
        settings=settings,
        cpus=(),
        candidates=tuple(_facts(file, run, errand.device, threads) for file, run in zip(files, first, strict=True)),
        timer_ns=0.0,
    )
    journal = errand.journals(threads) if errand.journals is not None else None
    rounds: list[Round] = []
    with Journal(journal) as output:
        output.write(header)
        for entry in _rounds(adb, tool, files, threads, settings):
            output.write(entry)
            rounds.append(entry)
    result = analyze(header, rounds, Observation(energy_source="not available: adb does not tell"))
    if not errand.profile:
        return result
    profiled = tuple(
        msgspec.structs.replace(one, profile=_profile(adb, tool, file, threads))
        for one, file in zip(result.candidates, files, strict=True)
    )
    return msgspec.structs.replace(result, candidates=profiled)


def _rounds(adb: Adb, tool: str, files: Sequence[_File], threads: int, settings: BenchSettings) -> Iterator[Round]:
    start = time.monotonic()
    for done in range(1, settings.max_rounds + 1):
        turns = tuple((Sample(0, round(1e3 * _start(adb, tool, file, threads).average), 0),) for file in files)
        yield Round(turns=turns)
        if done >= settings.min_rounds and time.monotonic() - start >= settings.budget_seconds:
            return


def _start(adb: Adb, tool: str, file: _File, threads: int) -> ToolRun:
    return parse_run(adb.shell(command_line(tool, file.place, threads=threads, runs=_RUNS)))


def _profile(adb: Adb, tool: str, file: _File, threads: int) -> Profile | None:
    text = adb.shell(command_line(tool, file.place, threads=threads, runs=_RUNS, profile=True))
    operators = parse_operators(text)
    if not operators:
        return None
    method = "benchmark_model's operator profiling, which adds a little to each"
    return Profile(method=method, runs=_RUNS, whole_us=parse_run(text).average, operators=operators)


def _facts(file: _File, run: ToolRun, device: Device, threads: int) -> CandidateFacts:
    placement = None
    if run.operators is not None and run.delegated is not None:
        left = run.operators - run.delegated
        places = {"XNNPACK": run.delegated, **({"LiteRT": left} if left else {})}
        # The tool does not say of what kind those are that the delegate leaves.
        outside = {"operators": left} if left else {}
        placement = Placement(operators=run.operators, places=places, partitions=run.partitions, outside=outside)
    memory = None
    if run.memory_mb is not None:
        init, overall = (max(0, round(1e6 * value)) for value in run.memory_mb)
        memory = MemoryUse(interpreter=0, loaded=init, peak=max(init, overall), runs=_RUNS)
    return CandidateFacts(
        name=file.name,
        info=SessionInfo(runtime="benchmark_model", version="", file=str(file.path), device=device.text, threads=threads),
        file_bytes=file.path.stat().st_size,
        load_seconds=run.init / 1e6,
        warmup_ns=(round(1e3 * run.first),),
        warmup_stable=True,
        memory=memory,
        fed="noise of benchmark_model",
        placement=placement,
    )


def _machine(adb: Adb) -> MachineFacts:
    """What the device tells of itself."""

    def told(*command: str) -> str:
        done = adb.attempt(list(command))
        return done.stdout.strip() if done.returncode == 0 else ""

    model = " ".join(filter(None, (told("getprop", f"ro.product.{key}") for key in ("manufacturer", "model"))))
    chip = told("getprop", "ro.soc.model") or told("getprop", "ro.board.platform")
    features = next((line for line in told("cat", "/proc/cpuinfo").splitlines() if line.startswith("Features")), "").split()
    memory = next((line for line in told("cat", "/proc/meminfo").splitlines() if line.startswith("MemTotal:")), "").split()
    cores = told("nproc")
    return MachineFacts(
        cpu=", ".join(filter(None, (model, chip))) or "unknown",
        architecture=told("getprop", "ro.product.cpu.abi") or "unknown",
        flags=tuple(flag for flag in KNOWN_FLAGS if flag in features),
        logical_cores=int(cores) if cores.isdigit() else 1,
        physical_cores=None,
        memory_bytes=1024 * int(memory[1]) if len(memory) > 1 and memory[1].isdigit() else 0,
        governor=told("cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        gpus=(),
        system=f"Android {told('getprop', 'ro.build.version.release') or 'unknown'}",
        python="",
        versions={},
        commit=None,
    )
