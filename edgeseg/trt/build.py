"""Have an engine built in a process of its own, and say in one sentence why where it fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeseg.errors import StageError, StageTimeout, UsageError
from edgeseg.graph import digest_file
from edgeseg.trt.driver import WORKER, CudaDriver, TrtPython

__all__ = ["BuildRecord", "BuildSettings", "OnnxFiles", "build_engine"]

_STAGE = "build"
_LOG_LINES = 5


class BuildSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an engine is built; the defaults suit one machine and one image.

    Attributes:
        workspace_mib: device memory that a kernel may use for itself, at most.
        level: optimisation level 0..5 where the version has it; None for TensorRT's own.
        timing_cache: folder that keeps the measurements of kernels, by which a rebuild chooses the same ones; None keeps none.
        version_compatible: the engine also loads in later TensorRT versions of the same major.
        hardware_compatible: it also runs on later GPUs (Ampere and up), slower.
        tf32: allow float32 matrix products at 10 bits of significand. Off: float32 means float32.
        external_tactics: also try the kernels of cuBLAS and cuDNN (TensorRT up to 10), which must then be installed.
        batch: least, usual and largest number of images a run. Not all 1: the ONNX files must have a dynamic batch.
        sizes: least and largest height and width; the usual ones are the graph's. None: no others. The ONNX files must take them.
        time_limit_s: of the build, seconds.
    """

    workspace_mib: int = 2048
    level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    tf32: bool = False
    external_tactics: bool = False
    batch: tuple[int, int, int] = (1, 1, 1)
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    time_limit_s: float = 1800.0

    def __post_init__(self) -> None:
        least, usual, most = self.batch
        if not 1 <= least <= usual <= most:
            raise UsageError(
                f"The batch sizes {self.batch} do not rise from 1.", hint="Give least, usual and largest, as 1,1,16."
            )
        if self.sizes is not None:
            lowest, highest = self.sizes
            if min(lowest) < 1 or any(low > high for low, high in zip(lowest, highest, strict=True)):
                raise UsageError(
                    f"The sizes {_by(lowest)} and {_by(highest)} do not rise from 1x1.",
                    hint="Give least and largest height x width, as 256x320,768x960.",
                )
        if self.level is not None and not 0 <= self.level <= 5:
            raise UsageError(f"The optimisation level is {self.level}.", hint="It must be 0 to 5.")
        if self.workspace_mib < 1:
            raise UsageError(f"The workspace is {self.workspace_mib} MiB.", hint="Give at least 1.")

    @property
    def dynamic(self) -> bool:
        return self.batch != (1, 1, 1)

    def shapes(self, usual: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Least, usual and largest shape of an input of shape ``usual``; its batch does not count.

        >>> BuildSettings(batch=(1, 4, 16), sizes=((64, 64), (256, 512))).shapes((1, 3, 128, 256))
        ((1, 3, 64, 64), (4, 3, 128, 256), (16, 3, 256, 512))
        """
        sizes = (self.sizes[0], usual[2:], self.sizes[1]) if self.sizes else (usual[2:],) * 3
        return tuple((batch, usual[1], *size) for batch, size in zip(self.batch, sizes, strict=True))

    @property
    def text(self) -> str:
        """What can change the files, as one line: for the manifest and the cache key. Not where measurements are kept, nor how
        long a build may take.

        >>> BuildSettings(batch=(1, 4, 16), level=3).text
        'batch 1,4,16; workspace 2048 MiB; level 3'
        """
        flags = ("version_compatible", "hardware_compatible", "tf32", "external_tactics")
        return "; ".join(
            [
                f"batch {','.join(map(str, self.batch))}",
                *([] if self.sizes is None else [f"sizes {','.join(map(_by, self.sizes))}"]),
                f"workspace {self.workspace_mib} MiB",
                *([] if self.level is None else [f"level {self.level}"]),
                *(name.replace("_", " ") for name in flags if getattr(self, name)),
            ]
        )


def _by(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


@dataclass(frozen=True)
class OnnxFiles:
    """One network twice: for versions with precision flags (8.x), and with its types written out (10 and later). ``input_shape``:
    the usual one."""

    weak: Path
    typed: Path
    input_name: str
    input_shape: tuple[int, ...]


class BuildRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was built, by what, for what.

    Attributes:
        source: the ONNX file that was read.
        flags: builder flags that were set; precision flags only where the version is not strongly typed.
        notes: what was asked for and this version lacks.
        timing_cache: digest of the kept measurements after the build; empty where none were kept.
    """

    version: str
    gpu: str
    precision: str
    source: str
    strongly_typed: bool
    flags: tuple[str, ...]
    seconds: float
    layers: int
    notes: tuple[str, ...]
    settings: BuildSettings
    timing_cache: str = ""


class _Built(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    source: str
    strongly_typed: bool
    flags: tuple[str, ...]
    seconds: float
    layers: int
    notes: tuple[str, ...]


class _Failed(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    messages: tuple[str, ...]


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    built: _Built | None
    failed: _Failed | None


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """``edgeseg.trt.worker.Job``."""

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
    profiles: dict[str, list[tuple[int, ...]]]


def build_engine(
    files: OnnxFiles,
    precision: str,
    engine: Path,
    *,
    driver: CudaDriver,
    python: TrtPython,
    settings: BuildSettings,
    log: Path,
) -> BuildRecord:
    """Build ``engine`` for the first GPU; the engine inspector's JSON is written beside it (``.layers.json``).

    Args:
        precision: "int8", "fp16" or "fp32".
        log: gets everything TensorRT says; appended to.

    Raises:
        StageError: the parser refused the file (its messages are kept), memory ran out, the build failed or crashed.
        StageTimeout: it took longer than the settings allow.
    """
    gpu = driver.gpus[0]
    cache = _cache_file(settings.timing_cache, python.version, gpu.name)
    job = _Job(
        weak=str(files.weak.resolve()),
        typed=str(files.typed.resolve()),
        engine=str(engine.resolve()),
        inspector=str(engine.with_suffix(".layers.json").resolve()),
        precision=precision,
        workspace_mib=settings.workspace_mib,
        level=settings.level,
        timing_cache=str(cache.resolve()) if cache else "",
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible,
        tf32=settings.tf32,
        external_tactics=settings.external_tactics,
        profiles=_profiles(files, settings),
    )
    with tempfile.TemporaryDirectory(prefix="edgeseg-trt-") as folder:
        job_path, reply_path = Path(folder) / "job.json", Path(folder) / "reply.json"
        job_path.write_bytes(msgspec.json.encode(job))
        status = _run([python.executable, str(WORKER), "build", str(job_path), str(reply_path)], log, settings.time_limit_s)
        if not reply_path.is_file():
            raise _crashed(status, log)
        reply = msgspec.json.decode(reply_path.read_bytes(), type=_Reply)
    if reply.built is None:
        raise _failure(reply.failed, files, settings, log)
    built = reply.built
    return BuildRecord(
        version=built.version,
        gpu=gpu.name,
        precision=precision,
        source=built.source,
        strongly_typed=built.strongly_typed,
        flags=built.flags,
        seconds=built.seconds,
        layers=built.layers,
        notes=built.notes,
        settings=settings,
        timing_cache=digest_file(cache) if cache and cache.is_file() else "",
    )


def _cache_file(folder: Path | None, version: str, gpu: str) -> Path | None:
    """Measurements hold for one GPU model and one version."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"timing-{version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.cache"


def _profiles(files: OnnxFiles, settings: BuildSettings) -> dict[str, list[tuple[int, ...]]]:
    if not settings.dynamic and settings.sizes is None:
        return {}
    return {files.input_name: list(settings.shapes(files.input_shape))}


def _run(command: list[str], log: Path, limit_s: float) -> int:
    """Run to the end or the limit, in a session of its own, of which nothing outlives this call. Gives the exit status."""
    with log.open("ab") as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise StageTimeout(
                f"building the engine was ended after {limit_s:g} s, its time limit.",
                hint=f"Give it more time, or a lower optimisation level. TensorRT's log: {log}",
                stage=_STAGE,
            ) from error
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _failure(failed: _Failed | None, files: OnnxFiles, settings: BuildSettings, log: Path) -> StageError:
    messages = " / ".join(failed.messages) if failed else "it gave no reason"
    kind = failed.kind if failed else "build"
    if kind == "parser":
        return StageError(
            f"NVIDIA's parser refuses {files.weak.name}: {messages}",
            hint=f"'edgeseg check-trt {files.weak.name}' names the operators that break a known rule. TensorRT's log: {log}",
            stage=_STAGE,
        )
    if kind == "memory":
        return StageError(
            f"memory ran out while the engine was built (workspace {settings.workspace_mib} MiB): {messages}",
            hint="End other programs on the GPU, or build with a smaller workspace or batch.",
            stage=_STAGE,
        )
    return StageError(f"TensorRT cannot build the engine: {messages}", hint=f"TensorRT's log: {log}", stage=_STAGE)


def _crashed(status: int, log: Path) -> StageError:
    how = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"left with exit code {status}"
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    words = " / ".join(line.strip()[:300] for line in lines[-_LOG_LINES:])
    return StageError(
        f"the process that builds {how} and left no engine. Last words: {words or 'none'}",
        hint=f"TensorRT's log: {log}",
        stage=_STAGE,
    )
