"""One heavy or crash-prone function in a process of its own.

The child is a fresh interpreter (``python -m edgeseg.isolate``) that gets its payload and gives its result as JSON files.
What it prints goes to a log. Whatever it does, leaving with ``sys.exit``, crashing, hanging or being killed for want of
memory, becomes one ``StageError`` here, and none of its own children outlive it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, get_type_hints

import msgspec

from edgeseg.errors import StageError, StageTimeout
from edgeseg.resident import peak_bytes

__all__ = ["Isolated", "run_isolated"]

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal a process gets when its parent ends
_LOG_LINES = 5


@dataclass(frozen=True)
class Isolated(Generic[T]):
    """``peak_mb``: the child's largest resident set, in MiB."""

    value: T
    seconds: float
    peak_mb: float


class _Reply(msgspec.Struct, frozen=True):
    """What the child writes: the encoded value and its peak memory, or what it raised."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    peak_bytes: int = 0


def run_isolated(
    function: str,
    payload: msgspec.Struct,
    result_type: type[T],
    *,
    stage: str,
    time_limit_s: float,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Isolated[T]:
    """Call ``function`` with ``payload`` in a child process and return what it returns.

    Args:
        function: ``package.module:function``; its one parameter is annotated with the payload's type.
        result_type: what it returns; anything msgspec encodes as JSON.
        stage: the stage's name, for errors.
        time_limit_s: after this the child and all its own children are killed.
        log: gets everything that the child prints; appended to.
        cwd: the child's working folder.
        env: environment variables besides the inherited ones.

    Raises:
        StageTimeout: the time limit was reached.
        StageError: the function raised, or the child ended in any way without a result.
    """
    with tempfile.TemporaryDirectory(prefix="edgeseg-isolate-") as folder:
        task, reply = Path(folder) / "task.json", Path(folder) / "reply.json"
        task.write_bytes(msgspec.json.encode(payload))
        command = [sys.executable, "-P", "-m", "edgeseg.isolate", function, str(task), str(reply), str(os.getpid())]
        started = time.monotonic()
        with log.open("ab") as sink:
            position = sink.tell()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": _import_path(), "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )
            status, timed_out = _wait(child, time_limit_s)
        seconds = time.monotonic() - started
        if timed_out:
            raise StageTimeout(
                f"it was ended after {time_limit_s:g} s, its time limit.{_ending(log, position)}",
                hint=f"Give it more time (--lowering-limit). Its whole log: {log}",
                stage=stage,
            )
        answer = msgspec.json.decode(reply.read_bytes(), type=_Reply) if reply.is_file() else None
        if answer is None or answer.error or status != 0:
            what = answer.error if answer and answer.error else _death(status)
            raise StageError(f"{what}{_ending(log, position)}", hint=f"Its whole log: {log}", stage=stage)
        return Isolated(msgspec.json.decode(answer.value, type=result_type), seconds, answer.peak_bytes / 2**20)


def _import_path() -> str:
    """The parent's import path, so that the child finds the same modules from another working folder."""
    return os.pathsep.join(dict.fromkeys(str(Path(entry or ".").resolve()) for entry in sys.path))


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> tuple[int, bool]:
    """Wait for the child: its status (negative for a signal), and whether it had to be killed."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_group(child.pid)

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        _, raw = os.waitpid(child.pid, 0)
    except BaseException:  # Ctrl-C here must not leave the child running
        _kill_group(child.pid)
        os.waitpid(child.pid, 0)
        child.returncode = -signal.SIGKILL
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(raw)  # it has been reaped: subprocess must not wait for it again
    _kill_group(child.pid)  # its own children, if it left any
    return child.returncode, expired.is_set()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "its process was killed from outside, most likely because memory ran out."
    if status < 0:
        return f"its process crashed ({signal.Signals(-status).name})."
    return f"its process left with exit code {status} and no result."


def _ending(log: Path, position: int) -> str:
    """The last lines of the log that look like an error, else the last lines."""
    with log.open("rb") as stream:
        stream.seek(position)
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() and not line.startswith("File ")]
    chosen = telling[-2:] or lines[-_LOG_LINES:]
    return f" Last words: {' / '.join(line[:300] for line in chosen)}" if chosen else ""


def _die_with_parent(parent: int) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def main(function: str, task: Path, reply: Path, parent: int) -> None:
    """The child: decode, call, encode."""
    _die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = function.partition(":")
    try:
        target = getattr(importlib.import_module(module), name)
        parameters = {key: kind for key, kind in get_type_hints(target).items() if key != "return"}
        payload = msgspec.json.decode(task.read_bytes(), type=next(iter(parameters.values())))
        value = msgspec.Raw(msgspec.json.encode(target(payload)))
        answer = _Reply(value=value, peak_bytes=peak_bytes())
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        traceback.print_exc()
        answer = _Reply(error=f"{type(error).__name__}: {error}")
    finished = reply.with_suffix(".part")
    finished.write_bytes(msgspec.json.encode(answer))
    finished.rename(reply)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
