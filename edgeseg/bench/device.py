"""Where a benchmark runs: this machine's CPU or GPU, or another machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from edgeseg.errors import UsageError

__all__ = ["CPU", "Device", "DeviceKind", "parse_device"]


class DeviceKind(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    SSH = "ssh"
    ADB = "adb"


@dataclass(frozen=True)
class Device:
    """Attributes:
    index: of the GPU.
    host, user, port: of a machine that is reached by ssh; None where ssh's own configuration decides.
    serial: of an Android device; None for the only one.
    """

    kind: DeviceKind
    index: int = 0
    host: str = ""
    user: str | None = None
    port: int | None = None
    serial: str | None = None

    @property
    def text(self) -> str:
        """As it is written on the command line."""
        if self.kind is DeviceKind.CUDA:
            return f"cuda:{self.index}" if self.index else "cuda"
        if self.kind is DeviceKind.SSH:
            return f"ssh://{f'{self.user}@' if self.user else ''}{self.host}{f':{self.port}' if self.port else ''}"
        if self.kind is DeviceKind.ADB:
            return f"adb:{self.serial}" if self.serial else "adb"
        return "cpu"


CPU = Device(DeviceKind.CPU)
# A host or user that begins with a dash would be read as an option by ssh.
_SSH = re.compile(r"ssh://(?:([\w.][\w.\-]*)@)?([\w.][\w.\-]*|\[[0-9a-fA-F:]+\])(?::(\d{1,5}))?/?")


def parse_device(text: str) -> Device:
    """``cpu``, ``cuda``, ``cuda:1``, ``ssh://user@host:port``, ``adb`` or ``adb:SERIAL``.

    Raises:
        UsageError: none of these.

    >>> parse_device("ssh://pi@raspberry:2222")
    Device(kind=<DeviceKind.SSH: 'ssh'>, index=0, host='raspberry', user='pi', port=2222, serial=None)
    >>> parse_device("cuda:1").index
    1
    """
    if text == "cpu":
        return CPU
    if found := re.fullmatch(r"cuda(?::(\d+))?", text):
        return Device(DeviceKind.CUDA, index=int(found[1] or 0))
    if found := _SSH.fullmatch(text):
        user, host, port = found.groups()
        return Device(DeviceKind.SSH, user=user, host=host, port=int(port) if port else None)
    if found := re.fullmatch(r"adb(?::([\w.:\-]+))?", text):
        return Device(DeviceKind.ADB, serial=found[1])
    near = get_close_matches(text, ["cpu", "cuda", "adb"], n=1)
    raise UsageError(
        f"'{text}' is not a device.",
        hint=f"Did you mean '{near[0]}'?" if near else "There are cpu, cuda, cuda:1, ssh://user@host:port, adb and adb:SERIAL.",
    )
