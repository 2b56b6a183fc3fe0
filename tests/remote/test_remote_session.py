"""``eval`` and ``drift`` of a file that runs on another machine: a real sshd on loopback."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback, python_that
from shell import edgeseg, refused
from workshop import Workshop, build_workshop

from edgeseg.elsewhere import moved
from edgeseg.errors import EnvironmentLack
from edgeseg.remote.link import RemoteOptions
from edgeseg.session import ModelInput, infer
from edgeseg.subject import open_subject

HERE = RemoteOptions(python=sys.executable)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return build_workshop(tmp_path_factory.mktemp("workshop"))


def an_input(seed: int = 0) -> ModelInput:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    return ModelInput(pixels, pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def test_a_session_there_gives_what_one_here_gives(loopback: Loopback, workshop: Workshop) -> None:
    subject = open_subject(workshop.model("tiny.onnx"))
    with subject.open(1) as here, moved(subject, loopback.device, HERE).open(1) as there:
        for seed in range(3):
            np.testing.assert_array_equal(infer(there, an_input(seed)), infer(here, an_input(seed)))
        assert there.info.where == f"{here.info.where} on cpu of {loopback.device.text}"
        assert list(loopback.scratch.iterdir())
    end = time.monotonic() + 60
    while list(loopback.scratch.iterdir()):
        assert time.monotonic() < end, "the folder there was not removed"
        time.sleep(0.05)


def test_eval_and_drift_run_the_subject_there(loopback: Loopback, workshop: Workshop, tmp_path: Path) -> None:
    """The same figures, and the report says where the file ran; the reference runs here."""
    device = ("--device", loopback.device.text, "--remote-python", sys.executable)
    model = workshop.model("tiny.onnx")
    reference = ("--reference", workshop.model("tiny.pt2"))
    found = {}
    for name, more in (("here", ()), ("there", device)):
        done = edgeseg("eval", model, *reference, *more, "--json", cwd=tmp_path)
        assert done.code == 0, done.err
        found[name] = done.document()
    assert found["there"]["subject"]["scores"] == found["here"]["subject"]["scores"]
    assert found["there"]["subject"]["runtime"].endswith(f"on cpu of {loopback.device.text}")
    assert "ssh" not in found["there"]["reference"]["runtime"]
    done = edgeseg("drift", model, *reference, *device, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.document()
    assert report["runtime"].endswith(f"on cpu of {loopback.device.text}")
    assert report["drift"]["candidate"]["miou"] == found["here"]["subject"]["scores"]["miou"]


def test_an_artifact_runs_there(loopback: Loopback, workshop: Workshop, tmp_path: Path) -> None:
    done = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "tflite-fp32", "-o", tmp_path / "a", cwd=workshop.folder)
    assert done.code == 0, done.err
    subject = open_subject(tmp_path / "a")
    with subject.open(1) as here, moved(subject, loopback.device, HERE).open(1) as there:
        np.testing.assert_array_equal(infer(there, an_input()), infer(here, an_input()))


def test_what_goes_wrong_there_is_said_here(loopback: Loopback, workshop: Workshop, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    whole = workshop.model("tiny.onnx").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "edgeseg.toml").write_text(workshop.spec.read_text())
    images = ("--images", workshop.photos, "--masks", workshop.labels, "--no-reference")
    device = ("--device", loopback.device.text, "--remote-python", sys.executable)
    refused(edgeseg("eval", broken, *images, *device, cwd=tmp_path), 1, f"On {loopback.device.text}: ")
    nowhere = ("--device", loopback.device.text, "--remote-python", "/nowhere/python")
    model = workshop.model("tiny.onnx")
    refused(edgeseg("eval", model, "--no-reference", *nowhere, cwd=tmp_path), 4, "There is no '/nowhere/python'")
    refused(
        edgeseg("eval", model, "--no-reference", "--device", "cuda", cwd=tmp_path), 2, "Predictions are not taken from cuda"
    )
    pickled = (workshop.model("weights.pt"), "--factory", "tiny_net:Net", "--no-reference")
    refused(
        edgeseg("eval", *pickled, *device, cwd=workshop.folder, env={"PYTHONPATH": str(workshop.folder)}), 2, "cannot be sent"
    )


def test_a_connection_that_breaks_is_told(loopback: Loopback, workshop: Workshop, tmp_path: Path) -> None:
    """The process there is ended in the middle of things."""
    noted = tmp_path / "pid"
    python = python_that(tmp_path, "python", f'echo $$ > {noted}; exec {sys.executable} "$@"')
    subject = open_subject(workshop.model("tiny.onnx"))
    with moved(subject, loopback.device, RemoteOptions(python=python)).open(1) as there:
        infer(there, an_input())
        os.kill(int(noted.read_text()), signal.SIGKILL)
        with pytest.raises(EnvironmentLack, match="broke during the run"):
            infer(there, an_input())
