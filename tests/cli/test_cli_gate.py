"""``edgeseg gate``: the three outcomes, their exit codes, the baseline, and what CI systems read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
from onnx import numpy_helper
from shell import edgeseg, environment, refused

from edgeseg.data.embedded import embedded_root

SPEC = embedded_root() / "edgeseg.toml"


@pytest.fixture(scope="session")
def broken(embedded: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with some of its last convolution's weights gone: a foreign file that segments worse."""
    model = onnx.load(embedded("onnx-fp32") / "model.onnx")
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (weights,) = [one for one in model.graph.initializer if one.name == last.input[1]]
    values = numpy_helper.to_array(weights).copy()
    values[3, ::2] = 0.0  # class "building"
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    path = tmp_path_factory.mktemp("broken") / "broken.onnx"
    onnx.save(model, path)
    return path


def judged(*arguments: str | Path, code: int, cwd: Path) -> dict[str, Any]:
    done = edgeseg("gate", *arguments, "--json", cwd=cwd)
    assert done.code == code, (done.out, done.err)
    found = done.document()
    assert isinstance(found, dict)
    return found


def test_pass_fail_inconclusive(embedded: Callable[[str], Path], broken: Path, tmp_path: Path) -> None:
    """Exit codes 0, 3 and 5, and what the policy makes of the last."""
    base = embedded("onnx-fp32")
    same = ("--spec", SPEC, "--against", base)
    good = judged(embedded("onnx-int8"), "--against", base, "--max-drop", "0.5pt", "--max-size", "0.6x", code=0, cwd=tmp_path)
    assert (good["outcome"], good["images"], good["rounds"]) == ("pass", 24, None)
    assert [finding["rule"]["text"] for finding in good["findings"]] == ["miou:-0.5pt", "size:0.6x"]

    bad = judged(broken, *same, "--rule", "class.building:-1pt", code=3, cwd=tmp_path)
    (finding,) = bad["findings"]
    assert finding["measured"] < -0.01
    assert finding["interval"]["high"] < -0.01

    # A limit at the measured change itself lies inside the interval.
    limit = f"class.building:{100 * finding['measured']:.2f}pt"
    for policy, code in (("report", 5), ("fail", 3), ("pass", 0)):
        open_ = judged(broken, *same, "--rule", limit, "--inconclusive", policy, code=code, cwd=tmp_path)
        assert open_["outcome"] == "inconclusive"


def test_baseline(embedded: Callable[[str], Path], broken: Path, tmp_path: Path) -> None:
    """Written, compared with image by image, and kept as it is where a rule fails."""
    file = tmp_path / "baseline.json"
    refused(edgeseg("gate", broken, "--spec", SPEC, "--max-drop", "1pt", "--baseline", file, cwd=tmp_path), 1, "no baseline")
    written = edgeseg("gate", embedded("onnx-fp32"), "--baseline", file, "--update-baseline", cwd=tmp_path)
    assert written.code == 0, written.err
    against_file = judged(broken, "--spec", SPEC, "--max-drop", "1pt", "--baseline", file, code=3, cwd=tmp_path)
    assert against_file["against"] == "baseline scenes-onnx-fp32"
    against_reference = judged(
        broken, "--spec", SPEC, "--max-drop", "1pt", "--against", embedded("onnx-fp32"), code=3, cwd=tmp_path
    )
    assert against_file["findings"][0]["interval"] == against_reference["findings"][0]["interval"]
    before = file.read_bytes()
    failed = edgeseg("gate", broken, "--spec", SPEC, "--max-drop", "1pt", "--baseline", file, "--update-baseline", cwd=tmp_path)
    assert failed.code == 3
    assert file.read_bytes() == before
    accepted = edgeseg(
        "gate", broken, "--spec", SPEC, "--max-drop", "90pt", "--baseline", file, "--update-baseline", cwd=tmp_path
    )
    assert accepted.code == 0, accepted.err
    assert json.loads(file.read_text())["name"] == "broken.onnx"


def test_rules_of_the_spec(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """Without rules on the line those of edgeseg.toml count; they are no part of what is compiled."""
    root = embedded_root()
    text = SPEC.read_text().replace('"val/', f'"{root}/val/') + '\n[gate]\nrules = ["size:4MB", "size:0.9x"]\n'
    (tmp_path / "edgeseg.toml").write_text(text)
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes((embedded("onnx-int8") / "model.onnx").read_bytes())
    found = judged(foreign, "--against", embedded("onnx-fp32"), code=0, cwd=tmp_path)
    assert [finding["rule"]["text"] for finding in found["findings"]] == ["size:4MB", "size:0.9x"]
    found = judged(foreign, "--rule", "size:1kB", code=3, cwd=tmp_path)
    assert len(found["findings"]) == 1


def test_latency_and_memory_are_measured_in_the_same_run(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    artifact = embedded("onnx-int8")
    rules = ("--max-latency", "100x", "--min-speedup", "0.01x", "--rule", "memory:10GB")
    found = judged(artifact, *rules, "--budget", "0", "--rounds", "8", code=0, cwd=tmp_path)
    assert found["rounds"] == 8
    assert found["images"] is None, "no rule asks for quality, so none is measured"
    memory, latency, speedup = found["findings"]
    assert speedup["measured"] == pytest.approx(1 / latency["measured"])
    assert memory["measured"] > 1e6


def test_reports_for_ci(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """JUnit is XML with one case a rule; Markdown is appended, as a step summary wants it."""
    artifact = embedded("onnx-int8")
    junit, markdown = tmp_path / "gate.xml", tmp_path / "summary.md"
    markdown.write_text("before\n")
    done = edgeseg("gate", artifact, "--rule", "size:1kB,size:4MB", "--junit", junit, "--markdown", markdown, cwd=tmp_path)
    assert done.code == 3
    assert done.out.rstrip().endswith("gate: fail")
    suites = ElementTree.parse(junit).getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("2", "1")
    text = markdown.read_text()
    assert text.startswith("before\n### edgeseg gate: ")
    assert "`size:1kB`" in text


def test_refusals(embedded: Callable[[str], Path], broken: Path, tmp_path: Path) -> None:
    artifact = embedded("onnx-int8")
    refused(edgeseg("gate", artifact, cwd=tmp_path), 2, "no rule")
    refused(edgeseg("gate", artifact, "--rule", "mio:-1pt", cwd=tmp_path), 2, "Did you mean 'miou'?")
    refused(
        edgeseg("gate", artifact, "--rule", "class.dragon:-1pt", "--limit", "2", cwd=tmp_path), 2, "does not exist", "building"
    )
    refused(edgeseg("gate", artifact, "--max-drop", "1pt", "--update-baseline", cwd=tmp_path), 2, "--baseline")
    refused(edgeseg("gate", broken, "--spec", SPEC, "--max-drop", "1pt", cwd=tmp_path), 2, "--against")


def test_pytest_fixture(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """The fixture passes, fails and skips in a repository of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "build").symlink_to(embedded("onnx-int8"))
    (tmp_path / "base").symlink_to(embedded("onnx-fp32"))
    (tmp_path / "test_gate.py").write_text(
        "def test_good(edgeseg_gate):\n"
        "    assert edgeseg_gate('build', 'miou:-0.5pt', against='base').images == 24\n"
        "def test_bad(edgeseg_gate):\n"
        "    edgeseg_gate('build', 'size:1kB')\n"
        "def test_open(edgeseg_gate):\n"
        "    edgeseg_gate('build', 'miou:-0.5pt', against='base', limit=4)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "edgeseg.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert "size:1kB: 0.19" in done.stdout, done.stdout
    assert "too few to judge" in done.stdout, done.stdout


def test_action(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """The action's own shell step, with the inputs that a workflow gives."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: action.yml is not parsed")
    action = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    defaults = {name: given.get("default", "") for name, given in action["inputs"].items()}
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "gate")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "edgeseg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m edgeseg "$@"\n')
    program.chmod(0o755)
    for rules, code, outcome in (("size:4MB,size:0.9x", 0, "pass"), ("size:1kB", 3, "fail")):
        inputs = {**defaults, "subject": str(embedded("onnx-int8")), "rules": rules, "arguments": "--threads 1"}
        variables = {name: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")] for name, value in step["env"].items()}
        output, summary = tmp_path / "output", tmp_path / "summary"
        output.write_text("")
        summary.write_text("")
        env = environment(
            {
                **variables,
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
                "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            }
        )
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        assert output.read_text() == f"outcome={outcome}\n"
        assert "### edgeseg gate: " in summary.read_text()
        assert (tmp_path / defaults["junit"]).is_file()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", defaults["junit"], "output", "summary"]
