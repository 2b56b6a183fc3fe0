"""``edgeseg drift``: scores with intervals, the waterfall, layers, groups and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from shell import Outcome, edgeseg, refused
from sklearn.metrics import confusion_matrix

from edgeseg.data.embedded import embedded_root

ROOT = embedded_root()
_GIVEN = ("--spec", ROOT / "edgeseg.toml", "--reference", ROOT / "scenes.pt2", "--limit", "1", "--layers", "0")


def _miou(model: Path) -> float:
    """By ONNX Runtime, Pillow and scikit-learn alone."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    matrix = np.zeros((6, 6), np.int64)
    for path in sorted((ROOT / "val" / "images").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        x = ((pixels - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        (logits,) = session.run(None, {session.get_inputs()[0].name: x})
        truth = np.asarray(Image.open(ROOT / "val" / "masks" / path.name))
        counted = truth != 255
        matrix += confusion_matrix(truth[counted], logits[0].argmax(axis=0)[counted], labels=range(6))
    hit = np.diag(matrix)
    return float(np.mean(hit / (matrix.sum(axis=0) + matrix.sum(axis=1) - hit)))


def test_int8_artifact(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """Scores agree with an independent evaluation; the stages' changes add up to the whole."""
    done = edgeseg("drift", embedded("onnx-int8"), "--overlays", "pictures", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = done.document()
    drift, waterfall = found["drift"], found["waterfall"]
    before, after = _miou(embedded("onnx-fp32") / "model.onnx"), _miou(embedded("onnx-int8") / "model.onnx")
    assert drift["miou"]["reference"] == pytest.approx(before, abs=1e-5)
    assert drift["miou"]["candidate"] == pytest.approx(after, abs=1e-9)
    assert drift["miou"]["interval"]["low"] <= after - before + 1e-5
    assert [step["stage"] for step in waterfall["steps"]] == ["export", "simplify", "quantize", "kernels"]
    assert sum(step["miou"]["change"] for step in waterfall["steps"]) == pytest.approx(drift["miou"]["change"], abs=1e-12)
    assert [layer["tensor"] for layer in found["layers"]][-1] == "logits"
    assert len(found["layers"]) > 30
    assert all(10 < layer["snr_db"] < 80 for layer in found["layers"])
    written = sorted(path.stem for path in (tmp_path / "pictures").iterdir())
    assert written == sorted(image["name"] for image in drift["worst_images"])
    assert Image.open(tmp_path / "pictures" / f"{written[0]}.png").width > 5 * 160


def test_tflite_kernels_are_a_step_of_their_own(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    done = edgeseg("drift", embedded("tflite-fp32"), "--limit", "10", cwd=tmp_path)
    assert done.code == 0, done.err
    words = done.out.split()
    for stage in ("export", "simplify", "lower", "rewrite", "kernels"):
        assert stage in words, stage
    assert "No stage costs measurably." in done.out


def test_groups_and_a_foreign_file(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    """A foreign file needs a reference, its kernels are a step of their own, and its images may form groups."""
    foreign, groups = tmp_path / "foreign.onnx", tmp_path / "groups.csv"
    foreign.write_bytes((embedded("onnx-int8") / "model.onnx").read_bytes())
    groups.write_text("".join(f"{index:04d}.png,{'even' if index % 2 == 0 else 'odd'}\n" for index in range(24)))
    same = ("drift", foreign, "--spec", ROOT / "edgeseg.toml")
    refused(edgeseg(*same, cwd=tmp_path), 2, "--reference")
    done = edgeseg(*same, "--reference", ROOT / "scenes.pt2", "--groups", groups, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = done.document()
    assert [step["stage"] for step in found["waterfall"]["steps"]] == ["file", "kernels"]
    assert found["layers"] == []
    assert [(group["name"], group["images"]) for group in found["drift"]["groups"]] == [("even", 12), ("odd", 12)]
    groups.write_text("0000,even,odd\n")
    refused(edgeseg(*same, "--groups", groups, cwd=tmp_path), 1, "Line 1", "3 columns")
    groups.write_text("0000,even\n0000.png,odd\n")
    refused(edgeseg(*same, "--groups", groups, cwd=tmp_path), 1, "Line 2", "'even' already")
    groups.write_text("nobody,even\n")
    refused(edgeseg(*same, "--reference", ROOT / "scenes.pt2", "--groups", groups, cwd=tmp_path), 1, "name none of the 24")
    refused(edgeseg(*same, "--step", "lower", cwd=tmp_path), 2, "NAME=FILE")
    refused(
        edgeseg(*same, "--reference", ROOT / "scenes.pt2", "--step", f"kernels={foreign}", cwd=tmp_path),
        2,
        "names of their own",
    )


def _drift_of_an_edit(sound: Path, folder: Path, edit: Callable[[np.ndarray], np.ndarray]) -> Outcome:
    """Of one image, after a step 'edit' that changes the last convolution's weights."""
    model = onnx.load(sound)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (weight,) = [one for one in model.graph.initializer if one.name == last.input[1]]
    weight.CopyFrom(onnx.numpy_helper.from_array(edit(onnx.numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, folder / "edited.onnx")
    chain = ("--step", f"export={sound}", "--step", f"edit={folder / 'edited.onnx'}")
    done = edgeseg("drift", folder / "edited.onnx", *_GIVEN, *chain, cwd=folder)
    assert done.code == 0, done.err
    return done


def test_a_stage_that_changes_much_is_named_where_one_image_proves_no_loss(
    embedded: Callable[[str], Path], tmp_path: Path
) -> None:
    sound = embedded("onnx-fp32") / "model.onnx"
    done = _drift_of_an_edit(sound, tmp_path, lambda weight: np.roll(weight, 1, axis=0))
    assert "No stage costs measurably." in done.out
    assert "But 'edit' changes" in done.out
    quiet = edgeseg("drift", sound, *_GIVEN, cwd=tmp_path)
    assert "But '" not in quiet.out


def test_an_empty_file_of_groups_is_not_passed_over(embedded: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("\n")
    done = edgeseg("drift", embedded("onnx-fp32"), "--groups", tmp_path / "groups.csv", "--limit", "1", cwd=tmp_path)
    refused(done, 1, "groups.csv", "empty")


def test_a_stage_is_named_by_the_decisions_that_it_changes_where_none_costs(
    embedded: Callable[[str], Path], tmp_path: Path
) -> None:
    def stretched(weight: np.ndarray) -> np.ndarray:
        return weight * np.linspace(1.0, 1.02, len(weight), dtype=np.float32).reshape(-1, 1, 1, 1)

    done = _drift_of_an_edit(embedded("onnx-fp32") / "model.onnx", tmp_path, stretched)
    assert "Most decisions change in 'edit'" in done.out
