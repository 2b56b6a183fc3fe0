"""One fault in a file of a real chain; the waterfall names the stage.

Every chain here is the product's own stages run one after the other, from the embedded PyTorch model to an INT8 TFLite file. A
fault is put into the file that one stage wrote, and the stages after it run on what they are given, as they would if that stage had
the bug.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from shell import edgeseg

from edgeseg.api import CompileOptions, compile_model
from edgeseg.chain import ChainOptions, build_chain
from edgeseg.data.calibration import open_calibration
from edgeseg.data.embedded import embedded_root
from edgeseg.drifting import DriftOptions, drift, open_comparison
from edgeseg.graph import Format, Graph
from edgeseg.model import load_model
from edgeseg.quantize.plan import QuantPlan
from edgeseg.report.result import DriftReport
from edgeseg.spec import IoType, Target
from edgeseg.spec_file import load_spec

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

ROOT = embedded_root()
MODEL, SPEC = ROOT / "scenes.pt2", ROOT / "edgeseg.toml"
STAGES = ("export", "simplify", "lower", "quantize")


@dataclass(frozen=True)
class Chain:
    """The files that the stages wrote, in order."""

    files: dict[str, Path]

    @property
    def arguments(self) -> list[str]:
        return [word for name, path in self.files.items() for word in ("--step", f"{name}={path}")]

    def drift(self) -> DriftReport:
        options = DriftOptions(steps=tuple(self.files.items()), resamples=1000)
        return drift(open_comparison(self.files["quantize"], SPEC, MODEL, options), options)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the search decided for the model without fault."""
    folder = tmp_path_factory.mktemp("plan") / "artifact"
    compile_model(MODEL, "tflite-int8", options=CompileOptions(output=folder, effort="quick"))
    return folder / "quantization.json"


def build(
    folder: Path,
    plan: Path,
    fault: tuple[str, Callable[[Path], None]] | None = None,
    *,
    sound: Chain | None = None,
    until: str | None = None,
) -> Chain:
    """Run the stages; ``fault`` is put into the file that its stage wrote. Files of ``sound`` up to ``until``, by default the
    faulty one, are taken instead of made again."""
    spec = load_spec(SPEC)
    stages = build_chain(
        ChainOptions(
            target=Target.TFLITE_INT8,
            model=load_model(MODEL),
            spec=spec,
            calibration=open_calibration(spec, ROOT),
            io=IoType.FLOAT32,
            plan=plan,
        )
    )
    assert tuple(stage.name for stage in stages) == STAGES
    folder.mkdir(exist_ok=True)
    graph: Graph | None = None
    files: dict[str, Path] = {}
    reused = STAGES[: STAGES.index(until or (fault[0] if fault else STAGES[0])) + 1] if sound is not None else ()
    for stage in stages:
        if sound is not None and stage.name in reused:
            copy = folder / sound.files[stage.name].name
            copy.write_bytes(sound.files[stage.name].read_bytes())
            graph = Graph.of(copy, Format(copy.suffix[1:]))
        else:
            graph = stage.run(graph, folder).graph
        if fault is not None and fault[0] == stage.name:
            fault[1](graph.path)
            graph = Graph.of(graph.path, Format(graph.path.suffix[1:]))
        files[stage.name] = graph.path
    return Chain(files)


def _wrong_mean(path: Path) -> None:
    """The mean is subtracted once more."""
    model = onnx.load(path)
    rule = load_spec(SPEC).preprocess
    shift = (np.float32(rule.mean) / np.float32(rule.std)).reshape(1, 3, 1, 1)
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["shifted" if one == name else one for one in node.input]
    model.graph.initializer.append(numpy_helper.from_array(shift, "shift"))
    model.graph.node.insert(0, onnx.helper.make_node("Sub", [name, "shift"], ["shifted"]))
    onnx.save(model, path)


def _swapped_weight(path: Path) -> None:
    """Two output channels of the last convolution change places."""
    model = onnx.load(path)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    for name in last.input[1:]:
        (found,) = [one for one in model.graph.initializer if one.name == name]
        values = numpy_helper.to_array(found).copy()
        values[[3, 4]] = values[[4, 3]]
        found.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, path)


def _broken_resize(path: Path) -> None:
    """Pixel centres where corners should be, or the other way round."""
    from edgeseg.tflite.flatbuffer import read, write

    graph = read(path)
    kinds = {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
    assert any(op.kind in kinds for op in graph.ops)
    graph.ops = [
        replace(
            op, options={**op.options, "alignCorners": False, "halfPixelCenters": not op.options.get("halfPixelCenters", False)}
        )
        if op.kind in kinds
        else op
        for op in graph.ops
    ]
    write(graph, path)


def _with_room(plan: Path, out: Path) -> Path:
    """The plan with a range for the tensor that ``_wrong_mean`` adds: the input's, with room for the shift."""
    found = msgspec.json.decode(plan.read_bytes(), type=QuantPlan)
    source = next(iter(found.tensors.values()))
    found.tensors["shifted"] = msgspec.structs.replace(source, scale=(2 * source.scale[0],), zero_point=(64,))
    out.write_bytes(msgspec.json.encode(found))
    return out


def _clipped(plan: Path, out: Path) -> Path:
    """The range of one activation in the middle of the net is an eighth of what it should be."""
    found = msgspec.json.decode(plan.read_bytes(), type=QuantPlan)
    convolutions = [op.op for op in found.ops if op.kind == "CONV_2D" and op.domain.value == "int8" and op.op in found.tensors]
    name = convolutions[len(convolutions) // 2]
    scale = found.tensors[name].scale
    found.tensors[name] = msgspec.structs.replace(found.tensors[name], scale=tuple(one / 8 for one in scale))
    out.write_bytes(msgspec.json.encode(found))
    return out


def _other_kernel(path: Path) -> None:
    """The file amplifies the last bit of a sigmoid, which XNNPACK and LiteRT's own kernel compute differently: it adds
    ``1e8 * (sigmoid(y) - sigmoid'(y))``, where XNNPACK takes the first and cannot take the second, of seven axes. On LiteRT's own
    kernels the two are equal to the bit and the file is what it was."""
    from edgeseg.tflite.builder import GraphBuilder
    from edgeseg.tflite.flatbuffer import read, write

    graph = read(path)
    (logits,) = graph.outputs
    shape = graph.tensors[logits].shape
    build = GraphBuilder(graph)
    long = (1, 1, 1, *shape)
    one = build.op("LOGISTIC", (logits,), shape)
    folded = build.op("RESHAPE", (logits, build.ints("long", long)), long, options={"newShape": long})
    other = build.op("LOGISTIC", (folded,), long)
    back = build.op("RESHAPE", (other, build.ints("short", shape)), shape, options={"newShape": shape})
    bits = build.op("SUB", (one, back), shape)
    large = build.op("MUL", (bits, build.constant("amplifier", np.float32([1e8]))), shape)
    graph.outputs = (build.op("ADD", (logits, large), shape, name="amplified"),)
    write(graph, path)


@pytest.fixture(scope="module")
def clean(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return build(tmp_path_factory.mktemp("clean") / "chain", plan)


def test_nothing_is_named_where_nothing_is_wrong(clean: Chain) -> None:
    found = clean.drift()
    assert found.waterfall is not None
    assert [step.stage for step in found.waterfall.steps] == [*STAGES, "kernels"]
    assert found.waterfall.culprit is None
    assert any(layer.int8 for layer in found.layers)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ("export", _wrong_mean),
        ("simplify", _swapped_weight),
        ("lower", _broken_resize),
        ("quantize", None),
        ("kernels", None),
    ],
)
def test_stage_is_named(clean: Chain, plan: Path, tmp_path: Path, stage: str, fault: Callable[[Path], None] | None) -> None:
    if stage == "quantize":
        chain = build(tmp_path / "chain", _clipped(plan, tmp_path / "clipped.json"), sound=clean, until="lower")
    elif stage == "kernels":
        path = tmp_path / "amplified.tflite"
        path.write_bytes(clean.files["quantize"].read_bytes())
        _other_kernel(path)
        chain = Chain({**clean.files, "quantize": path})
    else:
        assert fault is not None
        chain = build(tmp_path / "chain", _with_room(plan, tmp_path / "plan.json"), (stage, fault), sound=clean)
    waterfall = chain.drift().waterfall
    assert waterfall is not None
    assert waterfall.culprit == stage
    changes = {step.stage: step.miou.change for step in waterfall.steps}
    loss = -changes.pop(stage)
    assert all(abs(change) < 0.3 * loss for change in changes.values()), waterfall


def test_the_command_names_it(clean: Chain, plan: Path, tmp_path: Path) -> None:
    chain = build(tmp_path / "chain", plan, ("simplify", _swapped_weight), sound=clean)
    given = ("--spec", SPEC, "--reference", MODEL, "--limit", "12", *chain.arguments)
    done = edgeseg("drift", chain.files["quantize"], *given, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "The loss arises in 'simplify'." in done.out
