"""Loading: every kind of file, by content; nothing in a file runs without trust; one clear error for each bad file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from small_nets import SHAPE, Net, Returns, export, make_onnx, outputs_agree, script

from edgeseg.errors import EdgesegError, ModelError, UsageError
from edgeseg.facts import probe
from edgeseg.model import ModelKind, load_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


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


# --- factories -------------------------------------------------------------------------------------------------------


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


def test_program_that_returns_a_class_of_a_library_that_is_not_here(tmp_path: Path) -> None:
    # Hugging Face's models return a ModelOutput, whose name stands in the file.
    from torch.utils import _pytree as pytree

    class Output(dict):  # type: ignore[type-arg]
        pass

    pytree.register_pytree_node(
        Output,
        lambda held: (list(held.values()), list(held)),
        lambda values, names: Output(zip(names, values, strict=True)),
        serialized_type_name="absent_library.outputs.SegmenterOutput",
    )

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> Output:
            return Output(logits=self.conv(x), hidden=self.conv(x).mean((2, 3)))

    net, image = Net().eval(), torch.rand(1, 3, 8, 8)
    wanted = net(image)["logits"]
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(net, (image,)), path)
    pytree._deregister_pytree_node(Output)
    torch.testing.assert_close(load_model(path).logits()(image), wanted)
    assert "absent_library.outputs.SegmenterOutput" not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE
