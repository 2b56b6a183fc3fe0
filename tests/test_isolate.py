"""A child process that fails in every way there is becomes one error, in time, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from edgeseg.errors import StageError, StageTimeout
from edgeseg.isolate import Isolated, run_isolated


class Job(msgspec.Struct, frozen=True):
    how: str
    number: int = 0
    path: str = "pid"


def work(job: Job) -> dict[str, int]:
    """The child's function: does what ``job.how`` says."""
    if job.how == "print":
        for index in range(job.number):
            print(f"line {index} " + "x" * 200)
        print("ERROR: the telling line")
        sys.exit(3)
    if job.how == "exit-zero":
        sys.exit(0)
    if job.how == "raise":
        raise ValueError("no such operator")
    if job.how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.how == "hang":
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(job.path).write_text(f"{os.getpid()} {grandchild.pid}")
        time.sleep(600)
    if job.how == "memory":
        bytearray(job.number * 2**20)
    return {"twice": 2 * job.number, "pid": os.getpid()}


def call(job: Job, folder: Path, limit: float = 60, function: str = f"{__name__}:work") -> Isolated[dict[str, int]]:
    return run_isolated(function, job, dict[str, int], stage="testing", time_limit_s=limit, log=folder / "log.txt")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_result_comes_back_with_its_cost(tmp_path: Path) -> None:
    done = call(Job("memory", 200), tmp_path)
    assert done.value["twice"] == 400
    assert done.value["pid"] != os.getpid()
    assert 200 < done.peak_mb < 600
    assert 0 < done.seconds < 60


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (Job("print", 20000), "exit code 3.*Last words: ERROR: the telling line"),
        (Job("exit-zero"), "exit code 0 and no result"),
        (Job("raise"), "ValueError: no such operator"),
        (Job("segfault"), "crashed .SIGSEGV"),
        (Job("killed"), "killed from outside.*memory"),
    ],
    ids=lambda value: value.how if isinstance(value, Job) else "",
)
def test_every_bad_end_is_a_stage_error(tmp_path: Path, job: Job, said: str) -> None:
    with pytest.raises(StageError, match=f"Stage 'testing': .*{said}") as caught:
        call(job, tmp_path)
    assert str(tmp_path / "log.txt") in caught.value.hint
    assert "\n" not in caught.value.message
    if job.how == "print":
        assert (tmp_path / "log.txt").read_text().count("line ") > 19999


def test_an_unknown_function_is_a_stage_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="AttributeError"):
        call(Job("raise"), tmp_path, function=f"{__name__}:no_such_function")


def test_a_hang_ends_at_the_limit_with_all_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StageTimeout, match="after 3 s"):
        call(Job("hang", path=str(tmp_path / "pid")), tmp_path, limit=3)
    assert time.monotonic() - started < 20
    # Killed at once; a grandchild is gone when whoever inherited it has noticed, which a busy machine puts off.
    for pid in (tmp_path / "pid").read_text().split():
        wait_until(lambda pid=pid: gone(int(pid)))


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"from {__name__} import *\ncall(Job('hang', path={str(pid_file)!r}), Path({str(tmp_path)!r}), 120)\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    wait_until(lambda: (tmp_path / "pid").exists() and len((tmp_path / "pid").read_text().split()) == 2)
    child = int((tmp_path / "pid").read_text().split()[0])
    assert not gone(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(child))
    for pid in (tmp_path / "pid").read_text().split():  # the grandchild is an orphan now; the test cleans up after itself
        if not gone(int(pid)):
            os.kill(int(pid), signal.SIGKILL)


def wait_until(condition: object, limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
