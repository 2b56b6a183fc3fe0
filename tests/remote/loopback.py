"""A real sshd on loopback, with keys of its own, and a small ONNX file to send through it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeseg.bench.device import Device, DeviceKind


@dataclass(frozen=True)
class Loopback:
    """``client``: for EDGESEG_SSH. ``scratch``: the TMPDIR of whoever logs in."""

    device: Device
    client: str
    folder: Path
    scratch: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path) -> tuple[Loopback, subprocess.Popen[bytes]]:
    """Start sshd; skips, and says why, where there is none."""
    daemon = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if daemon is None or shutil.which("ssh") is None:
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd of root asks for this empty folder
    folder.chmod(0o700)
    for name in ("host", "login", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_bytes((folder / "login.pub").read_bytes())
    scratch = folder / "scratch"
    scratch.mkdir()
    port, user = free_port(), pwd.getpwuid(os.geteuid()).pw_name
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"UsePAM no\nStrictModes no\nPermitRootLogin yes\nSetEnv TMPDIR={scratch} OMP_NUM_THREADS=1\n"
    )
    key = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/login\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\nStrictHostKeyChecking yes\n"
    )
    process = subprocess.Popen([daemon, "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("wb"))
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    device = Device(DeviceKind.SSH, host="127.0.0.1", user=user, port=port)
    return Loopback(device, f"ssh -F {folder}/ssh_config", folder, scratch), process


def python_that(folder: Path, name: str, body: str) -> str:
    """An executable that stands for the Python there."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


WITHOUT_EDGESEG = f'exec {sys.executable} -I -S "$@"'


def tiny_onnx(path: Path, size: int = 32) -> Path:
    """One 3x3 convolution to two classes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel = np.random.default_rng(0).normal(0, 0.1, (2, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, size, size))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, size, size))],
        [numpy_helper.from_array(kernel, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path
