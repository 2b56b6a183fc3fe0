"""What works: every target from every kind of model file, the cache, and the way from a model file to its score."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from shell import COMMAND, Outcome, edgeseg, environment, files_below, refused
from workshop import IMAGES, Workshop

from edgeseg.artifact import Artifact, load_artifact
from edgeseg.tflite.flatbuffer import read

TARGETS = ("onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8")


def document(outcome: Outcome) -> dict[str, Any]:
    """The JSON of a command that went well and said nothing else."""
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    found = outcome.document()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_target(artifact: Callable[[str], Path], workshop: Workshop, target: str) -> None:
    """The folder is complete, verified, and its figures are those of what was asked for."""
    found: Artifact = load_artifact(artifact(target))
    manifest = found.manifest
    assert manifest.target == target
    assert found.model_path.suffix == f".{target.partition('-')[0]}"
    assert {record.name for record in manifest.files} | {"manifest.json"} == set(files_below(found.path))
    assert manifest.source.file == "tiny.pt2"
    assert manifest.source.kind == "exported-program"
    assert manifest.calibration is not None
    assert manifest.calibration.images == IMAGES
    assert [stage.name for stage in manifest.stages][:2] == ["export", "simplify"]
    assert all(stage.agreement is not None and stage.agreement.images == IMAGES for stage in manifest.stages)
    assert manifest.command[0] == "edgeseg"
    assert str(workshop.model("tiny.pt2")) in manifest.command
    assert "torch" in manifest.versions
    if target.endswith("int8"):
        assert manifest.int8 is not None
        assert manifest.int8.mac_share > 0.9
        assert (found.path / "quantization.json").is_file()
    else:
        assert manifest.int8 is None


@pytest.mark.parametrize("target", TARGETS)
def test_eval_against_pytorch(artifact: Callable[[str], Path], target: str) -> None:
    path = artifact(target)
    judged = document(edgeseg("eval", path, "--json", cwd=path.parent))
    assert judged["images"] == IMAGES
    assert judged["classes"] == ["ground", "plant", "water"]
    assert judged["reference"]["runtime"] == "torch"
    assert judged["subject"]["runtime"] == ("litert" if target.startswith("tflite") else "onnxruntime")
    assert judged["reference"]["scores"]["miou"] > 0.9
    assert judged["agreement"]["agreement"] > 0.99
    if target.endswith("fp32"):
        assert judged["agreement"]["agreement"] == 1.0
        assert judged["subject"]["scores"] == judged["reference"]["scores"]
    else:
        assert abs(judged["subject"]["scores"]["miou"] - judged["reference"]["scores"]["miou"]) < 0.02


@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_io_types(workshop: Workshop, tmp_path: Path, io: str) -> None:
    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-int8", "--io", io, "--effort", "quick", "-o", "out", "--json"),
        cwd=tmp_path,
    )
    manifest = document(outcome)["manifest"]
    assert [tensor["dtype"] for tensor in (*manifest["inputs"], *manifest["outputs"])] == [io, io]
    judged = document(edgeseg("eval", "out", "--json", cwd=tmp_path))
    assert judged["agreement"]["agreement"] > 0.98


def test_torchscript_file(workshop: Workshop, tmp_path: Path) -> None:
    done = edgeseg("compile", workshop.model("script.pt"), "-t", "onnx-fp32", "-o", "out", "--json", cwd=tmp_path)
    assert document(done)["manifest"]["source"]["kind"] == "torchscript"
    assert document(edgeseg("eval", "out", "--json", cwd=tmp_path))["agreement"]["agreement"] == 1.0


def test_onnx_file_as_the_start(workshop: Workshop, tmp_path: Path) -> None:
    """Its reference is ONNX Runtime, and PyTorch is not loaded at all."""
    outcome = edgeseg(
        *("compile", workshop.model("tiny.onnx"), "-t", "tflite-fp32", "-o", "out", "--json"),
        cwd=tmp_path,
        env=_importing(tmp_path, "torch"),
    )
    assert document(outcome)["manifest"]["source"]["kind"] == "onnx"
    judged = document(edgeseg("eval", "out", "--json", cwd=tmp_path))
    assert judged["reference"]["runtime"] == "onnxruntime"
    assert judged["agreement"]["agreement"] == 1.0


def test_foreign_files(artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path) -> None:
    """A plain .tflite or .onnx file with a spec, judged against a state_dict."""
    for name in ("tflite-fp32/model.tflite", "onnx-fp32/model.onnx"):
        target, _, file = name.partition("/")
        foreign = tmp_path / file
        foreign.write_bytes((artifact(target) / file).read_bytes())
        outcome = edgeseg(
            *("eval", foreign, "--spec", workshop.spec, "--reference", workshop.model("weights.pt")),
            *("--factory", "tiny_net:Net", "--json"),
            cwd=workshop.folder,
        )
        judged = document(outcome)
        assert judged["agreement"]["agreement"] == 1.0
        assert judged["reference"]["name"] == "weights.pt"


def test_init_compile_eval_by_hand(workshop: Workshop, tmp_path: Path) -> None:
    """As README shows it: no file is edited, every command is typed as printed."""
    model = tmp_path / "tiny.pt2"
    model.write_bytes(workshop.model("tiny.pt2").read_bytes())
    first = edgeseg(
        *("init", "tiny.pt2", "--images", workshop.photos, "--masks", workshop.labels),
        *("--mean", "0", "--std", "1", "--classes", "ground,plant,water"),
        cwd=tmp_path,
    )
    assert first.code == 0, first.err
    printed = first.out.rpartition("Next: ")[2].split()
    assert printed == ["edgeseg", "compile", "tiny.pt2", "--target", "tflite-int8"]
    second = edgeseg(*printed[1:], "--effort", "quick", cwd=tmp_path)
    assert second.code == 0, second.err
    assert "operators in int8" in second.out
    third = edgeseg("eval", "build/tiny-tflite-int8", cwd=tmp_path)
    assert third.code == 0, third.err
    assert "mIoU drop" in third.out
    assert "IoU plant" in third.out
    assert edgeseg("inspect", "build/tiny-tflite-int8/model.tflite", cwd=tmp_path).code == 0


def test_init_json_and_no_overwriting(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("tiny.onnx")
    target = tmp_path / "edgeseg.toml"
    told = document(edgeseg("init", model, "--images", workshop.photos, "-o", target, "--json", cwd=tmp_path))
    assert told["spec"]["input"]["shape"] == [1, 3, 32, 32]
    assert len(told["spec"]["classes"]["names"]) == 3
    written = target.read_text()
    refused(edgeseg("init", model, "-o", target, cwd=tmp_path), 1, "exists", "--force")
    assert target.read_text() == written
    (tmp_path / "file").touch()
    refused(edgeseg("init", model, "-o", tmp_path / "file" / "edgeseg.toml", cwd=tmp_path), 1, "Could not write", "--output")


def test_init_asks_for_what_the_file_does_not_tell(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("script.pt")
    refused(edgeseg("init", model, "-o", "edgeseg.toml", cwd=tmp_path), 2, "size of its input", "--shape 1,3,512,512")
    refused(edgeseg("init", model, "-o", "edgeseg.toml", "--shape", "3,32", cwd=tmp_path), 2, "shape", "1,3,512,512")
    assert files_below(tmp_path) == []
    assert edgeseg("init", model, "-o", "edgeseg.toml", "--shape", "1,3,32,32", cwd=tmp_path).code == 0


def test_init_reads_masks_of_0_and_255(workshop: Workshop, tmp_path: Path) -> None:
    """The commonest masks of two classes: 255 is the foreground, unless the user says that it does not count."""
    torch.jit.trace(torch.nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "net.pt"))
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in sorted(workshop.labels.glob("*.png"))[:2]:
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(masks / path.name)

    def classes(*more: str) -> dict[str, object]:
        asked = (
            "init",
            "net.pt",
            "--shape",
            "1,3,32,32",
            "--images",
            workshop.photos,
            "--masks",
            masks,
            "-o",
            "edgeseg.toml",
            "--force",
            "--json",
        )
        document(edgeseg(*asked, *more, cwd=tmp_path))
        return tomllib.loads((tmp_path / "edgeseg.toml").read_text())["classes"]

    assert classes() | {"names": 0} == {"names": 0, "mask_values": [0, 255], "ignore_index": "none"}
    assert classes("--ignore-index", "254")["mask_values"] == [0, 255]
    assert "mask_values" not in classes("--ignore-index", "255")
    assert classes("--ignore-index", "none")["ignore_index"] == "none"
    wrong = edgeseg("init", "net.pt", "--shape", "1,3,32,32", "--ignore-index", "many", "-o", "other.toml", cwd=tmp_path)
    refused(wrong, 2, "--ignore-index many", '"none"')


def _importing(folder: Path, *unwanted: str) -> dict[str, str]:
    """Environment of a child that dies when it imports one of ``unwanted``."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Trap:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {unwanted!r} and sys._getframe(1).f_code.co_name == '_find_spec':\n"
        "            os.write(2, f'imported {name}'.encode())\n"
        "            os._exit(99)\n"
        "sys.meta_path.insert(0, Trap())\n"
    )
    return {"PYTHONPATH": str(site)}


def test_trap_works(tmp_path: Path) -> None:
    """Otherwise the tests that use it would prove nothing."""
    command = [sys.executable, "-c", "import json, colorsys"]
    done = subprocess.run(command, env=environment(_importing(tmp_path, "colorsys")), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (99, "imported colorsys")


def test_second_compile_does_no_work(workshop: Workshop, tmp_path: Path) -> None:
    cache = {"EDGESEG_CACHE": str(tmp_path / "cache")}
    arguments = ("compile", workshop.model("tiny.pt2"), "-t", "onnx-int8", "--effort", "quick", "--json", "-o")
    first = document(edgeseg(*arguments, "first", cwd=tmp_path, env=cache))
    assert first["cached"] is False
    # Neither PyTorch nor a runtime is loaded for a second one, in another place and from a copy of the model.
    copy = tmp_path / "renamed.pt2"
    copy.write_bytes(workshop.model("tiny.pt2").read_bytes())
    heavy = _importing(tmp_path, "torch", "onnx", "onnxruntime", "onnxslim", "tensorflow", "ai_edge_litert", "scipy")
    again = edgeseg("compile", copy, "--spec", workshop.spec, *arguments[2:], "second", cwd=tmp_path, env={**cache, **heavy})
    second = document(again)
    assert second["cached"] is True
    assert (tmp_path / "second" / "model.onnx").read_bytes() == (tmp_path / "first" / "model.onnx").read_bytes()
    manifest = load_artifact(tmp_path / "second").manifest
    assert (manifest.name, manifest.source.file, manifest.source.path) == ("renamed", "renamed.pt2", str(copy.resolve()))
    assert manifest.command[-1] == "second"
    assert second["manifest"]["stages"] == first["manifest"]["stages"]


def test_what_changes_the_key(workshop: Workshop, tmp_path: Path) -> None:
    cache = {"EDGESEG_CACHE": str(tmp_path / "cache")}

    def cached(*flags: str | Path) -> bool:
        outcome = edgeseg(
            *("compile", workshop.model("tiny.onnx"), "-t", "onnx-fp32", "--json", "-o", "out", *flags), cwd=tmp_path, env=cache
        )
        return bool(document(outcome)["cached"])

    assert not cached()
    assert cached()
    assert not cached("--no-cache")
    assert not cached("--count", "4")
    assert cached("--count", "4")
    other = tmp_path / "other.toml"
    text = workshop.spec.read_text().replace('"photos"', f'"{workshop.photos}"').replace('"labels"', f'"{workshop.labels}"')
    other.write_text(text + '\n[preprocess]\ncolor = "BGR"\n')
    assert not cached("--spec", other)
    size = edgeseg("cache", "show", "--json", cwd=tmp_path, env=cache).document()
    freed = edgeseg("cache", "clear", "--json", cwd=tmp_path, env=cache).document()
    assert isinstance(size, dict)
    assert isinstance(freed, dict)
    assert size["bytes"] == freed["bytes_freed"] > 0
    assert not cached()


def test_edited_factory_is_another_model(workshop: Workshop, tmp_path: Path) -> None:
    """The architecture is code beside the weights' file: an edit of it must not be answered from the cache."""
    (tmp_path / "weights.pt").write_bytes(workshop.model("weights.pt").read_bytes())
    code = (workshop.folder / "tiny_net.py").read_text()
    (tmp_path / "blocks.py").write_text(code)
    (tmp_path / "my_net.py").write_text("from blocks import Net\n")
    cache = {"EDGESEG_CACHE": str(tmp_path / "cache")}
    arguments = ("compile", "weights.pt", "-t", "onnx-fp32", "--factory", "my_net:Net", "--spec", workshop.spec, "-o", "out")

    def cached() -> bool:
        return bool(document(edgeseg(*arguments, "--json", cwd=tmp_path, env=cache))["cached"])

    assert not cached()
    assert cached()
    (tmp_path / "blocks.py").write_text(
        code.replace("y = self.head(self.down(self.stem(x)))", "y = -self.head(self.down(self.stem(x)))")
    )
    assert not cached()


def test_two_compiles_at_once(workshop: Workshop, tmp_path: Path) -> None:
    """On one cache, and into one folder."""
    command = [*COMMAND, "compile", str(workshop.model("tiny.onnx")), "-t", "onnx-int8", "-o", "out", "--json"]
    env = environment({"EDGESEG_CACHE": str(tmp_path / "cache")})
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for child in both:
        _, err = child.communicate(timeout=120)
        assert (child.returncode, err) == (0, "")
    load_artifact(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
    third = edgeseg("compile", workshop.model("tiny.onnx"), "-t", "onnx-int8", "-o", "out", "--json", cwd=tmp_path, env=env)
    assert document(third)["cached"] is True


def test_altered_artifact_is_refused(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    source = artifact("onnx-fp32")
    altered = tmp_path / "altered"
    altered.mkdir()
    for path in source.iterdir():
        (altered / path.name).write_bytes(path.read_bytes())
    data = bytearray((altered / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (altered / "model.onnx").write_bytes(bytes(data))
    for verb in ("eval", "inspect"):
        refused(edgeseg(verb, altered, cwd=tmp_path), 1, "model.onnx", "altered")


def test_reference_must_be_the_model_that_was_compiled(artifact: Callable[[str], Path], workshop: Workshop) -> None:
    path = artifact("onnx-fp32")
    outcome = edgeseg("eval", path, "--reference", workshop.model("two.pt2"), cwd=path.parent)
    refused(outcome, 2, "two.pt2", "not the model", "tiny.pt2")


def test_inspect(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    path = artifact("tflite-int8")
    for subject in (path, path / "model.tflite"):
        found = edgeseg("inspect", subject, "--json", cwd=tmp_path)
        assert found.code == 0, found.err
        assert found.err == ""
        assert found.document()


def test_explain(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    explained = edgeseg("explain", artifact("tflite-int8"), "--json", cwd=tmp_path)
    assert (explained.code, explained.err) == (0, "")
    assert explained.document() is not None
    refused(edgeseg("explain", tmp_path, cwd=tmp_path), 1, "not an artifact")


def test_python_and_the_command_do_the_same(artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path) -> None:
    import edgeseg as package

    options = package.CompileOptions(output=tmp_path / "out", effort="quick", use_cache=False)
    result = package.compile_model(workshop.model("tiny.onnx"), "onnx-fp32", options=options)
    assert result.artifact == load_artifact(tmp_path / "out")
    judged = package.evaluate(result.artifact)
    assert judged.agreement is not None
    assert judged.agreement.agreement == 1.0
    session = onnxruntime.InferenceSession(str(artifact("onnx-fp32") / "model.onnx"))
    assert [value.name for value in session.get_inputs()] == ["input"]


def test_a_plan_with_learned_weights_gives_the_same_file(workshop: Workshop, tmp_path: Path) -> None:
    """Through the command: weights that were learned at --effort max come back from the plan, bit for bit."""
    asked = ("compile", workshop.model("tiny.onnx"), "-t", "tflite-int8", "--json")
    first = document(edgeseg(*asked, "--policy", "full", "--effort", "max", "-o", "first", cwd=tmp_path))
    notes = " ".join(note for stage in first["manifest"]["stages"] for note in stage["notes"])
    assert "learned weights: noise at the output -" in notes
    document(edgeseg(*asked, "--plan", "first/quantization.json", "-o", "second", cwd=tmp_path))
    for name in ("model.tflite", "quantization.json", "weights.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    (tmp_path / "first" / "weights.npz").write_bytes(b"other")
    spoilt = edgeseg(*asked, "--plan", "first/quantization.json", "--no-cache", "-o", "third", cwd=tmp_path)
    refused(spoilt, 2, "weights.npz", "does not hold the learned weights")


def test_a_plan_may_ask_for_int16_activations(artifact: Callable[[str], Path], workshop: Workshop, tmp_path: Path) -> None:
    """The search never takes them; asked for by hand they run, and agree with the model."""
    plan = json.loads((artifact("tflite-int8") / "quantization.json").read_text())
    for entry in plan["ops"]:
        entry["domain"] = "int16" if entry["kind"] == "CONV_2D" else entry["domain"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    asked = ("compile", workshop.model("tiny.pt2"), "-t", "tflite-int8", "--plan", "plan.json", "-o", "out", "--json")
    document(edgeseg(*asked, cwd=tmp_path))
    graph = read(tmp_path / "out" / "model.tflite")
    assert {graph.tensors[op.id].dtype for op in graph.ops if op.kind == "CONV_2D"} == {"int16"}
    assert document(edgeseg("eval", "out", "--json", cwd=tmp_path))["agreement"]["agreement"] > 0.99
