"""Loading: every kind of file, by content; nothing in a file runs without trust; one clear error for each bad file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgeseg.errors import EdgesegError, ModelError, UsageError
from edgeseg.facts import probe
from edgeseg.model import Model, ModelKind, load_model

SHAPE = (1, 3, 16, 24)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Net(torch.nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Conv2d(8, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.stem(x)))))


class Returns(torch.nn.Module):
    """Returns its logits in one of the ways that libraries do; the auxiliary output is all zeros."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = Net(), how

    def forward(self, x: torch.Tensor) -> object:
        logits = self.net(x)
        zeros = torch.zeros_like(logits)
        if self.how == "dict":
            return OrderedDict(aux=zeros, out=logits)
        if self.how == "single":
            return (logits, logits.mean())
        if self.how == "named":
            return {"coarse": zeros, "fine": logits}
        return [zeros, [logits]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    network = Net()
    with torch.no_grad():
        network.norm.running_mean.uniform_(-1, 1)
        network.norm.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_project.py").write_text(
        "import torch\n"
        "def build(classes=5):\n"
        "    names = [('stem', torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)), ('norm', torch.nn.BatchNorm2d(8)),\n"
        "             ('act', torch.nn.ReLU()), ('head', torch.nn.Conv2d(8, classes, 1))]\n"
        "    return torch.nn.Sequential(__import__('collections').OrderedDict(names))\n"
        "def wide():\n    return build(7)\n"
        "def broken():\n    raise ValueError('no such option')\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_project", raising=False)
    return "my_project:build"


def export(module: torch.nn.Module, path: Path) -> Path:
    torch.export.save(torch.export.export(module, (torch.zeros(SHAPE),)), str(path))
    return path


def script(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.trace(module, torch.zeros(SHAPE)).save(str(path))
    return path


def outputs_agree(model: Model, net: torch.nn.Module, x: torch.Tensor) -> bool:
    with torch.inference_mode():
        return torch.allclose(model.logits()(x), net(x), atol=1e-6)


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".onnx", ""])
def test_exported_program_is_found_by_content(net: Net, x: torch.Tensor, tmp_path: Path, suffix: str) -> None:
    saved = export(net, tmp_path / "saved.pt2")
    path = tmp_path / f"model{suffix}"
    if path != saved:
        shutil.copy(saved, path)
    model = load_model(path)
    assert model.kind is ModelKind.EXPORTED_PROGRAM
    assert outputs_agree(model, net, x)


def test_torchscript_is_found_by_content_and_put_in_evaluation_mode(net: Net, x: torch.Tensor, tmp_path: Path) -> None:
    model = load_model(script(net, tmp_path / "model.pth"))
    assert model.kind is ModelKind.TORCHSCRIPT
    scripted = torch.jit.script(net.train())
    scripted.save(str(tmp_path / "train.bin"))
    assert outputs_agree(load_model(tmp_path / "train.bin"), net.eval(), x)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, "state_dict": weights},
        lambda weights: {"model": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {f"_orig_mod.module.{k}": v for k, v in weights.items()},
    ],
    ids=["plain", "checkpoint", "data-parallel", "compiled"],
)
def test_weights_go_into_the_factorys_network(
    net: Net, x: torch.Tensor, tmp_path: Path, factory: str, wrap: object, zipped: bool
) -> None:
    path = tmp_path / "weights.pt2"
    torch.save(wrap(net.state_dict()), path, _use_new_zipfile_serialization=zipped)  # type: ignore[operator]
    model = load_model(path, factory=factory)
    assert model.kind is ModelKind.STATE_DICT
    assert outputs_agree(model, net, x)


def test_onnx_has_no_network(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    make_onnx(path)
    model = load_model(path)
    assert model.kind is ModelKind.ONNX
    with pytest.raises(ModelError, match="ONNX Runtime"):
        model.module()


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


def altered(source: Path, out: Path, member: str, change: object) -> Path:
    """A copy of a zip archive with one member passed through ``change``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(member) else content)  # type: ignore[operator]
    return out


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


@pytest.mark.usefixtures("factory")
@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (None, UsageError, "weights only"),
        ("my_project", UsageError, "does not name a factory"),
        ("my_project:missing", UsageError, "cannot be imported"),
        ("no_such_package_here:build", UsageError, "cannot be imported"),
        ("my_project:broken", ModelError, "no such option"),
        ("my_project:number", ModelError, "returned a int"),
        ("my_project:wide", ModelError, r"head\.weight is \(5, 8, 1, 1\) in the file, \(7, 8, 1, 1\) in the network"),
    ],
)
def test_factory_errors(net: Net, tmp_path: Path, name: str | None, error: type[EdgesegError], said: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(net.state_dict(), path)
    with pytest.raises(error, match=said) as caught:
        load_model(path, factory=name)
    assert caught.value.hint


def test_mismatched_names_are_listed(net: Net, tmp_path: Path, factory: str) -> None:
    weights = net.state_dict()
    weights["extra.weight"] = weights.pop("stem.weight")
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"missing in the file \(stem\.weight\); 1 unknown to the network \(extra\.weight\)"):
        load_model(tmp_path / "weights.pt", factory=factory)


def test_a_factory_for_a_whole_model_is_an_error(net: Net, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would not be used"):
        load_model(export(net, tmp_path / "model.pt2"), factory="my_project:build")


def test_a_program_exported_in_training_mode_is_refused(net: Net, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="training mode"):
        load_model(export(net.train(), tmp_path / "model.pt2"))


# --- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "name"), [("dict", None), ("single", None), ("named", "fine"), ("nested", "1.0")])
@pytest.mark.parametrize("form", ["pt2", "factory"])
def test_wrapped_outputs(x: torch.Tensor, tmp_path: Path, how: str, name: str | None, form: str) -> None:
    module = Returns(how).eval()
    if form == "pt2":
        path = export(module, tmp_path / "model.pt2")
        model = load_model(path, output_name=name)
    else:
        torch.save(module, tmp_path / "model.pt")
        model = load_model(tmp_path / "model.pt", output_name=name, trust_pickle=True)
    assert outputs_agree(model, module.net, x)


def test_two_possible_outputs_are_listed(x: torch.Tensor, tmp_path: Path) -> None:
    model = load_model(export(Returns("named").eval(), tmp_path / "model.pt2"))
    with pytest.raises(ModelError, match="2 outputs") as caught:
        model.logits()(x)
    assert "coarse (1, 5, 8, 12), fine (1, 5, 8, 12)" in caught.value.message
    assert "--output-name coarse" in caught.value.hint


# --- facts -----------------------------------------------------------------------------------------------------------


def test_facts_of_each_kind(net: Net, tmp_path: Path) -> None:
    facts = probe(load_model(export(net, tmp_path / "model.pt2")))
    assert (facts.input_shape, facts.channels, facts.stride) == (SHAPE, 5, 2)
    scripted = load_model(script(net, tmp_path / "model.pt"))
    facts = probe(scripted)
    assert (facts.input_shape, facts.input_channels, facts.channels) == (None, 3, None)
    facts = probe(scripted, shape=(1, 3, 32, 32))
    assert (facts.output_shape, facts.stride) == ((1, 5, 16, 16), 2)
    make_onnx(tmp_path / "model.onnx")
    facts = probe(load_model(tmp_path / "model.onnx"))
    assert (facts.input_name, facts.input_shape, facts.channels, facts.stride) == ("image", (1, 3, 8, 8), 2, 1)


def make_onnx(path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3, 1, 1), np.arange(6, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["scores"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 2, 8, 8))],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
