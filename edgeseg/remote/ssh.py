"""The near end of ``--device ssh://``: the system's ssh client carries the order there and the answers back."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from edgeseg import __version__
from edgeseg.bench.device import Device
from edgeseg.errors import CheckFailed, EdgesegError, EnvironmentLack, ModelError, UsageError
from edgeseg.remote.protocol import Answer, Done, Hello, Order, Piece

__all__ = ["RemoteOptions", "run_there"]

_VARIABLE = "EDGESEG_SSH"
_CONNECT_S = 15
_GREETING_LINES = 200  # what a login shell may print before our own first line
_ERRORS: Mapping[int, type[EdgesegError]] = {2: UsageError, 3: CheckFailed, 4: EnvironmentLack}


@dataclass(frozen=True)
class RemoteOptions:
    """``python``: the interpreter there that has edgeseg. ``limit_s``: the command there is ended after so many seconds."""

    python: str = "python3"
    limit_s: float = 1800.0


def run_there(
    device: Device,
    files: Mapping[str, Path],
    arguments: Sequence[str],
    options: RemoteOptions,
    received: Callable[[str, bytes], None] = lambda _name, _piece: None,
) -> bytes:
    """Send files, run ``edgeseg ARGUMENTS`` beside them, and give its standard output. Nothing stays there.

    ssh asks for nothing: keys, ports and jumps come from its own configuration. The environment variable ``EDGESEG_SSH`` names
    another client or adds options (``ssh -F other_config``), as ``GIT_SSH_COMMAND`` does for git.

    Args:
        files: by their place there, relative to the folder that the command is run in; a folder is sent whole.
        received: called with a journal's name and the bytes that were appended to it.

    Raises:
        EnvironmentLack: no ssh client, the machine cannot be reached or refuses the key, or has no edgeseg of this version.
        ModelError, UsageError, CheckFailed, EnvironmentLack: the command failed there; what it said.
    """
    client = shlex.split(os.environ.get(_VARIABLE, "ssh"))
    if not client or shutil.which(client[0]) is None:
        raise EnvironmentLack(f"There is no ssh client '{' '.join(client)}' here.", hint="Install OpenSSH's client.")
    target = [f"{device.user}@{device.host}" if device.user else device.host]
    port = ["-p", str(device.port)] if device.port else []
    alive = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ServerAliveInterval=15"]
    command = f"{shlex.quote(options.python)} -m edgeseg.remote.runner"
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*client, *alive, *port, *target, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        )
        # The far end keeps its own limit; this one is for a connection that hangs.
        timer = threading.Timer(options.limit_s + 2 * _CONNECT_S, process.kill)
        timer.start()
        try:
            done, document = _talk(process, _archive(files), arguments, options, received)
        except _Cut as cut:
            process.wait()
            said.seek(0)
            raise _why(device, options, process.returncode, said.read().decode("utf-8", "replace"), cut.greeted) from cut
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    _close(stream)
    if done.code == 0:
        return document
    if done.code is None:
        raise EnvironmentLack(
            f"The benchmark on {device.text} did not end within {options.limit_s:.0f} s.",
            hint="Raise --limit, lower --budget, or give fewer files.",
        )
    words = " ".join(done.said.removeprefix("edgeseg: ").split()) or f"it ended with {done.code} and said nothing"
    raise _ERRORS.get(done.code, ModelError)(f"On {device.text}: {words}", hint="")


class _Cut(Exception):
    """The connection ended before the answer. ``greeted``: the far end had begun to speak."""

    def __init__(self, *, greeted: bool) -> None:
        super().__init__()
        self.greeted = greeted


def _talk(
    process: subprocess.Popen[bytes],
    archive: bytes,
    arguments: Sequence[str],
    options: RemoteOptions,
    received: Callable[[str, bytes], None],
) -> tuple[Done, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
    hello = _hello(process.stdout, decoder)
    if hello.edgeseg != __version__:
        raise EnvironmentLack(
            f"There is edgeseg {hello.edgeseg} on the other machine and {__version__} here; their results do not compare.",
            hint=f"Install the same version there: {options.python} -m pip install edgeseg=={__version__}",
        )
    order = Order(arguments=tuple(arguments), bytes=len(archive), limit_s=options.limit_s)
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n" + archive)
        process.stdin.flush()
    except BrokenPipeError as error:
        raise _Cut(greeted=True) from error
    while True:
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _Cut(greeted=True)
        answer = decoder.decode(line)
        assert isinstance(answer, Piece | Done)
        content = process.stdout.read(answer.bytes)
        if len(content) < answer.bytes:
            raise _Cut(greeted=True)
        if isinstance(answer, Done):
            return answer, content
        received(answer.name, content)


def _hello(stream: IO[bytes], decoder: msgspec.json.Decoder[Answer]) -> Hello:
    for _ in range(_GREETING_LINES):
        line = stream.readline()
        if not line:
            break
        if line.startswith(b'{"type":"hello"'):
            answer = decoder.decode(line)
            assert isinstance(answer, Hello)
            return answer
    raise _Cut(greeted=False)


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # the other end has gone; there is nobody to tell


def _archive(files: Mapping[str, Path]) -> bytes:
    """A tar archive in memory, without owners."""

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
