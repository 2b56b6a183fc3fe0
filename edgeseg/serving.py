"""The far end of a ``RemoteSession``: ``python -m edgeseg.serving``, started by ssh; never by hand.

Takes one file by standard input, opens it as every verb does, and runs it for each input that comes. What it was sent goes when the
connection ends.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from edgeseg import __version__
from edgeseg.errors import EdgesegError
from edgeseg.remote.protocol import Hello, Logits, Open, Opened, Refused, Run
from edgeseg.session import ModelInput, Session, infer
from edgeseg.subject import LoadOptions, open_subject

__all__ = ["main"]


def main() -> None:
    """Serve one file until the connection ends."""
    # Standard output carries answers and nothing else: what a runtime prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders = sys.stdin.buffer
    _send(answers, Hello(edgeseg=__version__, python=platform.python_version()))
    line = orders.readline()
    if not line:
        return
    with tempfile.TemporaryDirectory(prefix="edgeseg-") as folder:
        # What the runtime leaves in the temporary folder goes with the rest.
        tempfile.tempdir = folder
        os.environ["TMPDIR"] = folder
        try:
            _serve(msgspec.json.decode(line, type=Open), orders, answers, Path(folder))
        except EdgesegError as error:
            _send(answers, Refused(code=error.exit_code, message=error.message, hint=error.hint))
        except (BrokenPipeError, _Gone):
            return


class _Gone(Exception):
    """The connection ended in the middle of something."""


def _serve(order: Open, orders: IO[bytes], answers: IO[bytes], root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_read(orders, order.bytes))) as archive:
        archive.extractall(root, filter="data")
    load = LoadOptions(output_name=order.output_name, pixels=order.pixels)
    subject = open_subject(root / order.subject, root / order.spec if order.spec is not None else None, load)
    with subject.open(order.threads) as session:
        _send(answers, Opened(info=session.info))
        while line := orders.readline():
            run = msgspec.json.decode(line, type=Run)
            _run(run, orders, answers, session)


def _run(run: Run, orders: IO[bytes], answers: IO[bytes], session: Session) -> None:
    pixels = np.frombuffer(_read(orders, int(np.prod(run.pixels))), np.uint8).reshape(run.pixels)
    values = np.frombuffer(_read(orders, 4 * int(np.prod(run.values))), "<f4").astype(np.float32).reshape(run.values)
    logits = np.ascontiguousarray(infer(session, ModelInput(pixels, values)), "<f4")
    _send(answers, Logits(shape=logits.shape, bytes=logits.nbytes), logits.tobytes())


def _read(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise _Gone
    return content


def _send(stream: IO[bytes], message: msgspec.Struct, content: bytes = b"") -> None:
    stream.write(msgspec.json.encode(message) + b"\n" + content)
    stream.flush()


if __name__ == "__main__":
    main()
