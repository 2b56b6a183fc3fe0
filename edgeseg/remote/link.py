"""A connection to edgeseg on another machine, through the system's ssh client."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Generic, Self, TypeVar

import msgspec

from edgeseg import __version__
from edgeseg.bench.device import Device
from edgeseg.errors import EnvironmentLack
from edgeseg.remote.protocol import Hello

__all__ = ["Link", "RemoteOptions", "pack"]

_VARIABLE = "EDGESEG_SSH"
_CONNECT_S = 15
_PARTING_S = 5.0
_GREETING_LINES = 200  # what a login shell may print before our own first line

Said = TypeVar("Said", bound=msgspec.Struct)


@dataclass(frozen=True)
class RemoteOptions:
    """``python``: the interpreter there that has edgeseg. ``limit_s``: the command there is ended after so many seconds."""

    python: str = "python3"
    limit_s: float = 1800.0


class _Cut(Exception):
    """The connection ended before the answer."""


class Link(Generic[Said]):
    """``python -m MODULE`` at the other end, greeted and of this version, until it is closed.

    ssh asks for nothing: keys, ports and jumps come from its own configuration. The environment variable ``EDGESEG_SSH`` names
    another client or adds options (``ssh -F other_config``), as ``GIT_SSH_COMMAND`` does for git.

    Args:
        module: what speaks at the other end.
        answers: reads what it answers with, a union of tagged structs.

    Raises:
        EnvironmentLack: no ssh client, the machine cannot be reached or refuses the key, or has no edgeseg of this version.
    """

    def __init__(self, device: Device, options: RemoteOptions, module: str, answers: msgspec.json.Decoder[Said]) -> None:
        self.device = device
        self._options = options
        self._decoder = answers
        self._greeted = False
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the connection
        self._process = self._start(module)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _start(self, module: str) -> subprocess.Popen[bytes]:
        client = shlex.split(os.environ.get(_VARIABLE, "ssh"))
        if not client or shutil.which(client[0]) is None:
            self._said.close()
            raise EnvironmentLack(f"There is no ssh client '{' '.join(client)}' here.", hint="Install OpenSSH's client.")
        device = self.device
        target = [f"{device.user}@{device.host}" if device.user else device.host]
        port = ["-p", str(device.port)] if device.port else []
        alive = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ServerAliveInterval=15"]
        command = f"{shlex.quote(self._options.python)} -m {module}"
        return subprocess.Popen(
            [*client, *alive, *port, *target, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )

    def _greet(self) -> None:
        with self._told(), self._limited(2 * _CONNECT_S):
            hello = _hello(self._out)
        self._greeted = True
        if hello.edgeseg != __version__:
            raise EnvironmentLack(
                f"There is edgeseg {hello.edgeseg} on the other machine and {__version__} here; their results do not compare.",
                hint=f"Install the same version there: {self._options.python} -m pip install edgeseg=={__version__}",
            )

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def send(self, message: msgspec.Struct, *contents: bytes | memoryview) -> None:
        """A line, then bytes."""
        assert self._process.stdin is not None
        with self._told():
            try:
                self._process.stdin.write(msgspec.json.encode(message) + b"\n")
                for content in contents:
                    self._process.stdin.write(content)
                self._process.stdin.flush()
            except BrokenPipeError as error:
                raise _Cut from error

    def receive(self, limit_s: float) -> tuple[Said, bytes]:
        """The next answer and the bytes that follow it, as many as its field ``bytes`` says. After ``limit_s`` the connection is
        cut."""
        with self._told(), self._limited(limit_s):
            line = self._out.readline()
            if not line.endswith(b"\n"):
                raise _Cut
            answer = self._decoder.decode(line)
            count = getattr(answer, "bytes", 0)
            content = self._out.read(count)
            if len(content) < count:
                raise _Cut
        return answer, content

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns a cut into the error that says why."""
        try:
            yield
        except _Cut as cut:
            self._process.wait()
            self._said.seek(0)
            said = self._said.read().decode("utf-8", "replace")
            raise _why(self.device, self._options, self._process.returncode, said, self._greeted) from cut

    def close(self) -> None:
        """End the connection, and with it what runs there; the far end is given a moment to remove what it was sent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            _close(self._process.stdin)
        try:
            self._process.wait(_PARTING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _hello(stream: IO[bytes]) -> Hello:
    for _ in range(_GREETING_LINES):
        line = stream.readline()
        if not line:
            break
        if line.startswith(b'{"type":"hello"'):
            return msgspec.json.decode(line, type=Hello)
    raise _Cut


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # the other end has gone; there is nobody to tell


def pack(files: Mapping[str, Path]) -> bytes:
    """A tar archive in memory of files by their place there, without owners; a folder is packed whole."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name, path in files.items():
            archive.add(path, name, filter=anonymous)
    return buffer.getvalue()


def _why(device: Device, options: RemoteOptions, code: int, said: str, greeted: bool) -> EnvironmentLack:
    """The one error for a connection that did not bring an answer, by what ssh and the other machine said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = (lines or ["it said nothing"])[-1]
    where, python = device.text, options.python
    if "Permission denied" in said:
        return EnvironmentLack(
            f"{where} refuses the login: {last}",
            hint="edgeseg asks for no password: set up a key (ssh-copy-id) and try it with ssh -o BatchMode=yes.",
        )
    if "Host key verification failed" in said:
        return EnvironmentLack(
            f"The host key of {where} is not known here, or has changed.",
            hint="Connect once by hand with ssh and compare the key.",
        )
    if greeted:
        return EnvironmentLack(f"The connection to {where} broke during the run: {last}", hint="Try again.")
    if "No module named" in said and "edgeseg" in said:
        return EnvironmentLack(
            f"{python} on {where} has no edgeseg that can be run from another machine: {last}",
            hint=f"There: {python} -m pip install 'edgeseg[tflite]=={__version__}'. Or name its Python with --remote-python.",
        )
    if "No module named" in said:
        return EnvironmentLack(
            f"edgeseg on {where} lacks a package: {last}",
            hint=f"There: {python} -m pip install 'edgeseg[tflite]=={__version__}'. Or name its Python with --remote-python.",
        )
    if code == 127 or "not found" in said or "No such file" in said:
        return EnvironmentLack(
            f"There is no '{python}' on {where}: {last}", hint="Name a Python that has edgeseg: --remote-python."
        )
    return EnvironmentLack(f"{where} cannot be reached: {last}", hint="Try the same host with ssh by hand.")
