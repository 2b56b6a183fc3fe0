"""The trained model as it comes from training: one object, whatever kind of file it was in.

========================  =================================  =====================================
kind                      what is in the file                what is needed besides
========================  =================================  =====================================
exported-program (.pt2)   graph and weights                  nothing
torchscript               program and weights                nothing
state-dict                weights                            ``factory``, which builds the network
pickled-module            a pickle that names Python code    ``trust_pickle``
onnx                      graph and weights                  nothing (its reference is ONNX Runtime)
========================  =================================  =====================================

Without ``trust_pickle`` nothing in a file is run as Python.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import ModelError, UsageError, missing_extra
from edgeseg.graph import digest_file
from edgeseg.modelfile import Container, code_in_export, code_in_torchscript, sniff, tree_types
from edgeseg.noise import captured_python
from edgeseg.outputs import as_logits
from edgeseg.spec import Layout

if TYPE_CHECKING:
    import torch

__all__ = ["Model", "ModelKind", "load_model"]


class ModelKind(StrEnum):
    EXPORTED_PROGRAM = "exported-program"
    TORCHSCRIPT = "torchscript"
    STATE_DICT = "state-dict"
    PICKLED_MODULE = "pickled-module"
    ONNX = "onnx"


@dataclass(frozen=True)
class Model:
    """A loaded model file.

    Attributes:
        output_name: the output chosen by the user among several, or None.
        factory: what built the network of a state_dict, or None.
        notes: what had to be done to a file so that its network takes one float32 image; such a network is no longer the program.
    """

    path: Path
    kind: ModelKind
    digest: str
    output_name: str | None = None
    factory: str | None = None
    notes: tuple[str, ...] = ()
    _module: torch.nn.Module | None = field(default=None, repr=False, compare=False)
    _program: torch.export.ExportedProgram | None = field(default=None, repr=False, compare=False)

    def module(self) -> torch.nn.Module:
        """The network in evaluation mode, taking and returning what it was trained to.

        Raises:
            ModelError: an ONNX file has no PyTorch network.
        """
        if self._module is None:
            raise ModelError(
                f"{self.path} is an ONNX file, which PyTorch does not run.", hint="Run it with ONNX Runtime instead."
            )
        return self._module

    def program(self) -> torch.export.ExportedProgram | None:
        """The exported program of a .pt2 file as it is in the file (see ``notes``), None for every other kind."""
        return self._program

    def logits(self, *, input_layout: Layout = Layout.NCHW, output_layout: Layout = Layout.NCHW) -> torch.nn.Module:
        """The network as a module from float32 (1, C, H, W) to logits (1, C, h, w); the layouts are the network's own."""
        module = as_logits(
            self.module(),
            what=str(self.path),
            output_name=self.output_name,
            input_layout=input_layout,
            output_layout=output_layout,
        )
        return module if self._program is not None else module.eval()


def load_model(
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    trust_pickle: bool = False,
    output_name: str | None = None,
) -> Model:
    """Load a trained model on the CPU.

    Args:
        path: the model file; its kind is found by looking into it.
        factory: ``package.module:function`` that builds the network without arguments, for a state_dict or checkpoint.
        trust_pickle: allow Python code that the file names to run.
        output_name: name or index of the output that holds the logits, where the model has several.

    Raises:
        ModelError: the file is missing, damaged, of no known kind, or of a kind that is refused.
        UsageError: ``factory`` is missing, malformed, or given for a file that needs none.
        EnvironmentLack: PyTorch is not installed.
    """
    path = Path(path)
    container = sniff(path)
    if factory is not None and container is not Container.PICKLE:
        raise UsageError(
            f"{path} holds a whole model ({container}), so a factory would not be used.", hint="Leave out --factory."
        )
    if container is Container.ONNX:
        return Model(path=path, kind=ModelKind.ONNX, digest=digest_file(path), output_name=output_name)
    if importlib.util.find_spec("torch") is None:
        raise missing_extra("torch", "torch", f"to load {path}")
    program: torch.export.ExportedProgram | None = None
    if container is Container.EXPORT:
        kind = ModelKind.EXPORTED_PROGRAM
        program = _load_program(path, trust_pickle)
        module = program.module(check_guards=False)
    elif container is Container.TORCHSCRIPT:
        kind = ModelKind.TORCHSCRIPT
        module = _load_torchscript(path, trust_pickle)
    else:
        kind, module = _load_pickle(path, factory, trust_pickle)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    from edgeseg.oneimage import in_single_precision, taking_one_image

    module, cast = in_single_precision(module)
    called: tuple[str, ...] = ()
    if program is not None:
        module, called = taking_one_image(program, module)
    return Model(path, kind, digest_file(path), output_name, factory, (*cast, *called), module, program)


def _load_program(path: Path, trust_pickle: bool) -> torch.export.ExportedProgram:
    import torch

    reason = code_in_export(path)
    if reason and not trust_pickle:
        raise _refused(path, reason)
    try:
        # torch.export.load unpickles sample inputs and odd tensors; this makes it use the restricted unpickler for all.
        with (
            captured_python("torch"),
            _environment("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0" if trust_pickle else "1"),
            _stand_ins(tree_types(path)),
        ):
            program = torch.export.load(str(path))
    except Exception as error:
        raise _unreadable(path, error) from error
    if program.graph_signature.buffers_to_mutate or _drops_out(program):
        raise ModelError(
            f"{path} was exported in training mode: it changes its batch-norm statistics or drops activations.",
            hint="Call model.eval() before torch.export.export and save it again.",
        )
    return program


@contextlib.contextmanager
def _stand_ins(names: Iterable[str]) -> Iterator[None]:
    """Lets a program be read that returns a class of a library which is not imported here (Hugging Face: ModelOutput).

    Where the file keeps the fields' names the program then returns a dict, else a tuple. The names are taken out of PyTorch's
    registry again, so that the library itself can still be imported afterwards; the classes stay, the program needs them.
    """
    from torch.utils import _pytree as pytree

    unknown = [name for name in names if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE]
    for name in unknown:
        pytree.register_pytree_node(
            type(name.rpartition(".")[2], (dict,), {}),
            lambda held: (list(held.values()), list(held)),
            _as_named,
            serialized_type_name=name,
        )
    try:
        yield
    finally:
        for name in unknown:
            del pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE[name]


def _as_named(values: Iterable[object], names: object) -> dict[str, object] | tuple[object, ...]:
    held = tuple(values)
    if isinstance(names, list) and len(names) == len(held):
        return dict(zip(map(str, names), held, strict=True))
    return held


def _drops_out(program: torch.export.ExportedProgram) -> bool:
    return any(
        "dropout" in str(node.target) and True in node.args for node in program.graph.nodes if node.op == "call_function"
    )


def _load_torchscript(path: Path, trust_pickle: bool) -> torch.nn.Module:
    import torch

    reason = code_in_torchscript(path)
    if reason and not trust_pickle:
        raise _refused(path, reason)
    try:
        with captured_python("torch"):
            return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise _unreadable(path, error) from error


def _load_pickle(path: Path, factory: str | None, trust_pickle: bool) -> tuple[ModelKind, torch.nn.Module]:
    import torch

    try:
        with captured_python("torch"), _current_folder_importable():
            content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise _unreadable(path, error) from error
        if "weights_only" not in str(error) and "Weights only" not in str(error):
            raise _unreadable(path, error) from error
        raise _refused(path, "it is a pickle that names Python code") from error
    except (AttributeError, ImportError) as error:
        raise ModelError(
            f"{path} is a pickle of code that is not here: {error}.",
            hint="Run edgeseg where the model's own package can be imported, or save a state_dict and give --factory.",
        ) from error
    except Exception as error:
        raise _unreadable(path, error) from error
    if isinstance(content, torch.nn.Module):
        if factory is not None:
            raise UsageError(f"{path} holds a whole network, so a factory would not be used.", hint="Leave out --factory.")
        return ModelKind.PICKLED_MODULE, content.eval()
    weights = _find_weights(content)
    if weights is None:
        raise ModelError(
            f"{path} holds a {type(content).__name__} without a state_dict.",
            hint="Save model.state_dict(), or the exported model with torch.export.save.",
        )
    if factory is None:
        raise UsageError(
            f"{path} holds weights only ({len(weights)} tensors), not the network that they belong to.",
            hint="Name a function without arguments that builds the network: --factory package.module:function.",
        )
    module = _build(factory)
    _fill(module, weights, path, factory)
    return ModelKind.STATE_DICT, module.eval()


def _find_weights(content: object) -> dict[str, torch.Tensor] | None:
    """The state_dict itself, or the first one inside a checkpoint: a mapping of names to tensors."""
    import torch

    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(key, str) for key in content):
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        # Beside its tensors a state_dict may hold a module's extra state.
        if len(tensors) == sum(not str(key).endswith("_extra_state") for key in content):
            return tensors
    nested = sorted(content.items(), key=lambda item: "state_dict" not in str(item[0]))
    for _, value in nested:
        weights = _find_weights(value) if isinstance(value, Mapping) else None
        if weights is not None and any(tensor.ndim == 4 for tensor in weights.values()):
            return weights
    return None


def _build(factory: str) -> torch.nn.Module:
    import torch

    module_name, _, function_name = factory.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"'{factory}' does not name a factory.", hint="Write it as package.module:function, with the colon.")
    try:
        with _current_folder_importable():
            function = getattr(importlib.import_module(module_name), function_name)
            network = function()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"The factory '{factory}' cannot be imported: {error}.",
            hint="Run edgeseg in the folder of that package, or set PYTHONPATH.",
        ) from error
    except Exception as error:
        raise ModelError(
            f"The factory '{factory}' failed: {type(error).__name__}: {error}.",
            hint="It must build the network without arguments.",
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(
            f"The factory '{factory}' returned a {type(network).__name__}, not a torch.nn.Module.",
            hint="Return the network itself.",
        )
    return network


def _fill(module: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path, factory: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    weights = _without_common_prefix(weights, set(wanted))
    missing = [name for name in wanted if name not in weights and not name.endswith("num_batches_tracked")]
    extra = [name for name in weights if name not in wanted]
    other = [
        f"{name} is {tuple(weights[name].shape)} in the file, {shape} in the network"
        for name, shape in wanted.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    findings = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing in the file"), (extra, "unknown to the network"), (other, "of another shape"))
        if names
    ]
    if findings:
        raise ModelError(
            f"The weights in {path} do not fit the network that '{factory}' builds: {'; '.join(findings)}.",
            hint="Build the network with the same options as in training.",
        )
    module.load_state_dict(weights, strict=False)


def _without_common_prefix(weights: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """Strip what DataParallel, torch.compile or Lightning put before every name, as far as that helps."""
    stripped = weights
    while not wanted & set(stripped):
        prefixes = {name.partition(".")[0] for name in stripped}
        if len(prefixes) != 1 or not all("." in name for name in stripped):
            return weights
        stripped = {name.partition(".")[2]: tensor for name, tensor in stripped.items()}
    return stripped


def _refused(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is refused: {reason}, so opening it could run any command on this machine.",
        hint="Better: save it with torch.export.save, or save model.state_dict() and give --factory. "
        "Only if you trust where it comes from: --trust-pickle.",
    )


def _unreadable(path: Path, error: Exception) -> ModelError:
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return ModelError(
        f"PyTorch cannot read {path}: {type(error).__name__}: {first}.",
        hint="Copy or download the model again, or save it again with a current PyTorch.",
    )


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """An installed command does not see the current folder, where a project's code often lies."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
