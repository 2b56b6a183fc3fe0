"""``edgeseg compile --target tensorrt-int8`` on a machine without a GPU, and every verb on what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx_nets import filters, net, vector

from edgeseg.artifact import load_artifact
from edgeseg.cli.main import cli
from edgeseg.data.embedded import embedded_root
from edgeseg.errors import EnvironmentLack
from edgeseg.trt.driver import look_around

ROOT = embedded_root()


def edgeseg(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "300"})


def compile_words(folder: Path, *more: str) -> tuple[str | Path, ...]:
    """A small ONNX net in the place of the embedded model, on its images."""
    model = net(
        "c = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w2, b2) s = Add(d, c) y = Conv(s, w3, b3)",
        {
            "w1": filters(8, 3),
            "b1": vector(8),
            "w2": filters(8, 8, seed=1),
            "b2": vector(8, 1),
            "w3": filters(6, 8, 1, seed=2),
            "b3": vector(6, 2),
        },
        size=(128, 160),
    )
    onnx.save_model(model, str(folder / "net.onnx"))
    text = (ROOT / "edgeseg.toml").read_text(encoding="utf-8")
    for place in ("calibration/images", "val/images", "val/masks"):
        text = text.replace(f'"{place}"', f'"{ROOT / place}"')
    (folder / "edgeseg.toml").write_text(text, encoding="utf-8")
    asked = ("--effort", "quick", "--count", "6", "--trt-batch", "1,2,4", "--trt-workspace", "256", "--trt-level", "2")
    return ("compile", folder / "net.onnx", "-t", "tensorrt-int8", "-o", folder / "artifact", *asked, *more)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled by the command; no engine can be built."""
    if not look_around().missing:
        pytest.skip("this machine can build engines")
    folder = tmp_path_factory.mktemp("verbs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_CACHE", str(folder / "cache"))
        done = edgeseg(*compile_words(folder))
        assert done.exit_code == 4, done.output
        assert "engine not built" in done.output
        again = edgeseg(*compile_words(folder, "--allow-unbuilt", "--json"))
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["cached"], "the same settings give the same artifact"
    return folder / "artifact"


def test_the_artifact_says_what_it_is(artifact: Path) -> None:
    manifest = load_artifact(artifact).manifest
    assert manifest.status.startswith("engine not built: ")
    assert manifest.settings["build"] == "batch 1,2,4; workspace 256 MiB; level 2"
    names = {path.name for path in artifact.iterdir()}
    assert {"model.qdq.onnx", "model.qdq.fp16.onnx", "build_engine.py", "trtexec.txt", "calibration-trt8.cache"} <= names
    assert (artifact / "trtexec.txt").read_text().count("--maxShapes=") == 3
    assert edgeseg("check-trt", artifact / "model.qdq.onnx").exit_code == 0
    assert edgeseg("check-trt", artifact / "model.qdq.fp16.onnx", "--opset", "19").exit_code == 0


def test_the_file_takes_several_images(artifact: Path) -> None:
    session = onnxruntime.InferenceSession(str(artifact / "model.qdq.onnx"), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    x = np.random.default_rng(0).normal(size=(3, *source.shape[1:])).astype(np.float32)
    together = session.run(None, {source.name: x})[0]
    alone = np.concatenate([session.run(None, {source.name: one[None]})[0] for one in x])
    # Sums in another order turn some roundings to int8 over.
    assert (together.argmax(1) == alone.argmax(1)).mean() > 0.99


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "--limit", "4"),
        ("bench", "--rounds", "2", "--budget", "1"),
        ("drift", "--limit", "4"),
        ("gate", "--max-drop", "50pt", "--limit", "12"),
    ],
    ids=lambda words: words[0],
)
def test_a_verb_says_that_it_simulates(words: tuple[str, ...], artifact: Path) -> None:
    done = edgeseg(words[0], artifact, *words[1:])
    assert done.exit_code in {0, 5}, f"{done.output}{done.exception}"
    assert "(simulation)" in done.output


def test_bench_says_that_these_times_are_not_a_gpus(artifact: Path) -> None:
    done = edgeseg("bench", artifact, "--rounds", "2", "--budget", "1")
    assert "note: engine not built: " in done.output
    assert "say nothing about a GPU" in done.output


@pytest.mark.parametrize("rule", ["latency:+5%", "size:1.1x", "memory:500MB"])
def test_a_rule_that_no_simulation_can_judge(rule: str, artifact: Path) -> None:
    done = edgeseg("gate", artifact, "--rule", rule)
    assert isinstance(done.exception, EnvironmentLack)
    assert rule in done.exception.message
    assert "engine not built: " in done.exception.message
    assert done.exception.exit_code == 4


def test_the_report_judges_the_simulation_and_times_nothing(artifact: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = edgeseg("report", artifact, "--html", page, "--limit", "6", "--budget", "1")
    assert done.exit_code == 0, f"{done.output}{done.exception}"
    text = page.read_text(encoding="utf-8")
    assert "engine not built: " in text
    assert "simulation on onnxruntime" in text
    assert "Time ratio" not in text
    assert "<dt>time /" not in text
    assert 'id="latency"' not in text


@pytest.mark.parametrize("verb", ["inspect", "explain"])
def test_a_verb_that_runs_nothing(verb: str, artifact: Path) -> None:
    done = edgeseg(verb, artifact)
    assert done.exit_code == 0, f"{done.output}{done.exception}"


@pytest.mark.parametrize("batch", ["0", "4,1,16", "a", "1,2", "1,2,3,4", ""])
def test_batches_that_make_no_sense(batch: str, tmp_path: Path) -> None:
    done = edgeseg(*compile_words(tmp_path, "--trt-batch", batch))
    assert done.exit_code != 0
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize("size", ["64", "64x64", "64x64,32x32", "axb,cxd", "256x256,512x512", "0x8,512x512"])
def test_sizes_that_make_no_sense(size: str, tmp_path: Path) -> None:
    done = edgeseg(*compile_words(tmp_path, "--trt-size", size))
    assert done.exit_code != 0
    assert not isinstance(done.exception, AssertionError)
    assert not (tmp_path / "artifact").exists()


def test_the_options_have_a_heading_of_their_own() -> None:
    plain, grouped = edgeseg("compile", "--help").output.split("TensorRT engines:")
    assert "--trt-" not in plain
    for flag in (
        "--allow-unbuilt",
        "--trt-batch",
        "--trt-size",
        "--trt-workspace",
        "--trt-timing-cache",
        "--trt-version-compatible",
    ):
        assert flag in grouped
