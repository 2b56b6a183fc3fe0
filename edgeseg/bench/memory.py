"""Peak memory of one candidate, in a process of its own: nothing else has raised the peak there.

Run as ``python -m edgeseg.bench.memory``: reads a pickled (open, input) from standard input, writes JSON to standard output.
Only :func:`measure_memory` talks to it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable

import msgspec
import psutil

from edgeseg.errors import ModelError, UsageError
from edgeseg.resident import peak_bytes
from edgeseg.session import ModelInput, Session, infer

__all__ = ["MemoryUse", "measure_memory"]


class MemoryUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Resident memory in bytes of a fresh process.

    Attributes:
        interpreter: before the session is opened (Python, numpy, edgeseg).
        loaded: after opening: the runtime's libraries and the model.
        peak: highest since the start, over opening and ``runs`` inferences.
    """

    interpreter: int
    loaded: int
    peak: int
    runs: int

    @property
    def peak_over_interpreter(self) -> int:
        """What runtime, model and inference need beyond the empty process."""
        return self.peak - self.interpreter


def measure_memory(open: Callable[[], Session], x: ModelInput, *, timeout_seconds: float = 300.0) -> MemoryUse:
    """Open the session and run it three times in a child process.

    Args:
        open: must be picklable: a module's function, or a ``functools.partial`` of one.

    Raises:
        UsageError: ``open`` cannot be pickled.
        ModelError: the child failed or ran out of time; its last line of output is in the message.
    """
    try:
        payload = pickle.dumps((open, x))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"Peak memory is measured in another process, and {open!r} cannot be sent there: {error}.",
            hint="Use a function of a module or a functools.partial of one, or measure without memory.",
        ) from error
    # The child finds modules where this process does.
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, "-m", "edgeseg.bench.memory"]
    try:
        done = subprocess.run(
            command, input=payload, capture_output=True, timeout=timeout_seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"Measuring memory did not end within {timeout_seconds:.0f} s.", hint="Measure without memory."
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ModelError(
            f"The process that measures memory ended with {done.returncode}: {lines[-1] if lines else 'no output'}.",
            hint="Check that the file opens and runs.",
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=MemoryUse)


def _child() -> None:
    open_session, x = pickle.loads(sys.stdin.buffer.read())
    process = psutil.Process()
    interpreter = process.memory_info().rss
    runs = 3
    with open_session() as session:
        loaded = process.memory_info().rss
        for _ in range(runs):
            infer(session, x)
    use = MemoryUse(interpreter=interpreter, loaded=loaded, peak=peak_bytes(), runs=runs)
    sys.stdout.write("\n" + msgspec.json.encode(use).decode() + "\n")


if __name__ == "__main__":
    _child()
