"""The command line itself: help, wrong words, JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import COMMAND, edgeseg, environment, refused
from workshop import Workshop

VERBS = ("init", "compile", "eval", "inspect", "explain", "targets", "doctor", "demo", "data", "cache")


def test_help_names_every_verb(tmp_path: Path) -> None:
    outcome = edgeseg("--help", cwd=tmp_path)
    assert outcome.code == 0
    assert all(f"\n  {verb} " in outcome.out for verb in VERBS), outcome.out


def test_no_verb_shows_the_help(tmp_path: Path) -> None:
    outcome = edgeseg(cwd=tmp_path)
    assert outcome.code == 2
    assert "Verbs" in outcome.out + outcome.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, tmp_path: Path) -> None:
    outcome = edgeseg(verb, "--help", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert f"edgeseg {verb}" in outcome.out


def test_version(tmp_path: Path) -> None:
    from edgeseg import __version__

    assert edgeseg("--version", cwd=tmp_path).out.split()[-1] == __version__


def test_unknown_verb(tmp_path: Path) -> None:
    refused(edgeseg("compil", cwd=tmp_path), 2, "No such verb 'compil'.", "Did you mean 'compile'?")
    refused(edgeseg("xyzzy", cwd=tmp_path), 2, "No such verb 'xyzzy'.", "compile", "doctor")


def test_unknown_target(workshop: Workshop, tmp_path: Path) -> None:
    outcome = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "tflite-int7", cwd=tmp_path)
    refused(outcome, 2, "tflite-int7", "tflite-int8", "onnx-fp32")
    assert list(tmp_path.iterdir()) == []


def test_unknown_target_from_python(workshop: Workshop) -> None:
    import edgeseg as package

    with pytest.raises(package.EdgesegError, match="tflite-int8") as raised:
        package.compile_model(workshop.model("tiny.onnx"), "tflite-int7")
    assert raised.value.exit_code == 2


def test_unknown_flag(workshop: Workshop, tmp_path: Path) -> None:
    outcome = edgeseg("compile", workshop.model("tiny.onnx"), "--tagret", "onnx-fp32", cwd=tmp_path)
    refused(outcome, 2, "--tagret", "--target")


@pytest.mark.parametrize(
    ("flag", "value", "phrase"),
    [("--budget", "some", "0.3pt"), ("--budget", "-1pt", "negative"), ("--time-limit", "soon", "90s"), ("--count", "0", "0")],
)
def test_impossible_flag(workshop: Workshop, tmp_path: Path, flag: str, value: str, phrase: str) -> None:
    outcome = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "onnx-int8", f"{flag}={value}", cwd=tmp_path)
    refused(outcome, 2, flag, phrase)


@pytest.mark.parametrize(
    "arguments",
    [("targets",), ("doctor",), ("cache", "show"), ("cache", "clear"), ("data", "list"), ("data", "show", "camvid")],
)
def test_json_of_the_verbs_that_need_no_model(arguments: tuple[str, ...], tmp_path: Path) -> None:
    outcome = edgeseg(*arguments, "--json", cwd=tmp_path, env={"EDGESEG_CACHE": str(tmp_path / "cache")})
    assert outcome.code in {0, 4} if arguments == ("doctor",) else outcome.code == 0, outcome.err
    assert outcome.document()
    assert outcome.err == ""


def test_targets_lists_all_five(tmp_path: Path) -> None:
    document = edgeseg("targets", "--json", cwd=tmp_path).document()
    assert isinstance(document, list)
    assert {entry["target"] for entry in document} >= {
        "onnx-fp32",
        "onnx-int8",
        "tflite-fp32",
        "tflite-fp16",
        "tflite-int8",
    }


def test_shell_completion(tmp_path: Path) -> None:
    """Asked as bash asks it, for the words that may follow ``edgeseg com``."""
    script = Path(sys.executable).with_name("edgeseg")
    if not script.exists():
        pytest.skip("completion hangs on the console script, and edgeseg is not installed")
    done = subprocess.run(
        [script],
        env=environment({"_EDGESEG_COMPLETE": "bash_complete", "COMP_WORDS": "edgeseg com", "COMP_CWORD": "1"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["plain,compile"], done


def test_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """As in ``edgeseg targets | head -0``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, "targets"], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""
