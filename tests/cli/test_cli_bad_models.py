"""Model files that cannot be compiled: one clear error each, and nothing written."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shell import Outcome, edgeseg, files_below, refused
from workshop import Workshop


def compiled(model: Path, workshop: Workshop, folder: Path, *flags: str | Path, target: str = "onnx-fp32") -> Outcome:
    """Compile into ``folder/out`` with the workshop's spec."""
    return edgeseg("compile", model, "-t", target, "--spec", workshop.spec, "-o", folder / "out", *flags, cwd=folder)


def test_missing_file(workshop: Workshop, tmp_path: Path) -> None:
    refused(compiled(tmp_path / "nowhere.pt2", workshop, tmp_path), 1, "nowhere.pt2", "no file")
    assert files_below(tmp_path) == []


def test_missing_file_is_named_before_a_missing_spec(tmp_path: Path) -> None:
    refused(edgeseg("compile", "nowhere.pt2", "-t", "onnx-fp32", cwd=tmp_path), 1, "nowhere.pt2", "no file")


def test_missing_spec_says_how_to_make_one(workshop: Workshop, tmp_path: Path) -> None:
    lonely = tmp_path / "tiny.onnx"
    lonely.write_bytes(workshop.model("tiny.onnx").read_bytes())
    refused(edgeseg("compile", lonely, "-t", "onnx-fp32", cwd=tmp_path), 2, "edgeseg.toml", "edgeseg init")


@pytest.mark.parametrize("name", ["script.pt", "weights.pt", "module.pt", "tiny.pt2", "tiny.onnx"])
def test_truncated_file(workshop: Workshop, tmp_path: Path, name: str) -> None:
    whole = workshop.model(name).read_bytes()
    short = tmp_path / name
    short.write_bytes(whole[: len(whole) * 2 // 3])
    refused(compiled(short, workshop, tmp_path), 1, name)
    assert files_below(tmp_path) == [name]


def test_text_file_called_pt(workshop: Workshop, tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("Download the weights from our web page.\n" * 20)
    refused(compiled(text, workshop, tmp_path), 1, "notes.pt")
    assert files_below(tmp_path) == ["notes.pt"]


def test_empty_file(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    refused(compiled(tmp_path / "empty.pt", workshop, tmp_path), 1, "empty.pt", "empty")


class _Command:
    """Unpickling this creates a file: it stands for any command."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.witness), "w")


def _bare_pickle(path: Path, payload: object) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=2))


def _zipped_pickle(path: Path, payload: object) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@pytest.mark.parametrize("write", [_bare_pickle, _zipped_pickle])
@pytest.mark.parametrize("verb", ["compile", "init", "eval"])
def test_crafted_pickle_does_not_run(workshop: Workshop, tmp_path: Path, write: object, verb: str) -> None:
    assert callable(write)
    witness, crafted = tmp_path / "ran", tmp_path / "crafted.pt"
    write(crafted, _Command(witness))
    if verb == "compile":
        outcome = compiled(crafted, workshop, tmp_path)
    elif verb == "init":
        outcome = edgeseg("init", crafted, "--shape", "1,3,32,32", cwd=tmp_path)
    else:
        outcome = edgeseg("eval", crafted, "--spec", workshop.spec, cwd=tmp_path)
    refused(outcome, 1, "crafted.pt", "refused", "--trust-pickle")
    assert files_below(tmp_path) == ["crafted.pt"], "the pickle ran"


def test_the_crafted_pickle_is_a_real_threat(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    _bare_pickle(tmp_path / "crafted.pt", _Command(tmp_path / "ran"))
    pickle.loads((tmp_path / "crafted.pt").read_bytes()).close()
    assert (tmp_path / "ran").exists()


def test_pickled_module_needs_trust(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("module.pt")
    refused(compiled(model, workshop, tmp_path), 1, "module.pt", "refused", "--trust-pickle", "--factory")
    assert files_below(tmp_path) == []
    # Trusted, and run in the folder of its code.
    outcome = edgeseg("compile", model, "-t", "onnx-fp32", "--trust-pickle", "-o", tmp_path / "out", cwd=workshop.folder)
    assert outcome.code == 0, outcome.err
    assert "model.onnx" in files_below(tmp_path / "out")
    # Trust is never remembered.
    refused(compiled(model, workshop, tmp_path), 1, "refused", "--trust-pickle")


def test_state_dict_needs_its_factory(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("weights.pt")
    refused(compiled(model, workshop, tmp_path), 2, "weights.pt", "weights only", "--factory")
    assert files_below(tmp_path) == []
    outcome = edgeseg(
        "compile", model, "-t", "onnx-fp32", "--factory", "tiny_net:Net", "-o", tmp_path / "out", cwd=workshop.folder
    )
    assert outcome.code == 0, outcome.err
    assert "model.onnx" in files_below(tmp_path / "out")


def test_factory_that_cannot_be_imported(workshop: Workshop, tmp_path: Path) -> None:
    outcome = compiled(workshop.model("weights.pt"), workshop, tmp_path, "--factory", "no_such_package:build")
    refused(outcome, 2, "no_such_package", "PYTHONPATH")


def test_two_outputs_are_chosen_by_name(workshop: Workshop, tmp_path: Path) -> None:
    model = workshop.model("two.pt2")
    refused(compiled(model, workshop, tmp_path), 1, "two.pt2", "edges", "regions", "--output-name")
    assert files_below(tmp_path) == []
    refused(compiled(model, workshop, tmp_path, "--output-name", "depth"), 1, "no output named 'depth'", "edges", "regions")
    assert files_below(tmp_path) == []
    outcome = compiled(model, workshop, tmp_path, "--output-name", "regions")
    assert outcome.code == 0, outcome.err
    judged = edgeseg("eval", tmp_path / "out", "--json", cwd=tmp_path).document()
    assert isinstance(judged, dict)
    assert judged["agreement"]["agreement"] == 1.0, "judged against another output than was compiled"
    assert judged["subject"]["scores"]["miou"] > 0.9, "the other output was compiled"


def test_two_outputs_of_an_onnx_file(workshop: Workshop, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model(workshop.model("tiny.onnx"))
    model.graph.node.append(onnx.helper.make_node("Neg", ["logits"], ["edges"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("edges", onnx.TensorProto.FLOAT, (1, 3, 32, 32)))
    model.graph.output[0].name = "regions"
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["regions"]))
    onnx.save_model(model, tmp_path / "two.onnx")
    refused(compiled(tmp_path / "two.onnx", workshop, tmp_path), 1, "edges", "regions", "--output-name")
    outcome = compiled(tmp_path / "two.onnx", workshop, tmp_path, "--output-name", "regions")
    assert outcome.code == 0, outcome.err
    judged = edgeseg("eval", tmp_path / "two.onnx", "--spec", workshop.spec, "--output-name", "0", "--json", cwd=tmp_path)
    assert judged.code == 0, judged.err
    document = judged.document()
    assert isinstance(document, dict)
    assert document["subject"]["scores"]["miou"] > 0.9


def test_wrong_channel_count_of_the_input(workshop: Workshop, tmp_path: Path) -> None:
    refused(compiled(workshop.model("grey.pt2"), workshop, tmp_path), 2, "grey.pt2", "(1, 1, 32, 32)", "(1, 3, 32, 32)")
    assert files_below(tmp_path) == []


@pytest.mark.parametrize("name", ["tiny.pt2", "tiny.onnx"])
def test_wrong_channel_count_of_the_output(workshop: Workshop, tmp_path: Path, name: str) -> None:
    spec = tmp_path / "five.toml"
    text = workshop.spec.read_text().replace('["ground", "plant", "water"]', '["a", "b", "c", "d", "e"]')
    spec.write_text(text.replace('"photos"', f'"{workshop.photos}"').replace('"labels"', f'"{workshop.labels}"'))
    outcome = edgeseg("compile", workshop.model(name), "-t", "onnx-fp32", "--spec", spec, "-o", tmp_path / "out", cwd=tmp_path)
    refused(outcome, 2, "3 channels", "5 classes", "[classes]")
    assert files_below(tmp_path) == ["five.toml"]


def test_torch_is_not_needed_to_refuse(tmp_path: Path) -> None:
    """A file of no known kind is refused before PyTorch is loaded."""
    text = tmp_path / "notes.pt"
    text.write_text("nothing")
    program = (
        "import sys\nfrom edgeseg.model import load_model\nfrom edgeseg.errors import ModelError\n"
        f"try:\n    load_model({str(text)!r})\nexcept ModelError:\n    print('torch' in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
