"""Nothing in a model file runs without trust, and a file that is no model is one clear error."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_nets import SHAPE, Net, altered, export, outputs_agree, script

from edgeseg.errors import ModelError
from edgeseg.model import ModelKind, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


# --- code in files ---------------------------------------------------------------------------------------------------


class Payload:
    """Unpickling it runs a command that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_crafted_pickle_does_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pt"
    torch.save({"state_dict": Payload(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="refused") as caught:
        load_model(path, factory="my_project:build")
    assert "--trust-pickle" in caught.value.hint
    assert not mark.exists()
    # The same file would have run it: the test is about the refusal, not about a harmless file.
    with pytest.raises(ModelError):
        load_model(path, trust_pickle=True)
    assert mark.exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ModelError):
        load_model(path)
    assert not mark.exists()


def test_a_pickled_network_needs_trust(net: Net, x: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(net, path)
    with pytest.raises(ModelError, match="names Python code"):
        load_model(path)
    model = load_model(path, trust_pickle=True)
    assert model.kind is ModelKind.PICKLED_MODULE
    assert outputs_agree(model, net, x)


def test_pickled_sample_inputs_of_an_exported_program_do_not_run(net: Net, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save(Payload(mark), tmp_path / "evil.pt")
    good = export(net, tmp_path / "good.pt2")
    bad = altered(good, tmp_path / "bad.pt2", "sample_inputs/model.pt", lambda _: (tmp_path / "evil.pt").read_bytes())
    with pytest.raises(ModelError):
        load_model(bad)
    assert not mark.exists()
    with pytest.raises(ModelError):
        load_model(bad, trust_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("torch.ops.aten.relu.default", "torch.os.system", "not an operator"),
        ("torch.ops.aten.relu.default", "torch.ops.load_library", "not an operator"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default", "not an operator"),
    ],
)
def test_an_exported_graph_that_calls_python_is_refused(net: Net, tmp_path: Path, find: str, put: str, said: str) -> None:
    good = export(net, tmp_path / "good.pt2")
    bad = altered(good, tmp_path / "bad.pt2", "models/model.json", lambda text: text.replace(find.encode(), put.encode()))
    with pytest.raises(ModelError, match=said):
        load_model(bad)


def test_a_shape_expression_that_is_code_is_refused(net: Net, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(net, (torch.zeros(2, *SHAPE[1:]),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, str(tmp_path / "dynamic.pt2"))
    assert load_model(tmp_path / "dynamic.pt2").kind is ModelKind.EXPORTED_PROGRAM
    mark = tmp_path / "ran"

    def poison(text: bytes) -> bytes:
        document = json.loads(text)
        pending, changed = [document], 0
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                if "expr_str" in item:
                    item["expr_str"], changed = f"__import__('os').system('touch {mark}')", changed + 1
                pending.extend(item.values())
            elif isinstance(item, list):
                pending.extend(item)
        assert changed
        return json.dumps(document).encode()

    bad = altered(tmp_path / "dynamic.pt2", tmp_path / "bad.pt2", "models/model.json", poison)
    with pytest.raises(ModelError, match="shape expression"):
        load_model(bad)
    assert not mark.exists()


def test_torchscript_that_writes_files_is_refused(tmp_path: Path) -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "/tmp/should-not-exist")
            return x

    torch.jit.script(Writes()).save(str(tmp_path / "model.pt"))
    with pytest.raises(ModelError, match=r"torch\.save|aten\.save"):
        load_model(tmp_path / "model.pt")


# --- bad files -------------------------------------------------------------------------------------------------------


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / "model.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("epoch,loss\n1,0.5\n")
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("notes.txt", "hello")
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(4096))
    elif kind == "truncated":
        content = script(Net().eval(), path).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "damaged":
        altered(script(Net().eval(), folder / "good.pt"), path, "data.pkl", lambda content: content[: len(content) // 2])
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no file"),
        ("folder", "folder"),
        ("empty", "empty"),
        ("text", "text file"),
        ("lfs", "LFS pointer"),
        ("zip", "not one that PyTorch wrote"),
        ("noise", "not a model file"),
        ("truncated", "damaged"),
        ("damaged", "cannot read"),
        ("tensor", "without a state_dict"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, kind: str, said: str) -> None:
    path = bad_file(kind, tmp_path)
    with pytest.raises(ModelError, match=said) as caught:
        load_model(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
