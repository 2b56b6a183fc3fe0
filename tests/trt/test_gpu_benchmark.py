"""benchmarks/gpu.py without a GPU: arguments, packing, the whole path in a rehearsal, and no figure that was not measured."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "gpu"))
from packing import Packed, join_tensorrt, pack, unpack  # noqa: E402

SPEC = """schema = 1
[input]
shape = [1, 3, 32, 32]
[preprocess]
resize = "exact"
[classes]
names = ["sky", "ground"]
"""

SUITE = """
[[case]]
name = "Tiny"
file = "tiny.pt"
spec = "tiny.toml"
calibration = "images"
images = "images"
masks = "masks"

[[case]]
name = "Not installed"
network = "deeplabv3plus"
size = [32, 64]
calibration = "images"
"""


def gpu(*given: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"EDGESEG_DATA": str(data)} if data else {})
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *given]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from torch import nn

    folder = tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    torch.jit.save(torch.jit.trace(network.eval(), torch.zeros(1, 3, 32, 32)), folder / "tiny.pt")
    rng = np.random.default_rng(0)
    for name, channels in (("images", (32, 32, 3)), ("masks", (32, 32))):
        (folder / name).mkdir()
        for index in range(4):
            top = 256 if name == "images" else 2
            Image.fromarray(rng.integers(0, top, channels, dtype=np.uint8)).save(folder / name / f"{index}.png")
    (folder / "tiny.toml").write_text(SPEC)
    (folder / "suite.toml").write_text(SUITE)
    return folder


def test_a_rehearsal_walks_the_whole_path_and_times_nothing(data: Path, tmp_path: Path) -> None:
    done = gpu(
        *("--rehearse", "--suite", str(data / "suite.toml"), "--output", str(tmp_path)),
        *("--calibration", "4", "--images", "2", "--batches", "1", "2"),
        data=data,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["label"] == "not measured on a GPU"
    by_name = {case["name"]: case for case in report["cases"]}
    rows = by_name["Tiny"]["rows"]
    assert {row["runner"] for row in rows} >= {
        "tensorrt-int8",
        "tensorrt-fp16",
        "tensorrt-fp32",
        "torch-bf16",
        "onnxruntime-cuda",
    }
    assert {row["batch"] for row in rows} == {1, 2}
    assert all(row["device"] is None and not row["samples_ns"] and row["joules_per_image"] is None for row in rows)
    assert all(row["absent"] == "not measured on a GPU" for row in rows)
    drifts = {drift["runner"]: drift for drift in by_name["Tiny"]["drifts"]}
    assert drifts["tensorrt-int8"]["label"] == "simulation on onnxruntime CPU"
    assert drifts["tensorrt-int8"]["images"] == 2
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# GPU: not measured on a GPU")
    assert "Verdict: not measured on a GPU." in text
    if by_name["Not installed"]["failed"]:
        assert "segmentation_models_pytorch" in by_name["Not installed"]["failed"]


def test_without_a_gpu_it_says_so_before_any_work(data: Path, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    done = gpu("--suite", str(data / "suite.toml"), "--output", str(tmp_path), data=data)
    assert done.returncode == 4
    assert "no CUDA driver" in done.stderr
    assert "preparing" not in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["pack"], "pack needs --output"),
        (["run"], "needs --packed"),
        (["--packed", "x"], "needs --packed"),
        (["--rounds", "0"], "at least 1"),
        (["bench"], "invalid choice"),
    ],
)
def test_arguments_that_make_no_sense(given: list[str], message: str) -> None:
    done = gpu(*given)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    (tmp_path / "cases" / "tiny").mkdir(parents=True)
    (tmp_path / "cases" / "tiny" / "case.json").write_text("{}")
    archive = tmp_path / "gpu.tar.gz"
    digest = pack(tmp_path / "cases", archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest
    out = unpack(archive, tmp_path / "out")
    assert (out / "cases" / "tiny" / "case.json").read_text() == "{}"
    assert (out / "code" / "edgeseg" / "trt" / "worker.py").read_bytes() == (ROOT / "edgeseg/trt/worker.py").read_bytes()
    assert not list((out / "code").rglob("*.pyc"))
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(Packed, match="not whole"):
        unpack(archive, tmp_path / "again")


def test_tensorrt_is_put_together_from_chunks(tmp_path: Path) -> None:
    """A stand-in for the packed library: an executable where its Python would be."""
    tree = tmp_path / "tree"
    for name in ("tensorrt/x.so", "stubs/y.so", "py310/bin/python3.10"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text('#!/bin/sh\necho "$PYTHONPATH $LD_LIBRARY_PATH $1"\n')
        (tree / name).chmod(0o755)
    with lzma.open(tmp_path / "all.tar.xz", "wb") as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(tree, ".")
    whole = (tmp_path / "all.tar.xz").read_bytes()
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    for index, start in enumerate(range(0, len(whole), 100)):
        (chunks / f"p.{index:02}").write_bytes(whole[start : start + 100])
    (chunks / "sha256").write_text(hashlib.sha256(whole).hexdigest())
    python = join_tensorrt(chunks, tmp_path / "trt")
    said = subprocess.run([str(python), "probe"], capture_output=True, text=True, check=True).stdout
    home = str((tmp_path / "trt").resolve())
    assert said.startswith(f"{home} {home}/stubs:{home}/py310/lib:")
    assert said.endswith("probe\n")
    (chunks / "p.00").write_bytes(b"x" * 100)
    with pytest.raises(Packed, match="chunks"):
        join_tensorrt(chunks, tmp_path / "again")


# ---- the measured path, with sessions whose times are scripted: arithmetic and wording, not figures -------------------------------  # noqa: E501


class Scripted:
    """A session that says how long it took. ``log`` keeps the order in which sessions were asked."""

    def __init__(self, name: str, milliseconds: float, log: list[str]) -> None:
        self.name, self.milliseconds, self.log = name, milliseconds, log

    def feed(self, x: object) -> None:
        pass

    def device_times(self, runs: int) -> tuple[float, ...]:
        self.log.append(self.name)
        return tuple(self.milliseconds * (1 + 0.01 * (index % 3)) for index in range(runs))

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"closed {self.name}")


class Joules:
    """Stands in for a GPU's energy counter: 2 J more at every reading."""

    source = "stand-in"
    available = True

    def __init__(self) -> None:
        self.millijoules = 0

    def read(self) -> tuple[int, ...]:
        self.millijoules += 2000
        return (self.millijoules,)

    def joules_between(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        return (after[0] - before[0]) / 1e3


def measured(times: dict[str, float], rounds: int = 6):
    from measuring import Candidate, Plan, _measure

    log: list[str] = []
    candidates = [
        Candidate(runner, 1, True, lambda n=runner, ms=ms: Scripted(n, ms, log)) for runner, ms in times.items() if ms > 0
    ]

    def lacking() -> Scripted:
        from edgeseg.errors import EnvironmentLack

        raise EnvironmentLack("There is no CUDA provider.", hint="Install it.")

    candidates.append(Candidate("onnxruntime-cuda", 1, False, lacking))
    rows, ratios = _measure(candidates, None, Plan(batches=(1,), rounds=rounds), Joules())
    return {row.runner: row for row in rows}, ratios, log


def case_report(ratios: object, drop: float = 0.1):
    from report import CaseReport, Drift

    drift = Drift(runner="tensorrt-int8", against="fp32", images=9, miou=70.0, drop=drop, label="TensorRT 8.6.0")
    return CaseReport(name="x", weights="trained", size=(4, 4), ratios=ratios, drifts=(drift,))


def test_candidates_take_turns_and_are_compared_in_the_same_rounds() -> None:
    rows, ratios, log = measured({"tensorrt-int8": 1.0, "tensorrt-fp16": 1.5, "tensorrt-fp32": 4.0})
    turns = [name for name in log if not name.startswith("closed")][3:]
    assert turns == ["tensorrt-int8", "tensorrt-fp16", "tensorrt-fp32"] * 6
    assert len(rows["tensorrt-int8"].samples_ns) == 60
    assert rows["tensorrt-int8"].device.median == pytest.approx(1.01e6)
    assert rows["tensorrt-int8"].joules_per_image == pytest.approx(2.0 / 10)
    assert rows["onnxruntime-cuda"].device is None
    assert rows["onnxruntime-cuda"].absent.startswith("There is no CUDA provider.")
    assert ratios["tensorrt-fp16 batch 1"].value.estimate == pytest.approx(1.5)
    assert log[-3:] == ["closed tensorrt-fp32", "closed tensorrt-fp16", "closed tensorrt-int8"]


def test_the_verdict_advises_int8_only_where_it_is_faster_and_as_good() -> None:
    from report import verdict

    fast = measured({"tensorrt-int8": 1.0, "tensorrt-fp16": 1.5, "tensorrt-fp32": 4.0})[1]
    slow = measured({"tensorrt-int8": 1.6, "tensorrt-fp16": 1.5})[1]
    assert verdict(case_report(fast)) == "Verdict: ship int8; 1.50x the speed of fp16 and 4.00x that of fp32."
    assert verdict(case_report(slow)).startswith("Verdict: ship fp16; int8 is not faster")
    assert verdict(case_report(fast, drop=0.5)) == "Verdict: ship fp16; int8 loses 0.50 points."
