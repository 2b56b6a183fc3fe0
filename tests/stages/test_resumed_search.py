"""A compile that was interrupted while it searched goes on where it was."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgeseg import CompileOptions, compile_model
from edgeseg.errors import CheckFailed
from edgeseg.spec import CalibrationSpec, ClassesSpec, InputSpec, ModelSpec, PreprocessSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "onnxgraph"))
from onnx_nets import filters, net, vector

QDQ = ("onnx-int8", "tensorrt-int8")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What eight bits ruin where they are everywhere."""
    return saved(tmp_path, 1e3)


def saved(tmp_path: Path, spread: float) -> Path:
    """Five convolutions; two of them read a tensor with one channel ``spread`` times as large as the others."""
    gain = np.float32([spread, 1, 1, 1, 1, 1, 1, 1]).reshape(1, 8, 1, 1)
    network = net(
        "c = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(c) g = Mul(r, gain) d = Conv<pads=[1,1,1,1]>(g, w2) e = Relu(d)"
        " h = Conv<pads=[1,1,1,1]>(e, w3) i = Relu(h) k = Mul(i, gain) l = Conv<pads=[1,1,1,1]>(k, w4) m = Relu(l)"
        " y = Conv(m, w5, b5)",
        {
            "w1": filters(8, 3),
            "gain": gain,
            "w2": (filters(8, 8, seed=1) / gain).astype(np.float32),
            "w3": filters(8, 8, seed=2),
            "w4": (filters(8, 8, seed=3) / gain).astype(np.float32),
            "w5": filters(4, 8, 1, seed=4),
            "b5": vector(4),
        },
    )
    onnx.save_model(network, str(tmp_path / "net.onnx"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir(exist_ok=True)
    for index in range(20):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{index:02}.png")
    return tmp_path / "net.onnx"


def spec_of(model: Path, mean: float = 0.5) -> ModelSpec:
    return ModelSpec(
        input=InputSpec(shape=(1, 3, 16, 16)),
        classes=ClassesSpec(names=("a", "b", "c", "d")),
        preprocess=PreprocessSpec(mean=(mean,) * 3, std=(0.25,) * 3),
        calibration=CalibrationSpec(images=str(model.parent / "photos")),
    )


def silent(_: str) -> None:
    pass


def compiled(
    model: Path, target: str, progress: Callable[[str], None] = silent, *, mean: float = 0.5, limit_s: float = 600.0
) -> tuple[bytes, str]:
    """The plan, and what the manifest says of the search. Only journals are kept from one compile to the next."""
    shutil.rmtree(model.parent / "cache" / "artifacts", ignore_errors=True)
    options = CompileOptions(output=model.parent / "out", budget=0.2, search_limit_s=limit_s, progress=progress)
    artifact = compile_model(model, target, spec=spec_of(model, mean), options=options).artifact
    notes = next(stage.notes for stage in artifact.manifest.stages if stage.name == "quantize")
    return (artifact.path / "quantization.json").read_bytes(), "\n".join(notes)


def journals(model: Path) -> list[Path]:
    return sorted((model.parent / "cache" / "searches").glob("*.jsonl"))


def at(moment: str) -> Callable[[str], None]:
    def interrupt(said: str) -> None:
        if said.startswith(moment):
            raise KeyboardInterrupt

    return interrupt


def measured(model: Path) -> int:
    """Lines of the one journal, none of which is there twice."""
    (journal,) = journals(model)
    lines = [line for line in journal.read_bytes().splitlines() if line]
    assert len(lines) == len(set(lines))
    return len(lines)


@pytest.mark.parametrize("target", QDQ)
def test_what_was_measured_is_not_measured_again(target: str, model: Path) -> None:
    whole, notes = compiled(model, target)
    assert "went on from" not in notes
    assert journals(model) == [], "a search that came to its end leaves nothing"
    before = 0
    for moment in (
        "choosing ranges; best so far",
        "looking for operators that lose too much in int8",
        "trying operators one by one: 3",
        "looking for the fewest float operators",
    ):
        with pytest.raises(KeyboardInterrupt):
            compiled(model, target, at(moment))
        assert measured(model) > before
        before = measured(model)
    resumed, notes = compiled(model, target)
    assert resumed == whole
    assert f"went on from {before} measurements of an interrupted search" in notes
    assert journals(model) == []


@pytest.mark.parametrize("target", QDQ)
def test_a_search_that_ran_out_of_time_goes_on_when_it_is_given_more(target: str, tmp_path: Path) -> None:
    model = saved(tmp_path, 20.0)
    whole, _ = compiled(model, target)
    _, notes = compiled(model, target, limit_s=1e-6)
    assert "time ran out while choosing ranges" in notes
    assert "time ran out while operators were tried one by one" in notes
    left = measured(model)
    resumed, notes = compiled(model, target)
    assert resumed == whole
    assert f"went on from {left} measurements" in notes
    assert "time ran out" not in notes
    assert journals(model) == []


def test_a_file_that_is_no_good_for_want_of_time_says_so(model: Path) -> None:
    with pytest.raises(CheckFailed, match="longer --time-limit: time ran out"):
        compiled(model, "onnx-int8", limit_s=1e-6)
    assert measured(model) > 0


@pytest.mark.parametrize("target", QDQ)
def test_a_search_keeps_to_its_time(target: str, tmp_path: Path) -> None:
    """Each step is made to take a fifth of a second; the search may end a step late, not more."""
    model = saved(tmp_path, 20.0)
    steps: list[str] = []

    def slow(said: str) -> None:
        if "best so far" in said:
            steps.append(said)
            time.sleep(0.2)

    _, notes = compiled(model, target, slow, limit_s=1.0)
    assert "time ran out" in notes
    assert len(steps) <= 1.0 / 0.2 + 2


@pytest.mark.parametrize(
    ("target", "moment"), [("onnx-int8", "estimating"), ("tensorrt-int8", "estimating"), ("tflite-int8", "fastest assignment")]
)
def test_other_pixels_are_another_search(target: str, moment: str, model: Path) -> None:
    """The same network and the same files, but another normalisation of them."""
    found = []
    for mean in (0.5, 0.3, 0.5):
        with pytest.raises(KeyboardInterrupt):
            compiled(model, target, at(moment), mean=mean)
        found.append(journals(model))
    assert [len(one) for one in found] == [1, 2, 2]


def test_a_cache_that_cannot_be_written_costs_only_the_journal(model: Path) -> None:
    """A file lies where the folder should be."""
    whole, _ = compiled(model, "onnx-int8")
    (model.parent / "cache").mkdir(exist_ok=True)
    (model.parent / "cache" / "searches").rmdir()
    (model.parent / "cache" / "searches").write_text("not a folder")
    again, notes = compiled(model, "onnx-int8")
    assert again == whole
    assert "went on from" not in notes


def test_the_best_so_far_is_told(model: Path) -> None:
    said: list[str] = []
    _, notes = compiled(model, "onnx-int8", said.append)
    assert any(one.startswith("choosing ranges; best so far ") and one.endswith(" dB") for one in said)
    told = [one for one in said if one.startswith("looking for the fewest float operators")]
    assert "best so far 0 of 3 operators in float" in told[0]
    expected = next(note for note in notes.splitlines() if note.startswith("with 1 more weighted operators in float")).split()[
        -1
    ]
    assert told[-1].endswith(f"best so far 1 of 3 operators in float, expected loss {expected} points")
