"""One fault at each stage of a chain of real files; the waterfall names the stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeseg.api import CompileOptions, compile_model
from edgeseg.data.embedded import embedded_root
from edgeseg.data.pairs import open_evaluation
from edgeseg.drifting import DriftOptions, Step, compare_steps
from edgeseg.session import Float32, ModelInput, Session, SessionInfo
from edgeseg.spec_file import load_spec
from edgeseg.targets.onnx import open_onnx

ROOT = embedded_root()
STAGES = ("model", "export", "simplify", "lower", "quantize", "kernels")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The embedded model as float and INT8 ONNX."""
    folder = tmp_path_factory.mktemp("files")
    found = []
    for target in ("onnx-fp32", "onnx-int8"):
        options = CompileOptions(output=folder / target, effort="quick")
        found.append(compile_model(ROOT / "scenes.pt2", target, options=options).artifact.model_path)
    return found[0], found[1]


class Altered:
    """A session whose input or output is changed on the way."""

    def __init__(
        self,
        session: Session,
        before: Callable[[ModelInput], ModelInput] = lambda x: x,
        after: Callable[[Float32], Float32] = lambda y: y,
    ) -> None:
        self._session, self._before, self._after = session, before, after

    @property
    def info(self) -> SessionInfo:
        return self._session.info

    def feed(self, x: ModelInput) -> None:
        self._session.feed(self._before(x))

    def invoke(self) -> None:
        self._session.invoke()

    def fetch(self) -> Float32:
        return self._after(self._session.fetch())

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _edited(path: Path, out: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, out)
    return out


def _swap_weights(model: onnx.ModelProto) -> None:
    """Two output channels of the last convolution change places."""
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    for name in last.input[1:]:
        (found,) = [one for one in model.graph.initializer if one.name == name]
        values = numpy_helper.to_array(found).copy()
        values[[3, 4]] = values[[4, 3]]
        found.CopyFrom(numpy_helper.from_array(values, name))


def _clip_scale(model: onnx.ModelProto) -> None:
    """The scale of the widest activation in the middle of the net is a tenth of what it should be."""
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    name = pairs[len(pairs) // 2].input[1]
    (found,) = [one for one in model.graph.initializer if one.name == name]
    found.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(found) / 10).astype(np.float32), name))


def _wrong_mean(x: ModelInput) -> ModelInput:
    """The mean is not subtracted."""
    rule = load_spec(ROOT / "edgeseg.toml").preprocess
    forgotten = np.asarray(rule.mean, np.float32) / np.asarray(rule.std, np.float32)
    return ModelInput(pixels=x.pixels, values=x.values + forgotten[None, :, None, None])


def _broken_resize(logits: Float32) -> Float32:
    """Without half-pixel centres: shifted by a pixel or two."""
    return np.roll(logits, (2, 2), axis=(2, 3))


def _other_kernel(logits: Float32) -> Float32:
    """Accumulates in too few bits."""
    step = np.float32(np.abs(logits).max() / 3)
    return np.asarray(np.round(logits / step) * step, np.float32)


def _chain(files: tuple[Path, Path], stage: str | None, folder: Path) -> list[Step]:
    """The files of a chain; what a stage breaks stays broken in those after it."""
    plain, int8 = files
    broken_from = STAGES.index(stage) if stage else len(STAGES)

    def opener(index: int) -> Callable[[], Session]:
        broken = index >= broken_from
        path = int8 if index >= STAGES.index("quantize") else plain
        if broken and stage == "export":
            path = _edited(path, folder / f"{index}.onnx", _swap_weights_of(path, plain))
        if broken and stage == "quantize":
            path = _edited(path, folder / f"{index}.onnx", _clip_scale)
        before = _wrong_mean if broken and stage == "simplify" else (lambda x: x)
        after = {"lower": _broken_resize, "kernels": _other_kernel}.get(stage or "") if broken else None
        return lambda: Altered(open_onnx(path), before, after or (lambda y: y))

    return [Step(name, opener(index)) for index, name in enumerate(STAGES)]


def _swap_weights_of(path: Path, plain: Path) -> Callable[[onnx.ModelProto], None]:
    # In the quantized file the weights are behind DequantizeLinear: swap the logits' channels there, which is the same.
    return _swap_weights if path == plain else _swap_logits


def _swap_logits(model: onnx.ModelProto) -> None:
    output = model.graph.output[0].name
    (last,) = [node for node in model.graph.node if output in node.output]
    last.output[list(last.output).index(output)] = "before_swap"
    order = numpy_helper.from_array(np.array([0, 1, 2, 4, 3, 5]), "swap_order")
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", ["before_swap", "swap_order"], [output], axis=1))


@pytest.mark.parametrize("stage", [None, "export", "simplify", "lower", "quantize", "kernels"])
def test_stage_is_named(files: tuple[Path, Path], tmp_path: Path, stage: str | None) -> None:
    """Swapped weights, a wrong mean, a broken resize, a clipped scale, another kernel; and nothing where nothing is wrong."""
    samples = open_evaluation(load_spec(ROOT / "edgeseg.toml"), ROOT)
    _, waterfall, _ = compare_steps(_chain(files, stage, tmp_path), samples, DriftOptions())
    assert waterfall.culprit == stage
    for step in waterfall.steps:
        if step.stage == stage:
            break
        assert abs(step.miou.change) < 0.01, step
