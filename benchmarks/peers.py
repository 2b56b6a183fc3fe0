"""What other quantizers make of the same models, calibration images and evaluation images; writes peers.json.

    EDGESEG_DATA=... python benchmarks/peers.py --out benchmarks/results/MACHINE/peers.json [--only ESPNet] [--peers A,B]
    EDGESEG_DATA=... python benchmarks/peers.py --out benchmarks/results/MACHINE/peers.json --latency-only

Each peer is a script of benchmarks/peers/ that runs in a virtual environment of its own, made from the requirements beside it in
``--environments``. All start from the ONNX file that edgeseg exports; files are judged by ``edgeseg eval``'s own code. Times are
ratios of medians of interleaved runs: to the peer's own float file, and to edgeseg's float file of the same runtime. A peer that
fails is recorded with what it said. ``--latency-only`` times the files of an earlier run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec
import numpy as np
from int8 import Entry, Suite

from edgeseg.api import CompileOptions, compile_model, evaluate
from edgeseg.artifact import Artifact, load_artifact
from edgeseg.bench.interleave import interleaved_medians
from edgeseg.bench.machine import MachineFacts, machine_facts
from edgeseg.data.calibration import open_calibration
from edgeseg.data.pairs import EvaluationSet, open_evaluation
from edgeseg.evaluation import evaluate_sessions
from edgeseg.session import Float32, ModelInput, SessionInfo
from edgeseg.spec import ModelSpec
from edgeseg.spec_file import load_spec
from edgeseg.subject import open_subject

HERE = Path(__file__).parent
THREADS = (1, 2)


@dataclass(frozen=True)
class Peer:
    """``script``: of benchmarks/peers/. ``suffix``: of its files. ``after``: the peer whose float file it starts from."""

    label: str
    script: str
    suffix: str
    arguments: tuple[str, ...] = ()
    after: str | None = None


PEERS = {
    "tflite-converter": Peer("TFLite converter, full integer", "tflite_converter", "tflite"),
    "ai-edge-quantizer": Peer("ai-edge-quantizer, default", "ai_edge_quantizer", "tflite", after="tflite-converter"),
    "onnxruntime": Peer("onnxruntime, static Q/DQ", "onnxruntime_static", "onnx"),
    "nncf-performance": Peer("NNCF performance, OpenVINO", "nncf_openvino", "xml", ("--preset", "performance")),
    "nncf-mixed": Peer("NNCF mixed, OpenVINO", "nncf_openvino", "xml", ("--preset", "mixed")),
}
OURS = {"tflite": "tflite-fp32", "onnx": "onnx-fp32"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """``status``: ``ok``; ``failed`` (the quantizer ended with an error), ``refused`` (the runtime does not take its file) or
    ``n/a`` (there is nothing to start from), with ``message``. ``drop``: points of mIoU against PyTorch. ``own``: time over the
    peer's own float file, ``ours``: over edgeseg's float file of the same runtime, by number of threads."""

    model: str
    peer: str
    label: str
    status: Literal["ok", "failed", "refused", "n/a"]
    message: str = ""
    images: int = 0
    calibration_images: int = 0
    reference_miou: float | None = None
    miou: float | None = None
    drop: float | None = None
    bytes: int | None = None
    seconds: float | None = None
    own: dict[str, float] = {}
    ours: dict[str, float] = {}
    versions: dict[str, str] = {}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    command: str
    machine: MachineFacts
    rows: tuple[Row, ...]


class PeerError(Exception):
    """A peer's process ended with an error; the text is its last words."""


@dataclass(frozen=True)
class Case:
    """One model of the suite: its spec, its images and where its files lie."""

    entry: Entry
    spec: ModelSpec
    data: Path
    work: Path
    limit: int | None

    @property
    def model(self) -> Path:
        return self.data / self.entry.file

    def place(self, name: str) -> Path:
        return self.work / f"{self.model.stem}-{name}"

    def samples(self) -> EvaluationSet:
        entry, data = self.entry, self.data
        regions = str(data / entry.regions) if entry.regions else None
        found = open_evaluation(
            self.spec, Path(), images=str(data / entry.images), masks=str(data / entry.masks), regions=regions
        )
        return found if self.limit is None else found.take(self.limit)

    def ours(self, target: str) -> Artifact:
        """edgeseg's float file, made once."""
        folder = self.place(target)
        if folder.is_dir():
            return load_artifact(folder)
        return compile_model(self.model, target, spec=self.spec, options=CompileOptions(output=folder)).artifact


class Served:
    """A Session over a model that the environment of its peer runs; see ``nncf_openvino.py serve``."""

    def __init__(self, python: Path, model: Path, folder: Path, threads: int) -> None:
        self._folder = folder
        command = [python, HERE / "peers" / "nncf_openvino.py", "serve", "--model", model, "--exchange", folder]
        self._child = subprocess.Popen(
            [str(part) for part in (*command, "--threads", threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.info = SessionInfo(runtime="openvino", version="", file=str(model), threads=threads)

    def feed(self, x: ModelInput) -> None:
        np.save(self._folder / "input.npy", x.values)

    def invoke(self) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("run\n")
        self._child.stdin.flush()
        if self._child.stdout.readline().strip() != "done":
            raise PeerError("OpenVINO ended without an answer")

    def fetch(self) -> Float32:
        logits: Float32 = np.load(self._folder / "output.npy").astype(np.float32)
        return logits

    def close(self) -> None:
        self._child.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=HERE / "suites" / "trained.toml")
    parser.add_argument("--only", default="", help="models whose name holds this")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--count", type=int, default=100, help="calibration images")
    parser.add_argument("--limit", type=int, help="evaluation images; all by default")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--time-limit", type=float, default=1800.0, help="of one peer on one model, seconds")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--environments", type=Path, default=Path.home() / ".cache" / "edgeseg-peers")
    parser.add_argument("--latency-only", action="store_true", help="time the files of an earlier run again")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; rows are added to what is there")
    asked = parser.parse_args()
    data = Path(os.environ.get("EDGESEG_DATA", HERE.parent.parent / "shared")).resolve()
    suite = msgspec.toml.decode(asked.suite.read_bytes(), type=Suite)
    for entry in suite.model:
        if asked.only.lower() not in entry.name.lower():
            continue
        spec = load_spec(HERE / "specs" / entry.spec)
        calibration = msgspec.structs.replace(
            spec.calibration,
            images=str(data / entry.calibration),
            regions=str(data / entry.calibration_regions) if entry.calibration_regions else None,
            count=asked.count,
        )
        case = Case(entry, msgspec.structs.replace(spec, calibration=calibration), data, asked.work.resolve(), asked.limit)
        for name in asked.peers.split(","):
            if asked.latency_only:
                known = next((row for row in read(asked.out) if (row.model, row.peer) == (entry.name, name)), None)
                if known is None or known.status != "ok":
                    continue
                row = timed(known, case, PEERS[name], case.place(name), asked)
            else:
                row = run(case, name, asked)
            write(asked.out, row)
            print(msgspec.json.encode(row).decode(), flush=True)


def environment(script: str, asked: argparse.Namespace) -> Path:
    """The Python of a peer's virtual environment, made where it is missing or its requirements have changed."""
    wanted = HERE / "peers" / f"{script}.txt"
    folder = asked.environments / script
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", wanted], check=True)
        stamp.write_text(wanted.read_text())
    return python


def call(python: Path, script: str, *arguments: object, limit: float, log: Path) -> str:
    """Run a peer's script; its standard output. Raises PeerError with its last line, and keeps all of it in ``log``."""
    command = [str(part) for part in (python, HERE / "peers" / f"{script}.py", *arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not finished after {limit:.0f} s") from error
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        said = raised or [line for line in lines if "error" in line.lower()] or lines or ["nothing"]
        raise PeerError(f"exit code {done.returncode}: {said[-1][-300:]}")
    return done.stdout


def run(case: Case, name: str, asked: argparse.Namespace) -> Row:
    peer, folder = PEERS[name], case.place(name)
    folder.mkdir(parents=True, exist_ok=True)
    base = Row(model=case.entry.name, peer=name, label=peer.label, status="n/a")
    onnx = case.ours("onnx-fp32")
    reference = reference_miou(case)
    images = calibration_arrays(case)
    source: tuple[object, ...] = ("--onnx", onnx.model_path)
    if peer.after is not None:
        start = case.place(peer.after) / f"float.{peer.suffix}"
        if not start.is_file():
            return msgspec.structs.replace(base, message=f"{PEERS[peer.after].label} made no float file to start from")
        source = ("--float", start)
    python = environment(peer.script, asked)
    started = time.monotonic()
    try:
        arguments = ("quantize", *source, "--calibration", images, "--out", folder, *peer.arguments)
        call(python, peer.script, *arguments, limit=asked.time_limit, log=folder / "quantize.log")
    except PeerError as error:
        return msgspec.structs.replace(base, status="failed", message=str(error), reference_miou=reference)
    seconds = time.monotonic() - started
    try:
        miou, count = judged(case, peer, folder, python)
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is the finding
        return msgspec.structs.replace(base, status="refused", message=str(error)[:400], reference_miou=reference)
    file = folder / f"int8.{peer.suffix}"
    weights = file.with_suffix(".bin")
    row = msgspec.structs.replace(
        base,
        status="ok",
        images=count,
        calibration_images=len(list(images.glob("*.npy"))),
        reference_miou=reference,
        miou=miou,
        drop=reference - miou,
        bytes=file.stat().st_size + (weights.stat().st_size if weights.is_file() else 0),
        seconds=seconds,
        versions=json.loads((folder / "versions.json").read_text()),
    )
    return timed(row, case, peer, folder, asked)


def reference_miou(case: Case) -> float:
    """PyTorch's mIoU on the evaluation images, in points; computed once a model."""
    kept = case.place(f"reference-{case.limit or 'all'}.json")
    if not kept.is_file():
        entry, data = case.entry, case.data
        result = evaluate(
            case.model,
            spec=case.spec,
            with_reference=False,
            images=str(data / entry.images),
            masks=str(data / entry.masks),
            regions=str(data / entry.regions) if entry.regions else None,
            limit=case.limit,
            threads=2,
        )
        kept.write_text(json.dumps(100 * result.subject.scores.miou))
    return float(json.loads(kept.read_text()))


def calibration_arrays(case: Case) -> Path:
    """A folder with the calibration images as the network takes them, float32 (1, C, H, W), one .npy each."""
    folder = case.place(f"calibration-{case.spec.calibration.count}")
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(open_calibration(case.spec, Path())):
            np.save(part / f"{index:04d}.npy", image.values)
        part.rename(folder)
    return folder


def judged(case: Case, peer: Peer, folder: Path, python: Path) -> tuple[float, int]:
    """mIoU in points of the peer's file on the evaluation images, and how many they are."""
    file = folder / f"int8.{peer.suffix}"
    session = Served(python, file, folder, 2) if peer.suffix == "xml" else open_subject(file, case.spec).open(2)
    with session:
        result = evaluate_sessions(session, case.samples(), name=peer.label)
    return 100 * result.subject.scores.miou, result.images


def timed(row: Row, case: Case, peer: Peer, folder: Path, asked: argparse.Namespace) -> Row:
    """The row with its times measured (again)."""
    image = next(iter(case.samples().load())).prepared.input
    files = [folder / f"{kind}.{peer.suffix}" for kind in ("float", "int8")]
    own, ours = {}, {}
    for threads in THREADS:
        if peer.suffix == "xml":
            picture = folder / "input.npy"
            np.save(picture, image.values)
            models = [part for file in files for part in ("--model", file)]
            options = ("--image", picture, "--threads", threads, "--rounds", asked.rounds)
            python = environment(peer.script, asked)
            said = call(python, peer.script, "time", *models, *options, limit=asked.time_limit, log=folder / "time.log")
            before, after = json.loads(said.splitlines()[-1])
        else:
            best = case.ours(OURS[peer.suffix])
            before, after, baseline = medians([*files, best.path], case, image, threads, asked.rounds)
            ours[str(threads)] = after / baseline
        own[str(threads)] = after / before
    return msgspec.structs.replace(row, own=own, ours=ours)


def medians(paths: Sequence[Path], case: Case, image: ModelInput, threads: int, rounds: int) -> list[float]:
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(open_subject(path, case.spec if path.is_file() else None).open(threads)) for path in paths
        ]
        return interleaved_medians(sessions, image, rounds=rounds)


def read(path: Path) -> tuple[Row, ...]:
    return msgspec.json.decode(path.read_bytes(), type=Table).rows if path.is_file() else ()


def write(path: Path, row: Row) -> None:
    """Replaces the row of the same model and peer; the others stay where they are."""
    rows = list(read(path))
    places = [index for index, one in enumerate(rows) if (one.model, one.peer) == (row.model, row.peer)]
    if places:
        rows[places[0]] = row
    else:
        rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Table(command="python benchmarks/peers.py", machine=machine_facts(), rows=tuple(rows))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


if __name__ == "__main__":
    main()
