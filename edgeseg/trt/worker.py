"""Build a TensorRT engine, or run one, in a process that has tensorrt and nothing else of edgeseg.

``python worker.py probe``            prints what this Python has, as JSON.
``python worker.py build JOB REPLY``  builds; JOB and REPLY are JSON files, the log goes to standard output.
``python worker.py serve``            runs an engine; one JSON request a line on standard input, one answer on standard output.

Standard library and tensorrt only, Python 3.8 to 3.14. TensorRT's API differs between 8.5 and 11: what is used here exists in
all of them or is asked for with ``hasattr``. Without a CUDA driver do not come here: TensorRT would end the process.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import TypedDict

    import tensorrt

    from edgeseg.trt.runner import EngineRunner, TensorFacts

    class Job(TypedDict):
        """One build. ``weak``: the ONNX file for versions that take precision flags; ``typed``: for those that obey its types."""

        weak: str
        typed: str
        engine: str
        inspector: str
        precision: str
        workspace_mib: int
        level: int | None
        timing_cache: str
        version_compatible: bool
        hardware_compatible: bool
        tf32: bool
        external_tactics: bool
        profiles: dict[str, list[list[int]]]

    class Built(TypedDict):
        """What was done. ``notes``: what was asked for and this version lacks."""

        version: str
        source: str
        strongly_typed: bool
        flags: list[str]
        seconds: float
        layers: int
        notes: list[str]

    class Failed(TypedDict):
        """``kind``: "parser", "memory" or "build"."""

        kind: str
        messages: list[str]

    class Reply(TypedDict):
        built: Built | None
        failed: Failed | None

    class Request(TypedDict, total=False):
        """``open`` takes all but ``runs``; ``time`` takes ``runs``; the other verbs take nothing."""

        verb: str
        engine: str
        shared: str
        memory: str
        device: int
        batch: int
        graph: bool
        runs: int

    class Answer(TypedDict, total=False):
        error: str
        version: str
        info: list[TensorFacts]
        milliseconds: list[float]


__all__ = ["JobError", "build", "is_strongly_typed", "load_engine", "make_logger", "probe"]

# How TensorRT 8 to 11 and CUDA say that memory ran out.
_MEMORY_SIGNS = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "insufficient memory", "bad_alloc")
# Kernels that come with TensorRT itself, without cuBLAS and cuDNN.
_OWN_TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


class JobError(Exception):
    """A build that failed. ``kind``: "parser", "memory" or "build"; ``messages``: TensorRT's own."""

    def __init__(self, kind: str, messages: list[str]) -> None:
        super().__init__("; ".join(messages))
        self.kind = kind
        self.messages = messages


def make_logger(trt: ModuleType, write: Callable[[str], None]) -> tensorrt.ILogger:
    """A logger that writes every line and keeps the errors in ``errors`` and the last warning in ``warning``."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warning = ""

        def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
            level = str(severity).rsplit(".", 1)[-1]
            write(f"[{level}] {message}")
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.Logger.WARNING:
                self.warning = message

    return Log()


def is_strongly_typed(trt: ModuleType) -> bool:
    """Whether this version obeys the types written in the file; an older one takes precision flags instead."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def build(trt: ModuleType, job: Job, logger: tensorrt.ILogger) -> Built:
    """Build one engine.

    Raises:
        JobError: TensorRT refused the file or could not build it.
    """
    notes: list[str] = []
    started = time.monotonic()
    builder = trt.Builder(logger)
    bits = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        bits |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        bits |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(bits)
    typed = is_strongly_typed(trt)
    source = job["typed"] if typed else job["weak"]
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(source):
        found = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise JobError("parser", found or logger.errors or ["the parser gave no reason"])
    config = builder.create_builder_config()
    flags = configure(trt, config, job, typed, notes)
    if job["profiles"]:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in sorted(job["profiles"].items()):
            profile.set_shape(name, tuple(least), tuple(usual), tuple(most))
        config.add_optimization_profile(profile)
    cache = load_timing_cache(config, job["timing_cache"], notes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        messages = logger.errors or ["TensorRT gave no reason"]
        text = " ".join(messages).lower()
        raise JobError("memory" if any(sign in text for sign in _MEMORY_SIGNS) else "build", messages)
    save(job["engine"], plan)
    if cache is not None:
        save(job["timing_cache"], cache.serialize())
    return {
        "version": trt.__version__,
        "source": Path(source).name,
        "strongly_typed": typed,
        "flags": flags,
        "seconds": round(time.monotonic() - started, 3),
        "layers": inspect(trt, plan, logger, job["inspector"]),
        "notes": notes,
    }


def configure(trt: ModuleType, config: tensorrt.IBuilderConfig, job: Job, typed: bool, notes: list[str]) -> list[str]:
    """Set what the job asks for and this version has; what it lacks goes to ``notes``. Returns the flags that were set."""
    chosen: list[str] = []

    def flag(name: str) -> None:
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))
            chosen.append(name)
        else:
            notes.append(f"this TensorRT has no builder flag {name}")

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_mib"] << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job["tf32"]:
        flag("TF32")
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
    if not typed and job["precision"] != "fp32":
        flag("FP16")
    if not typed and job["precision"] == "int8":
        flag("INT8")
    if job["version_compatible"]:
        flag("VERSION_COMPATIBLE")
    if job["hardware_compatible"]:
        if hasattr(trt, "HardwareCompatibilityLevel") and hasattr(config, "hardware_compatibility_level"):
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        else:
            notes.append("this TensorRT builds for the GPU at hand only")
    if job["level"] is not None:
        if hasattr(config, "builder_optimization_level"):
            config.builder_optimization_level = job["level"]
        else:
            notes.append("this TensorRT has no optimisation level")
    if not job["external_tactics"]:
        own = [getattr(trt.TacticSource, name) for name in _OWN_TACTICS if hasattr(trt.TacticSource, name)]
        config.set_tactic_sources(sum(1 << int(source) for source in own))
    return chosen


def load_timing_cache(config: tensorrt.IBuilderConfig, path: str, notes: list[str]) -> tensorrt.ITimingCache | None:
    """The kept measurements of kernels, by which a rebuild chooses the same ones; None where none are to be kept."""
    if not path:
        return None
    kept = Path(path)
    cache = config.create_timing_cache(kept.read_bytes() if kept.is_file() else b"")
    if not config.set_timing_cache(cache, False):
        notes.append("the kept timing cache is of another GPU or version; a new one was begun")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def inspect(trt: ModuleType, plan: bytes, logger: tensorrt.ILogger, path: str) -> int:
    """Write the engine inspector's JSON; returns the number of layers."""
    engine = load_engine(trt, plan, logger)
    inspector = engine.create_engine_inspector()
    save(path, inspector.get_engine_information(trt.LayerInformationFormat.JSON).encode("utf-8"))
    return int(engine.num_layers)


def load_engine(trt: ModuleType, plan: bytes, logger: tensorrt.ILogger) -> tensorrt.ICudaEngine:
    """Deserialize.

    Raises:
        JobError: with TensorRT's reason (another version, another GPU).
    """
    runtime = trt.Runtime(logger)
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True  # a version-compatible engine carries its own lean runtime
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise JobError("build", logger.errors or ["TensorRT does not load the engine"])
    return engine


def save(path: str, content: bytes) -> None:
    """Written whole or not at all."""
    part = Path(f"{path}.part")
    part.write_bytes(content)
    part.replace(path)


def probe() -> dict[str, str]:
    """What this Python has; ``tensorrt`` is empty where it has none. Importing it needs no driver, unlike using it."""
    answer = {"python": ".".join(str(n) for n in sys.version_info[:3]), "tensorrt": "", "error": ""}
    try:
        import tensorrt

        answer["tensorrt"] = tensorrt.__version__
    except Exception as error:  # noqa: BLE001 - NVIDIA's package raises what it likes where a library is missing
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer


def run_build(job_path: str, reply_path: str) -> None:
    """JOB to REPLY; the log goes to standard output as it comes."""
    import tensorrt as trt

    job: Job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    logger = make_logger(trt, lambda line: print(line, flush=True))
    reply: Reply = {"built": None, "failed": None}
    try:
        reply["built"] = build(trt, job, logger)
    except JobError as error:
        reply["failed"] = {"kind": error.kind, "messages": error.messages}
    except Exception as error:  # noqa: BLE001 - the parent must hear of it
        traceback.print_exc(file=sys.stdout)
        kind = "memory" if isinstance(error, MemoryError) else "build"
        reply["failed"] = {"kind": kind, "messages": [f"{type(error).__name__}: {error}", *(logger.errors or [logger.warning])]}
    save(reply_path, json.dumps(reply).encode("utf-8"))


class Server:
    """Runs an engine on request. Tensors travel through a shared file: the input at its start, the output behind it."""

    def __init__(self, trt: ModuleType, logger: tensorrt.ILogger) -> None:
        self._trt = trt
        self._logger = logger
        self._runner: EngineRunner | None = None
        self._shared: mmap.mmap | None = None

    def answer(self, request: Request) -> Answer:
        """Do what is asked; a failure becomes the answer's ``error``."""
        try:
            if request["verb"] == "open":
                return self._open(request)
            return self._use(request)
        except Exception as error:  # noqa: BLE001 - the parent must hear of it
            traceback.print_exc(file=sys.stderr)
            return {"error": "; ".join([f"{type(error).__name__}: {error}", *self._logger.errors[-3:]])}

    def _open(self, request: Request) -> Answer:
        # This file is run as a script: Python looks for modules in its folder first.
        memories, runners = import_module("memory"), import_module("runner")
        memory = memories.open_memory(request["memory"], request["device"])  # its GPU is the one the engine loads on
        with memory.current():
            engine = load_engine(self._trt, Path(request["engine"]).read_bytes(), self._logger)
        self._runner = runner = runners.EngineRunner(self._trt, engine, memory, request["batch"], request["graph"])
        size = runner.input.size + runner.output.size
        with Path(request["shared"]).open("r+b") as stream:
            stream.truncate(size)
            self._shared = mmap.mmap(stream.fileno(), size)
        return {"info": runner.describe(), "version": self._trt.__version__}

    def _use(self, request: Request) -> Answer:
        if self._runner is None or self._shared is None:
            raise ValueError("no engine is open")
        boundary = self._runner.input.size
        if request["verb"] == "feed":
            self._runner.write(memoryview(self._shared)[:boundary])
        elif request["verb"] == "invoke":
            self._runner.execute()
        elif request["verb"] == "fetch":
            self._runner.read(memoryview(self._shared)[boundary:])
        elif request["verb"] == "time":
            return {"milliseconds": self._runner.time(request["runs"])}
        elif request["verb"] == "close":
            self._runner.close()
        return {}


def run_server() -> None:
    """Serve until ``close`` or the end of standard input."""
    # What libraries print on standard output must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import tensorrt as trt

    server = Server(trt, make_logger(trt, lambda line: print(line, file=sys.stderr, flush=True)))
    for line in sys.stdin:
        request: Request = json.loads(line)
        answers.write(json.dumps(server.answer(request)) + "\n")
        answers.flush()
        if request["verb"] == "close":
            break


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        print(json.dumps(probe()))
    elif sys.argv[1] == "build":
        run_build(sys.argv[2], sys.argv[3])
    else:
        run_server()
