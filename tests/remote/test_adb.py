"""``--device adb``: the command lines, and what LiteRT's tool prints. No Android device is here: adb is a stand-in."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from shell import edgeseg, refused

from edgeseg.errors import ModelError
from edgeseg.remote.benchmark_model import command_line, parse_operators, parse_run

ONE = "List of devices attached\n38221FDJH00 device usb:1-1 product:shiba model:Pixel_8 device:shiba transport_id:1\n\n"


class Phone:
    """The stand-in in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "phone"
        (self.folder / "root" / "data" / "local" / "tmp").mkdir(parents=True)
        (self.folder / "devices").write_text(ONE)
        client = self.folder / "adb"
        client.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stand_in_adb.py")} "$@"\n')
        client.chmod(0o755)
        self.env = {"EDGESEG_ADB": str(client), "STAND_IN": str(self.folder)}

    def commands(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path)


def files(folder: Path) -> tuple[Path, Path]:
    """Two files that look like .tflite, of 1000 and 500 bytes: the stand-in does not run them."""
    found = []
    for name, size in (("large.tflite", 1000), ("small.tflite", 500)):
        path = folder / name
        path.write_bytes((b"\x1c\x00\x00\x00TFL3").ljust(size, b"\0"))
        found.append(path)
    return found[0], found[1]


def test_files_in_turn_on_the_device(phone: Phone, tmp_path: Path) -> None:
    large, small = files(tmp_path)
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(b"ELF")
    flags = ("--device", "adb", "--threads", "2", "--budget", "0", "--rounds", "3", "--benchmark-model", tool, "--profile")
    done = edgeseg("bench", large, small, *flags, "-o", "bench.json", "--json", cwd=tmp_path, env=phone.env)
    assert done.code == 0, done.err
    report = done.document()
    assert report["device"] == "adb"
    assert "mean of 10 inferences" in report["notes"][0]
    (run,) = report["runs"]
    first, second = run["candidates"]
    assert first["samples"]["invoke"] == [10_000_000] * 3
    assert second["samples"]["invoke"] == [5_000_000] * 3
    assert run["comparisons"][0]["invoke"]["value"]["estimate"] == 0.5
    assert first["facts"]["load_seconds"] == pytest.approx(0.01275)
    assert first["facts"]["warmup_ns"] == [14_744_000]
    placement = first["facts"]["placement"]
    assert (placement["operators"], placement["partitions"], placement["places"]) == (55, 2, {"XNNPACK": 53, "LiteRT": 2})
    assert [(one["kind"], one["place"]) for one in first["profile"]["operators"]] == [
        ("TfLiteXNNPackDelegate", "XNNPACK"),
        ("RESIZE_BILINEAR", "LiteRT"),
    ]
    machine = run["machine"]
    assert (machine["cpu"], machine["architecture"], machine["system"]) == (
        "Google Pixel 8, Tensor G3",
        "arm64-v8a",
        "Android 15",
    )
    assert machine["flags"] == ["asimd", "asimdhp", "asimddp", "i8mm", "bf16"]
    assert machine["governor"] == "sched_pixel"

    sent = phone.commands()
    assert sent[0] == ["devices", "-l"]
    assert all(command[:2] == ["-s", "38221FDJH00"] for command in sent[1:])
    started = [shlex.split(command[3]) for command in sent if command[2:3] == ["shell"] and "--graph=" in command[3]]
    folder = started[0][0].rpartition("/")[0]
    assert [one[1].rpartition("/")[2] for one in started[:8]] == ["0.tflite", "1.tflite"] * 4  # A B A B
    assert {"--num_threads=2", "--use_xnnpack=true"} <= set(started[0])
    assert shlex.split(sent[-1][3]) == ["rm", "-rf", folder]
    assert not list((phone.folder / "root" / "data" / "local" / "tmp").iterdir())
    assert not list(tmp_path.glob("*.jsonl"))


def test_devices_that_cannot_be_used(phone: Phone, tmp_path: Path) -> None:
    large, _ = files(tmp_path)
    bench = ("bench", large, "--budget", "0", "--device")

    def refuses(code: int, *phrases: str, device: str = "adb") -> None:
        refused(edgeseg(*bench, device, cwd=tmp_path, env=phone.env), code, *phrases)

    refuses(4, "no benchmark_model on 38221FDJH00", "--benchmark-model")
    refuses(4, "no device 'other'", device="adb:other")
    (phone.folder / "devices").write_text(ONE + "emulator-5554 device\n")
    refuses(4, "finds 2 devices", "adb:SERIAL")
    (phone.folder / "devices").write_text("List of devices attached\n38221FDJH00 unauthorized usb:1-1\n\n")
    refuses(4, "unauthorized", "allow USB debugging")
    (phone.folder / "devices").write_text("List of devices attached\n\n")
    refuses(4, "finds no device")
    refused(edgeseg(*bench, "adb", cwd=tmp_path, env={"EDGESEG_ADB": "/none/adb"}), 4, "no adb", "apt-get install adb")


def test_a_tool_that_fails_and_a_file_that_is_none(phone: Phone, tmp_path: Path) -> None:
    large, _ = files(tmp_path)
    (phone.folder / "tool").touch()
    (phone.folder / "broken").write_text("INFO: STARTING!\nERROR: Benchmarking failed.\n")
    bench = ("bench", "--device", "adb", "--budget", "0")
    refused(edgeseg(*bench, large, cwd=tmp_path, env=phone.env), 1, "gave no times", "Benchmarking failed.")
    assert not list((phone.folder / "root" / "data" / "local" / "tmp").iterdir()), "what was copied there is still there"
    other = tmp_path / "model.onnx"
    other.write_bytes(b"\x08\x0a")
    refused(edgeseg(*bench, other, cwd=tmp_path, env=phone.env), 1, "is not a .tflite file")


# Lines as releases of several years print them.
FORM_2019 = """Initialized session in 9.933ms
count=7 first=127425 curr=66709 min=66709 max=127425 avg=76605.9 std=20944
count=15 first=66753 curr=66800 min=66699 max=66838 avg=66767.6 std=39
Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6
"""
FORM_2021 = """count=50 first=249042 curr=250889 min=247067 max=254474 avg=249684 std=1442
Inference timings in us: Init: 16242, First inference: 360262, Warmup (avg): 304586, Inference (avg): 249684
Peak memory footprint (MB): init=4.92969 overall=138.809
"""
FORM_SLOW = """count=1 curr=3512391
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798
Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
Timings (microseconds): count=50 first=2989660 curr=2912978 min=2727203 max=3189476 avg=2.9499e+06 std=109770
Memory (bytes): count=0
"""
FORM_LOGCAT = """I tflite  : count=25 first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 p5=140545 median=141253
I tflite  : Inference timings in us: Init: 92318, First inference: 187533, Warmup (avg): 211669, Inference (avg): 145528
"""


@pytest.mark.parametrize(
    ("text", "runs", "average", "first", "init", "memory"),
    [
        (FORM_2019, 15, 66767.6, 127425, 9933, None),
        (FORM_2021, 50, 249684, 360262, 16242, (4.92969, 138.809)),
        (FORM_SLOW, 50, 2.95034e6, 3512391, 17187, (4.21094, 46.0859)),
        (FORM_LOGCAT, 25, 145528, 187533, 92318, None),
    ],
)
def test_forms_of_output(
    text: str, runs: int, average: float, first: float, init: float, memory: tuple[float, float] | None
) -> None:
    found = parse_run(text)
    assert (found.runs, found.average, found.first, found.init, found.memory_mb) == (runs, average, first, init, memory)
    assert found.partitions is None


def test_operators_by_the_titles_of_the_columns() -> None:
    line = "\t CONV_2D\t 0.066\t 87.754\t 60.957\t 2.066%\t 2.066%\t 0.000\t 1\t[MobilenetV1/Conv2d_0/Relu6]:0"
    titles = "\t[node type]\t[start]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"
    init = f"=== Run Order ===\n{titles}\n\t AllocateTensors\t0\t1\t1\t1%\t1%\t0\t1\tx\n\n"
    text = f"{init}=== Run Order ===\n{titles}\n{line}\n\n=== Top"
    (found,) = parse_operators(text)
    assert (found.kind, found.name, found.microseconds) == ("CONV_2D", "[MobilenetV1/Conv2d_0/Relu6]:0", pytest.approx(60957))
    assert parse_operators("no table") == ()


def test_what_is_no_output_and_the_line_that_starts_the_tool() -> None:
    with pytest.raises(ModelError, match="Its last words: Failed to load"):
        parse_run("INFO: STARTING!\nERROR: Failed to load model\n")
    assert command_line("t", "g", threads=1, runs=5, profile=True)[-1] == "--enable_op_profiling=true"
