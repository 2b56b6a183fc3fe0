"""Keeping other libraries' chatter off the user's terminal, and at hand for an error message."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator

__all__ = ["captured_python", "captured_stderr", "captured_stdout"]


@contextlib.contextmanager
def captured_python(*loggers: str) -> Iterator[io.StringIO]:
    """Collect what Python code prints, warns, and logs to ``loggers``. Deprecations of code that is not ours are dropped."""
    buffer = io.StringIO()
    handler = logging.StreamHandler(buffer)
    chosen = [logging.getLogger(name) for name in loggers]
    before = [(logger.handlers, logger.propagate) for logger in chosen]
    for logger in chosen:
        logger.handlers, logger.propagate = [handler], False
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(buffer),
            contextlib.redirect_stderr(buffer),
        ):
            warnings.simplefilter("always")
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield buffer
        buffer.writelines(f"{warning.category.__name__}: {warning.message}\n" for warning in caught)
    finally:
        for logger, (handlers, propagate) in zip(chosen, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Collect what native code writes to file descriptor 2; the function given returns it so far. Not for use by threads."""
    sys.stderr.flush()
    with _captured(2) as so_far:
        try:
            yield so_far
        finally:
            sys.stderr.flush()


@contextlib.contextmanager
def captured_stdout() -> Iterator[Callable[[], str]]:
    """As ``captured_stderr`` for file descriptor 1, which ``--json`` promises to one document."""
    sys.stdout.flush()
    _flush_native()
    with _captured(1) as so_far:
        try:
            yield so_far
        finally:
            sys.stdout.flush()
            _flush_native()


@contextlib.contextmanager
def _captured(descriptor: int) -> Iterator[Callable[[], str]]:
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), descriptor)

        def so_far() -> str:
            size = os.fstat(sink.fileno()).st_size
            return os.pread(sink.fileno(), size, 0).decode("utf-8", "replace")

        try:
            yield so_far
        finally:
            os.dup2(saved, descriptor)
            os.close(saved)


def _flush_native() -> None:
    """C++ holds back what it prints to a file or pipe, until exit if nobody asks: it would come out after the capture."""
    import ctypes

    ctypes.CDLL(None).fflush(None)
