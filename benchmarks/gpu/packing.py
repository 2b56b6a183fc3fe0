"""To a GPU machine without a network and back: one archive with the code, the prepared cases and, where given, TensorRT itself.

TensorRT's files stay out of the repository: they come from the folder of chunks that the caller names.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("edgeseg", "benchmarks", "pyproject.toml", "calibration")


class Packed(Exception):
    """An archive that is not whole, or not ours."""


def pack(prepared: Path, archive: Path, *, tensorrt: Path | None = None, wheels: Path | None = None) -> str:
    """Write ``archive`` and its digest beside it. Returns the digest."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for name in CODE:
            tar.add(ROOT / name, f"code/{name}", filter=_no_caches)
        tar.add(prepared, "cases", filter=_no_caches)
        for folder, name in ((tensorrt, "tensorrt"), (wheels, "wheels")):
            if folder is not None:
                tar.add(folder, name)
    digest = _digest([archive])
    archive.with_name(f"{archive.name}.sha256").write_text(f"{digest}\n")
    return digest


def unpack(archive: Path, folder: Path) -> Path:
    """Check the digest, unpack into ``folder``, put TensorRT together where it came along; a folder is taken as unpacked already.

    Raises:
        Packed: the archive is not what was packed.
    """
    if archive.is_dir():
        folder = archive
        if (folder / "tensorrt").is_dir() and not (folder / "trt" / "python").is_file():
            join_tensorrt(folder / "tensorrt", folder / "trt")
        return folder
    noted = archive.with_name(f"{archive.name}.sha256")
    if not noted.is_file() or noted.read_text().strip() != _digest([archive]):
        raise Packed(f"{archive} is not whole: its digest is not the one in {noted.name}. Pack or copy it again.")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    if (folder / "tensorrt").is_dir():
        join_tensorrt(folder / "tensorrt", folder / "trt")
    return folder


def join_tensorrt(chunks: Path, folder: Path) -> Path:
    """Chunks ``p.*`` of a tar.xz with ``tensorrt``, ``py310`` and ``stubs`` become a folder with an executable ``python``.

    Raises:
        Packed: there are no chunks, or their digest is not the one beside them.
    """
    parts = sorted(chunks.glob("p.*"))
    noted = chunks / "sha256"
    if not parts or (noted.is_file() and noted.read_text().split()[0] != _digest(parts)):
        raise Packed(f"The TensorRT chunks in {chunks} are not whole.")
    with lzma.open(io.BufferedReader(_Joined(parts), 1 << 20)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(folder, filter="data")
    python = folder / "python"
    home = folder.resolve()
    python.write_text(
        "#!/bin/sh\n"
        f"exec env LD_LIBRARY_PATH={home}/stubs:{home}/py310/lib:$LD_LIBRARY_PATH PYTHONHOME={home}/py310 PYTHONPATH={home} "
        f'CUDA_MODULE_LOADING=LAZY {home}/py310/bin/python3.10 "$@"\n'
    )
    python.chmod(0o755)
    return python


class _Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._open: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._open is None:
                if not self._paths:
                    return 0
                self._open = self._paths.pop(0).open("rb")
            count = self._open.readinto(buffer)
            if count:
                return count
            self._open.close()
            self._open = None


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def _no_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or member.name.endswith(".pyc") else member
