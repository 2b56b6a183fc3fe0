"""Android's debug bridge: finding the one device, files there and back, commands on it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgeseg.errors import EnvironmentLack, ModelError

__all__ = ["Adb", "open_adb"]

_VARIABLE = "EDGESEG_ADB"
_SHORT_S = 60.0


@dataclass(frozen=True)
class Adb:
    """One device. ``limit_s``: a command is given up after so many seconds."""

    client: str
    serial: str
    limit_s: float = 600.0

    def push(self, source: Path, target: str) -> None:
        """Copy a file there.

        Raises:
            EnvironmentLack: it did not arrive (no space, device gone).
        """
        done = _run([self.client, "-s", self.serial, "push", str(source), target], self.limit_s)
        if done.returncode:
            raise EnvironmentLack(
                f"adb could not copy {source.name} to {self.serial}: {_last(done)}", hint="Check the cable and the space there."
            )

    def shell(self, command: list[str]) -> str:
        """Run a command there; what it printed on both streams.

        Raises:
            ModelError: it failed; its last words are in the message.
        """
        done = self.attempt(command)
        if done.returncode:
            raise ModelError(
                f"'{command[0]}' failed on {self.serial} ({done.returncode}): {_last(done)}", hint="Try it in adb shell."
            )
        return done.stdout + done.stderr

    def attempt(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """As ``shell``, for a command that may fail."""
        return _run([self.client, "-s", self.serial, "shell", shlex.join(command)], self.limit_s)


def open_adb(serial: str | None, limit_s: float) -> Adb:
    """Find adb and the device.

    Args:
        serial: of the device; None for the only one.

    Raises:
        EnvironmentLack: there is no adb, no device, more than one, or it does not let us in.
    """
    client = os.environ.get(_VARIABLE) or shutil.which("adb")
    if client is None or shutil.which(client) is None:
        raise EnvironmentLack(
            "There is no adb on this machine.", hint="Install it (Debian: apt-get install adb), or set EDGESEG_ADB."
        )
    done = _run([client, "devices", "-l"], _SHORT_S)
    if done.returncode:
        raise EnvironmentLack(f"adb does not list its devices: {_last(done)}", hint="Try: adb kill-server, then adb devices.")
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        parts = line.split(maxsplit=1)
        if len(parts) == 2 and not line.startswith(("List of devices", "*")):
            found[parts[0]] = parts[1]
    if not found:
        raise EnvironmentLack("adb finds no device.", hint="Connect one and allow USB debugging, or: adb connect HOST.")
    if serial is None and len(found) > 1:
        raise EnvironmentLack(f"adb finds {len(found)} devices: {', '.join(found)}.", hint="Name one: --device adb:SERIAL.")
    chosen = serial or next(iter(found))
    if chosen not in found:
        raise EnvironmentLack(f"adb finds no device '{chosen}'; there is {', '.join(found)}.", hint="Name one of them.")
    state = found[chosen].split()[0]
    if state != "device":
        raise EnvironmentLack(
            f"The device {chosen} is '{found[chosen]}'.",
            hint="Unlock it and allow USB debugging for this machine, then adb devices.",
        )
    return Adb(client, chosen, limit_s)


def _run(command: list[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLack(
            f"adb did not answer within {limit_s:.0f} s.", hint="Unlock the device, or raise --limit."
        ) from error


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1]
