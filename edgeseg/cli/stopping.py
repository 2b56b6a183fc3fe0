"""Ctrl-C is never lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is code that a C extension runs (the start of a
library, a callback), the extension prints or drops it, and the work goes on as if nothing had been asked; it was seen with
exporters. So the signal is also remembered, and every step that tells its progress asks.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = ["check_stopped", "leave", "listen"]

_asked: list[int] = []


def listen() -> None:
    """From now on Ctrl-C is remembered, as well as raised."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # `nohup` and `&` of some shells ask for that
        signal.signal(signal.SIGINT, _remember)


def _remember(number: int, frame: FrameType | None) -> None:
    del frame
    _asked.append(number)
    raise KeyboardInterrupt


def check_stopped() -> None:
    """Raise KeyboardInterrupt where Ctrl-C was pressed."""
    if _asked:
        raise KeyboardInterrupt


def leave() -> NoReturn:
    """End the process with 130, after everything was cleaned up.

    Not by sys.exit: where an extension printed the interrupt, Python would end the process by the signal instead, and whoever
    started it would see another code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
