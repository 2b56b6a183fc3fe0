"""``edgeseg gate``: the three outcomes, their exit codes, the baseline, and what CI systems read."""

from __future__ import annotations

import json
import os
import shutil
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
    whole = file.read_bytes()
    part = ("--limit", "10", "--rule", "size:4MB", "--baseline", file, "--update-baseline")
    refused(edgeseg("gate", embedded("onnx-fp32"), *part, cwd=tmp_path), 2, "one of 10 cannot replace it", "--limit")
    assert file.read_bytes() == whole


def test_a_report_that_has_no_place_is_told_before_evaluation(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """And before a baseline is replaced."""
    file = tmp_path / "baseline.json"
    for option in ("--junit", "--markdown"):
        nowhere = (option, tmp_path / "nowhere" / "gate.txt", "--rule", "size:4MB", "--baseline", file, "--update-baseline")
        refused(edgeseg("gate", embedded("onnx-fp32"), *nowhere, cwd=tmp_path), 1, "no folder", "gate.txt")
        assert not file.exists()


def test_a_baseline_alone_is_json_too(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    written = judged(embedded("onnx-fp32"), "--baseline", file, "--update-baseline", code=0, cwd=tmp_path)
    assert (written["outcome"], written["findings"]) == (None, [])
    assert written["baseline"] == {
        "path": str(file),
        "written": True,
        "name": "scenes-onnx-fp32",
        "miou": json.loads(file.read_text())["miou"],
    }
    kept = judged(embedded("onnx-fp32"), "--rule", "size:1kB", "--baseline", file, "--update-baseline", code=3, cwd=tmp_path)
    assert kept["baseline"]["written"] is False


def test_a_baseline_that_does_not_fit_is_told_before_evaluation(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """Other classes, other images, other masks. The model file is cut off: that would be noticed first if it were run."""
    file = tmp_path / "baseline.json"
    assert edgeseg("gate", embedded("onnx-fp32"), "--baseline", file, "--update-baseline", cwd=tmp_path).code == 0
    artifact, against = embedded("onnx-int8"), ("--max-drop", "1pt", "--baseline", file)

    def told(*phrases: str, more: tuple[str | Path, ...] = (), subject: Path = artifact) -> None:
        refused(edgeseg("gate", subject, *against, *more, cwd=tmp_path), 1, "baseline.json", "--update-baseline", *phrases)

    root = embedded_root() / "val"
    text = SPEC.read_text().replace('"val/', f'"{root}/')
    nothing = tmp_path / "nothing.onnx"
    whole = (embedded("onnx-fp32") / "model.onnx").read_bytes()
    nothing.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "edgeseg.toml").write_text(text.replace('"building"', '"castle"'))
    told("was written with the classes", "castle", subject=nothing)
    (tmp_path / "edgeseg.toml").write_text(text)
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
        for path in sorted((root / folder.name).iterdir())[:20]:
            (folder / path.name).write_bytes(path.read_bytes())
    told("the evaluation set has 20", "4 are gone", more=("--images", images, "--masks", masks), subject=nothing)
    # A part of the images by --limit is compared with that part.
    part = judged(artifact, *against, "--limit", "12", code=0, cwd=tmp_path)
    assert part["images"] == 12
    first = min(masks.iterdir())
    first.write_bytes(max(masks.iterdir()).read_bytes())
    masked = ("--images", images, "--masks", masks, "--limit", "20")
    done = edgeseg("gate", artifact, *against, *masked, cwd=tmp_path)
    refused(done, 1, f"The truth of '{first.stem}' is another", "--update-baseline")


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
    (tmp_path / "edgeseg.toml").write_text(text.replace('["size:4MB", "size:0.9x"]', '[\n  "size:4MB",\n  "mio:-1pt",\n]'))
    line = text[: text.index("rules = [")].count("\n") + 3
    done = edgeseg("gate", foreign, cwd=tmp_path)
    refused(done, 2, f"edgeseg.toml:{line}: gate.rules: There is no rule 'mio'", "Did you mean 'miou'?")


def test_latency_and_memory_are_measured_in_the_same_run(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    artifact = embedded("onnx-int8")
    rules = ("--max-latency", "100x", "--min-speedup", "0.01x", "--rule", "memory:10GB")
    found = judged(artifact, *rules, "--budget", "0", "--rounds", "20", code=0, cwd=tmp_path)
    assert found["rounds"] == 20
    assert found["images"] is None, "no rule asks for quality, so none is measured"
    memory, latency, speedup = found["findings"]
    assert speedup["measured"] == pytest.approx(1 / latency["measured"])
    assert memory["measured"] > 1e6
    assert found["machine"]["logical_cores"] >= 1
    assert [one["name"] for one in found["timed"]] == ["scenes.pt2", "scenes-onnx-int8"]
    assert all(isinstance(one["noise"]["quiet"], bool) for one in found["timed"])
    few = judged(artifact, "--max-latency", "100x", "--budget", "0", "--rounds", "8", code=5, cwd=tmp_path)
    assert few["findings"][0]["needed"] == 20


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
        "def test_open_but_must_not_be(edgeseg_gate):\n"
        "    edgeseg_gate('build', 'miou:-0.5pt', against='base', limit=4, inconclusive='fail')\n"
        "def test_latency(edgeseg_gate):\n"
        "    assert edgeseg_gate('build', 'latency:100x', against='base', budget=0, rounds=20).rounds == 20\n"
        "def test_nothing_to_judge(edgeseg_gate):\n"
        "    edgeseg_gate('biuld', 'size:4MB')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "edgeseg.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert "3 failed, 2 passed, 1 skipped" in done.stdout, done.stdout
    assert "size:1kB: 0.19" in done.stdout, done.stdout
    assert "too few to judge" in done.stdout, done.stdout
    assert "There is no file or folder" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    assert "another exception" not in done.stdout, "one sentence"
    assert "site-packages" not in done.stdout, "an error must not show where it was raised"


ROOT = Path(__file__).parents[2]


def action_step(name: str, inputs: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The script of a step of action.yml, and its environment for these inputs and the defaults of all others."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: action.yml is not parsed")
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    given = {key: value.get("default", "") for key, value in action["inputs"].items()} | inputs
    step = next(step for step in action["runs"]["steps"] if step["name"] == name)
    return step["run"], {
        key: given[value.removeprefix("${{ inputs.").removesuffix(" }}")] for key, value in step["env"].items()
    }


def executable(path: Path, command: str) -> None:
    """A program of this name that is the command; a link to a Python would not know its packages."""
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


def run_step(script: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """As GitHub runs ``shell: bash``."""
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(shell, cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize(
    ("rules", "arguments", "code", "outcome"),
    [
        ("size:4MB,size:0.9x", "--threads 1", 0, "pass"),
        ("size:1kB", "", 3, "fail"),
        ("size:4MB", "--json", 0, "pass"),
        ("miou:-0.5pt", "--images 'my photos/*.png' --masks 'my masks' --against base.onnx --limit 4", 5, "inconclusive"),
        ("mio:-0.5pt", "", 2, "error"),
        ("size:4MB", "--images 'never closed", 2, "error"),
    ],
)
def test_action(embedded: Callable[[str], Path], tmp_path: Path, rules: str, arguments: str, code: int, outcome: str) -> None:
    """The action's own shell step, with the inputs that a workflow gives."""
    bin_folder, work = tmp_path / "bin", tmp_path / "work"
    temporary = tmp_path / "temporary"
    for folder in (bin_folder, work, temporary):
        folder.mkdir()
    executable(bin_folder / "edgeseg", f'"{sys.executable}" -P -m edgeseg')
    executable(bin_folder / "python", f'"{sys.executable}"')
    (work / "my photos").symlink_to(embedded_root() / "val" / "images")
    (work / "my masks").symlink_to(embedded_root() / "val" / "masks")
    (work / "base.onnx").symlink_to(embedded("onnx-fp32") / "model.onnx")
    before = {path.name for path in work.iterdir()}
    script, env = action_step("Gate", {"subject": str(embedded("onnx-int8")), "rules": rules, "arguments": arguments})
    output, summary = tmp_path / "output", tmp_path / "summary"
    output.write_text("")
    summary.write_text("")
    env |= {
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(temporary),
    }
    done = run_step(script, env, work)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert output.read_text().splitlines()[-1] == f"outcome={outcome}"
    judged_at_all = outcome != "error"
    assert ("### edgeseg gate: " in summary.read_text()) is judged_at_all
    made = {path.name for path in work.iterdir()} - before
    assert made == ({"edgeseg-gate.xml"} if judged_at_all else set())
    assert not list(temporary.glob("tmp*")), "the step's own folder was left behind"


def test_install_step_of_the_action(tmp_path: Path) -> None:
    """By default the action installs the code that it is part of, extra and all; otherwise what it is told to."""
    pytest.importorskip("setuptools", minversion="75", reason="building a wheel offline needs setuptools >= 75")
    source = tmp_path / "the action"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "edgeseg", "calibration", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so which files belong to the source is unknown")
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)
    executable(tmp_path / "python", f'"{sys.executable}"')
    script, env = action_step("Install", {})
    env |= {
        "GITHUB_ACTION_PATH": str(source),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(tmp_path / "site"),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # of all options this one is read the other way round
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = run_step(script, env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "edgeseg" / "cli" / "gate.py").is_file()
    # The extra is one that this version has: pip only warns about others.
    assert "does not provide the extra" not in done.stdout + done.stderr
    script, named = action_step("Install", {"install": "no-such-package==1"})
    refused_by_pip = run_step(script, {**env, **named}, tmp_path)
    assert refused_by_pip.returncode != 0
    assert "no-such-package==1" in refused_by_pip.stderr
