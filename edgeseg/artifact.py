"""The artifact: a folder with the file to ship, its manifest and the log, written whole or not at all.

::

    build/espnet-tflite-int8/
      model.tflite          the file to ship
      manifest.json         what it is, where it comes from, how it was checked (``Manifest``)
      quantization.json     INT8 only: the plan that was carried out (``edgeseg.quantize.plan.QuantPlan``)
      weights.npz           the plan's learned weights, where there are any (``edgeseg.quantize.learned``)
      compile.log           what the tools said
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edgeseg.errors import ArtifactError, OutputError
from edgeseg.graph import Format, Graph, digest_file
from edgeseg.head import HeadRecord
from edgeseg.session import TensorInfo
from edgeseg.spec import ModelSpec

__all__ = [
    "MANIFEST_SCHEMA",
    "AgreementRecord",
    "Artifact",
    "CalibrationRecord",
    "FileRecord",
    "FloatOperator",
    "Int8Record",
    "Manifest",
    "ParetoPoint",
    "SourceRecord",
    "SpeedRecord",
    "StageRecord",
    "check_replaceable",
    "file_record",
    "install",
    "load_artifact",
    "staging",
]

MANIFEST_SCHEMA = 1

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class AgreementRecord(_Record, frozen=True, kw_only=True):
    """A stage's output against the output of ``against`` on the first ``images`` calibration images.

    ``snr_db``: 10 log10(signal power / error power) over all logits. ``argmax``: share of pixels with the same decision, 0..1.
    """

    against: str
    images: int
    snr_db: float
    max_abs: float
    argmax: float


class SpeedRecord(_Record, frozen=True, kw_only=True):
    """INT8 against the best float file of the same runtime, in turn, on the machine that compiled.

    Attributes:
        against: the float target.
        ratios: time of INT8 over time of float, with one thread and, where there are cores for it, two.
        vetoed: INT8 is not faster with one of the two.
        causes: what keeps it from being faster, the dearest first.
        better: the target that serves better here, where vetoed.
    """

    against: str
    ratios: tuple[float, ...]
    vetoed: bool
    causes: tuple[str, ...] = ()
    better: str | None = None


class StageRecord(_Record, frozen=True, kw_only=True):
    """One stage of the chain. ``peak_mb``: highest resident memory, MiB, of the process that did the work so far."""

    name: str
    seconds: float
    peak_mb: float
    notes: tuple[str, ...] = ()
    agreement: AgreementRecord | None = None
    speed: SpeedRecord | None = None


class FloatOperator(_Record, frozen=True, kw_only=True):
    """Operators of one kind that run in float, and why."""

    kind: str
    count: int
    why: str


class Int8Record(_Record, frozen=True, kw_only=True):
    """Counted on the file that ships. ``mac_share``: share of all multiply-adds that run on 8-bit operands, 0..1."""

    int8_operators: int
    float_operators: int
    conversions: int
    mac_share: float
    float_kinds: tuple[FloatOperator, ...] = ()


class ParetoPoint(_Record, frozen=True, kw_only=True):
    """A mixture of int8 and float that no other one tried beats in both time and loss.

    ``time_ratio``: of the float file's time, one thread; ``measured`` on the runtime, or predicted from operators' times.
    ``drop``: expected loss of mIoU, points.
    """

    name: str
    time_ratio: float
    measured: bool
    drop: float
    chosen: bool = False


class SourceRecord(_Record, frozen=True, kw_only=True):
    """The model that was compiled. ``path``: where it was; ``base``: the folder that the spec's relative paths refer to."""

    file: str
    digest: str
    kind: str
    path: str
    base: str
    factory: str | None = None
    output_name: str | None = None


class CalibrationRecord(_Record, frozen=True, kw_only=True):
    """``digest`` is over the bytes of exactly the images that were used, in order."""

    images: int
    seed: int
    digest: str


class FileRecord(_Record, frozen=True, kw_only=True):
    name: str
    digest: str
    bytes: int


class _Header(msgspec.Struct, frozen=True):
    """What every schema of the manifest has."""

    schema: int


class Manifest(_Record, frozen=True, kw_only=True):
    """``files`` lists everything in the folder but the manifest; the first is the one to ship.

    ``pixels``: the file takes raw pixels (0..255) and normalises inside; otherwise it takes normalised values.
    ``head``: what it gives in place of the model's logits. ``pareto``: what a search had to choose from, fastest first; another
    ``--budget`` gives another one of them.
    """

    schema: int = MANIFEST_SCHEMA
    name: str
    target: str
    spec: ModelSpec
    source: SourceRecord
    files: tuple[FileRecord, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    pixels: bool
    stages: tuple[StageRecord, ...]
    versions: dict[str, str]
    command: tuple[str, ...]
    created: str
    calibration: CalibrationRecord | None = None
    int8: Int8Record | None = None
    status: str = ""
    settings: dict[str, str] = {}
    head: HeadRecord | None = None
    pareto: tuple[ParetoPoint, ...] = ()

    @property
    def speed(self) -> SpeedRecord | None:
        """INT8 against float where the file was compiled; None where it was not measured (float files, other processors)."""
        return next((stage.speed for stage in reversed(self.stages) if stage.speed is not None), None)

    def graph(self, path: Path) -> Graph:
        """The file to ship, at ``path``, as something that can be opened."""
        return Graph(path, Format(path.suffix[1:]), self.files[0].digest, self.pixels, self.head)


@dataclass(frozen=True)
class Artifact:
    """A folder whose bytes match its manifest."""

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The file to ship."""
        return self.path / self.manifest.files[0].name


def file_record(path: Path) -> FileRecord:
    """Name, digest and size of a file."""
    return FileRecord(name=path.name, digest=digest_file(path), bytes=path.stat().st_size)


def load_artifact(path: str | Path) -> Artifact:
    """Open an artifact folder and verify every file in it against the manifest.

    Raises:
        ArtifactError: not an artifact folder, an unknown schema, a file missing or altered.
    """
    folder = Path(path)
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise ArtifactError(
            f"'{folder}' is not an artifact: it has no manifest.json.",
            hint="Give the folder that 'edgeseg compile' wrote (build/<model>-<target>).",
        )
    again = "Compile the model again; do not edit files inside an artifact."
    try:
        content = manifest_path.read_bytes()
        schema = msgspec.json.decode(content, type=_Header).schema
        # Before the rest: another schema may have other fields.
        if schema != MANIFEST_SCHEMA:
            raise ArtifactError(
                f"'{manifest_path}' has schema {schema}; this edgeseg reads schema {MANIFEST_SCHEMA}.",
                hint="Use the edgeseg that wrote it (its version is in the manifest), or compile the model again.",
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"'{manifest_path}' cannot be read: {error}.", hint=again) from error
    if not manifest.files:
        raise ArtifactError(f"'{manifest_path}' names no file to ship.", hint=again)
    for record in manifest.files:
        if record.name in {"", ".", ".."} or Path(record.name).name != record.name:
            raise ArtifactError(f"'{manifest_path}' names a file outside its folder: '{record.name}'.", hint=again)
        member = folder / record.name
        if not member.is_file():
            raise ArtifactError(f"'{folder}' is incomplete: {record.name} is missing.", hint=again)
        if digest_file(member) != record.digest:
            raise ArtifactError(f"'{member}' was altered: its digest does not match the manifest.", hint=again)
    return Artifact(folder, manifest)


@contextlib.contextmanager
def staging(destination: Path) -> Iterator[Path]:
    """A new folder (an absolute path) beside ``destination`` to work in; removed on leaving unless ``install`` moved it away.

    What killed processes left behind beside the same destination is removed first.

    Raises:
        OutputError: the place cannot be written, or the disk fills while the block runs.
    """
    parent = destination.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        work = parent.resolve() / f".{destination.name}.partial-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    except OSError as error:
        raise _cannot_write(destination, error) from error
    try:
        yield work
    except OSError as error:
        raise _cannot_write(destination, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _cannot_write(destination: Path, error: OSError) -> OutputError:
    reason = "a file is where a folder is needed" if isinstance(error, FileExistsError) else error.strerror or str(error)
    return OutputError(
        f"Could not write '{destination}': {reason} ({error.filename or destination}).",
        hint="Choose another place with --output, free some disk space, or change the folder's permissions.",
    )


def _sweep(destination: Path) -> None:
    """Remove what processes that were killed left beside ``destination``."""
    for stale in destination.parent.iterdir():
        left_by = re.fullmatch(rf"\.{re.escape(destination.name)}\.(partial|old)-(\d+)", stale.name)
        if left_by is None or psutil.pid_exists(int(left_by[2])):
            continue
        if left_by[1] == "old" and not destination.exists():
            stale.rename(destination)  # killed between the two renames of ``install``
        else:
            shutil.rmtree(stale, ignore_errors=True)


def check_replaceable(destination: Path) -> None:
    """Refuse to overwrite anything that is not an artifact, before any work is done.

    Raises:
        OutputError: ``destination`` exists and is neither an empty folder nor an artifact, or it is the current folder.
    """
    try:
        if not destination.exists():
            return
        is_artifact = destination.is_dir() and ((destination / "manifest.json").is_file() or not any(destination.iterdir()))
    except OSError as error:
        raise _cannot_write(destination, error) from error
    if not is_artifact:
        raise OutputError(
            f"'{destination}' exists and is not an artifact, so it is not overwritten.",
            hint="Choose another place with --output, or remove it yourself.",
        )
    if Path.cwd().is_relative_to(destination.resolve()):
        raise OutputError(
            f"'{destination}' is the current folder or above it, which cannot be replaced.",
            hint="Name a folder inside it: --output result",
        )


def install(work: Path, destination: Path, manifest: Manifest) -> Artifact:
    """Write the manifest into ``work`` and move the whole folder to ``destination`` by renaming, so that no moment shows half
    an artifact; an older artifact there is replaced. Of two compiles at once the later one stays.

    Raises:
        OutputError: ``destination`` holds something else by now.
        OSError: the disk is full or the place cannot be written; ``destination`` is as before.
    """
    check_replaceable(destination)
    target = work / "manifest.json"
    target.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    for member in work.iterdir():
        with member.open("rb") as stream:
            os.fsync(stream.fileno())
    old = destination.parent / f".{destination.name}.old-{os.getpid()}"
    while True:
        with contextlib.suppress(FileNotFoundError):
            destination.rename(old)
        try:
            work.rename(destination)
            break
        except OSError as error:
            if error.errno in _TAKEN:  # another compile put its artifact there between the two renames: replace that one too
                shutil.rmtree(old, ignore_errors=True)
                continue
            if old.exists():
                old.rename(destination)
            raise
    shutil.rmtree(old, ignore_errors=True)
    return Artifact(destination, manifest)
