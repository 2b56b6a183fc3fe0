"""A Session whose file runs on another machine: every verb that takes Sessions works with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from edgeseg.bench.device import Device
from edgeseg.errors import ModelError
from edgeseg.remote.link import Link, RemoteOptions, pack
from edgeseg.remote.protocol import Logits, Open, Opened, Refused, Run
from edgeseg.remote.ssh import ERRORS
from edgeseg.session import Float32, ModelInput, SessionInfo

__all__ = ["RemoteSession"]


class RemoteSession:
    """Implements ``edgeseg.session.Session``; what crosses the network is the prepared input and the logits. ``invoke`` lasts as
    long as both ways take: for times, ``bench`` runs on the other machine as a whole.

    Args:
        files: to send, by their place there.
        order: what to open; ``bytes`` is filled in.

    Raises:
        EnvironmentLack: the machine cannot be used; see ``edgeseg.remote.link.Link``.
        EdgesegError: the file cannot be opened there; what was said there.
    """

    def __init__(self, device: Device, options: RemoteOptions, files: Mapping[str, Path], order: Open) -> None:
        self._limit_s = options.limit_s
        self._input: ModelInput | None = None
        self._logits: Float32 | None = None
        answers: msgspec.json.Decoder[Opened | Logits | Refused] = msgspec.json.Decoder(Opened | Logits | Refused)
        self._link = Link(device, options, "edgeseg.serving", answers)
        try:
            archive = pack(files)
            self._link.send(msgspec.structs.replace(order, bytes=len(archive)), archive)
            opened, _ = self._answer()
            assert isinstance(opened, Opened)
        except BaseException:
            self.close()
            raise
        self._info = replace(opened.info, device=f"{opened.info.device} of {device.text}")

    @property
    def info(self) -> SessionInfo:
        return self._info

    def feed(self, x: ModelInput) -> None:
        self._input = x

    def invoke(self) -> None:
        assert self._input is not None, "feed first"
        pixels = np.ascontiguousarray(self._input.pixels)
        values = np.ascontiguousarray(self._input.values, "<f4")
        run = Run(pixels=pixels.shape, values=values.shape)
        self._link.send(run, pixels.data.cast("B"), values.data.cast("B"))
        answer, content = self._answer()
        assert isinstance(answer, Logits)
        self._logits = np.frombuffer(content, "<f4").astype(np.float32).reshape(answer.shape)

    def fetch(self) -> Float32:
        assert self._logits is not None, "invoke first"
        return self._logits

    def _answer(self) -> tuple[Opened | Logits, bytes]:
        answer, content = self._link.receive(self._limit_s)
        if isinstance(answer, Refused):
            raise ERRORS.get(answer.code, ModelError)(f"On {self._link.device.text}: {answer.message}", hint=answer.hint)
        return answer, content

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
