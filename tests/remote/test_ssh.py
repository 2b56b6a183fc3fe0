"""``--device ssh://`` against a real sshd on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import WITHOUT_EDGESEG, Loopback, free_port, python_that, tiny_onnx
from shell import COMMAND, edgeseg, environment, refused

from edgeseg.bench.device import parse_device
from edgeseg.errors import EnvironmentLack, UsageError
from edgeseg.remote.ssh import RemoteOptions, run_there

HERE = RemoteOptions(python=sys.executable)


def test_the_same_benchmark_runs_there(loopback: Loopback, tmp_path: Path) -> None:
    """Raw samples, machine facts and journals come back; names are this machine's; nothing stays there."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tiny_onnx(tmp_path / folder / "model.onnx")
    output = tmp_path / "bench.json"
    subjects = ("a/model.onnx", "b/model.onnx")
    flags = ("--budget", "0", "--rounds", "5", "--no-memory", "--profile", "--remote-python", sys.executable)
    done = edgeseg("bench", *subjects, "--device", loopback.device.text, *flags, "-o", output, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.document()
    assert report == json.loads(output.read_text())
    assert report["device"] == loopback.device.text
    (run,) = report["runs"]
    first, second = run["candidates"]
    assert [first["facts"]["name"], second["facts"]["name"]] == list(subjects)
    assert first["facts"]["info"]["file"] == "a/model.onnx"
    assert run["comparisons"][0]["candidate"] == "b/model.onnx"
    assert len(first["samples"]["invoke"]) == 5
    assert "Conv" in [one["kind"] for one in first["profile"]["operators"]]
    assert run["machine"]["cpu"]
    assert not list(loopback.scratch.iterdir())
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_broken_connection_loses_no_round_and_leaves_nothing_there(loopback: Loopback, tmp_path: Path) -> None:
    tiny_onnx(tmp_path / "model.onnx")
    flags = ("--rounds", "10000000", "--no-memory", "--remote-python", sys.executable, "-o", "bench.json")
    command = [*COMMAND, "bench", "model.onnx", "--device", loopback.device.text, *flags]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    journal = tmp_path / "bench.json.1t.jsonl"
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list(loopback.scratch.iterdir())
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    found = edgeseg("bench", "--recover", journal, "--json", cwd=tmp_path)
    assert found.code == 0, found.err
    (run,) = found.document()["runs"]
    assert not run["complete"]
    assert len(run["candidates"][0]["samples"]["invoke"]) >= 3
    while list(loopback.scratch.iterdir()):
        assert time.monotonic() < end, "the folder there was not removed"
        time.sleep(0.05)


def test_what_the_command_says_there_is_said_here(loopback: Loopback, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"On ssh://.*at least one file"):
        run_there(loopback.device, {}, ["bench"], HERE)
    # The command there ends at its limit.
    tiny_onnx(tmp_path / "model.onnx")
    slow = ["bench", "model.onnx", "--rounds", "10000000", "--no-memory"]
    with pytest.raises(EnvironmentLack, match="did not end within 2 s"):
        run_there(loopback.device, {"model.onnx": tmp_path / "model.onnx"}, slow, replace(HERE, limit_s=2.0))
    # The far end notices that it was left, ends the command and removes what it was sent; on a busy machine after a while.
    deadline = time.monotonic() + 30
    while list(loopback.scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(loopback.scratch.iterdir())


def test_machines_that_cannot_be_used(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(options: RemoteOptions = HERE, **changed: object) -> str:
        with pytest.raises(EnvironmentLack) as caught:
            run_there(replace(loopback.device, **changed), {}, ["targets"], options)
        assert caught.value.hint
        return str(caught.value)

    assert "cannot be reached" in lack(port=free_port())
    assert "There is no '/nowhere/python'" in lack(RemoteOptions(python="/nowhere/python"))
    bare = python_that(tmp_path, "bare", WITHOUT_EDGESEG)
    assert "has no edgeseg" in lack(RemoteOptions(python=bare))
    other = python_that(tmp_path, "other", """echo welcome; echo '{"type":"hello","edgeseg":"9.9","python":"3.99"}'""")
    assert "edgeseg 9.9 on the other machine" in lack(RemoteOptions(python=other))
    config = (loopback.folder / "ssh_config").read_text()
    (tmp_path / "config").write_text(config.replace(f"{loopback.folder}/login", f"{loopback.folder}/stranger"))
    monkeypatch.setenv("EDGESEG_SSH", f"ssh -F {tmp_path}/config")
    assert "refuses the login" in lack()
    monkeypatch.setenv("EDGESEG_SSH", f"{loopback.client} -o UserKnownHostsFile={tmp_path}/none")
    assert "host key" in lack()
    monkeypatch.setenv("EDGESEG_SSH", "no-such-client")
    assert "no ssh client" in lack()


def test_what_cannot_be_sent(loopback: Loopback, tmp_path: Path) -> None:
    tiny_onnx(tmp_path / "model.onnx")
    bench = ("bench", "model.onnx", "--device", loopback.device.text)
    refused(edgeseg(*bench, "--factory", "a:b", cwd=tmp_path), 2, "cannot be sent")


@pytest.mark.parametrize("text", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a@-b", "ftp://a", "adb:", "cuda:x", ""])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a device"):
        parse_device(text)


def test_addresses() -> None:
    for text in (
        "cpu",
        "cuda",
        "cuda:1",
        "ssh://host",
        "ssh://me@host.local:2222",
        "adb",
        "adb:emulator-5554",
        "adb:10.0.0.2:5555",
    ):
        assert parse_device(text).text == text
