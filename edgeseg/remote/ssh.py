"""The near end of ``--device ssh://`` for a whole command: an order goes there, its samples and its output come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edgeseg.bench.device import Device
from edgeseg.errors import CheckFailed, EdgesegError, EnvironmentLack, ModelError, UsageError
from edgeseg.remote.link import Link, RemoteOptions, pack
from edgeseg.remote.protocol import Done, Order, Piece

__all__ = ["ERRORS", "RemoteOptions", "run_there"]

ERRORS: Mapping[int, type[EdgesegError]] = {2: UsageError, 3: CheckFailed, 4: EnvironmentLack}
"""The error here for an exit code there; ModelError for every other."""

_GRACE_S = 30  # the far end keeps its own limit; this much more is for a connection that hangs


def run_there(
    device: Device,
    files: Mapping[str, Path],
    arguments: Sequence[str],
    options: RemoteOptions,
    received: Callable[[str, bytes], None] = lambda _name, _piece: None,
) -> bytes:
    """Send files, run ``edgeseg ARGUMENTS`` beside them, and give its standard output. Nothing stays there.

    Args:
        files: by their place there, relative to the folder that the command is run in; a folder is sent whole.
        received: called with a journal's name and the bytes that were appended to it.

    Raises:
        EnvironmentLack: the machine cannot be used; see ``edgeseg.remote.link.Link``.
        ModelError, UsageError, CheckFailed, EnvironmentLack: the command failed there; what it said.
    """
    answers: msgspec.json.Decoder[Piece | Done] = msgspec.json.Decoder(Piece | Done)
    with Link(device, options, "edgeseg.remote.runner", answers) as link:
        archive = pack(files)
        link.send(Order(arguments=tuple(arguments), bytes=len(archive), limit_s=options.limit_s), archive)
        end = time.monotonic() + options.limit_s + _GRACE_S
        answer, content = link.receive(end - time.monotonic())
        while isinstance(answer, Piece):
            received(answer.name, content)
            answer, content = link.receive(end - time.monotonic())
    if answer.code == 0:
        return content
    if answer.code is None:
        raise EnvironmentLack(
            f"The benchmark on {device.text} did not end within {options.limit_s:.0f} s.",
            hint="Raise --limit, lower --budget, or give fewer files.",
        )
    words = " ".join(answer.said.removeprefix("edgeseg: ").split()) or f"it ended with {answer.code} and said nothing"
    raise ERRORS.get(answer.code, ModelError)(f"On {device.text}: {words}", hint="")
