"""The far end of ``--device ssh://``: ``python -m edgeseg.remote.runner``, started by ssh; never by hand.

Takes files and a command by standard input, runs it in a folder of its own, hands its samples on as they come, and removes the
folder whatever happens. When the connection breaks, standard input ends, and so does the command.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from edgeseg import __version__
from edgeseg.remote.protocol import Done, Hello, Order, Piece

_EVERY_S = 0.2
_SAID = 4000


def main() -> None:
    """Serve one order."""
    _send(Hello(edgeseg=__version__, python=platform.python_version()))
    order = msgspec.json.decode(_read_line(), type=Order)
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as folder:
        root = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(_read(order.bytes))) as archive:
            archive.extractall(root, filter="data")
        _run(order, root)


def _run(order: Order, root: Path) -> None:
    out, err, temporary = root / ".stdout", root / ".stderr", root / ".tmp"
    temporary.mkdir()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgeseg", *order.arguments],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            # What its libraries leave in the temporary folder goes with the rest.
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,
        )
        threading.Thread(target=_end_with_connection, args=(child,), daemon=True).start()
        try:
            in_time = _follow(child, root, order.limit_s)
        finally:
            _kill(child)
    document = out.read_bytes()
    said = err.read_bytes().decode("utf-8", "replace")[-_SAID:]
    _send(Done(code=child.returncode if in_time else None, bytes=len(document), said=said), document)


def _follow(child: subprocess.Popen[bytes], root: Path, limit_s: float) -> bool:
    """Hand on what is appended to the journals; whether the command ended within its limit."""
    end = time.monotonic() + limit_s
    sent: dict[str, int] = {}
    while True:
        running = child.poll() is None
        for path in sorted(root.glob("*.jsonl")):
            with path.open("rb") as stream:
                stream.seek(sent.get(path.name, 0))
                new = stream.read()
            if new:
                sent[path.name] = sent.get(path.name, 0) + len(new)
                _send(Piece(name=path.name, bytes=len(new)), new)
        if not running:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_EVERY_S)


def _end_with_connection(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 65536):
        pass
    _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The command and all that it started (peak memory is measured in a process of its own)."""
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _read_line() -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        line += _read(1)
    return bytes(line)


def _read(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            sys.exit("The connection ended before the files had come.")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(message: Hello | Piece | Done, content: bytes = b"") -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n" + content)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
