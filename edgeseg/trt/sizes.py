"""Heights and widths: a fully convolutional graph that was made for one size, in a form for a range of them.

A graph made for one size has it in the sizes of its Resize and Expand nodes and in poolings over whole maps. Where these follow
from other maps they are taken from those instead. What holds the size in another way (attention over a number of tokens, a table of
positions, group norm by Reshape) is refused: nothing here may give other numbers in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeseg.errors import ModelError, StageError
from edgeseg.onnxgraph.view import SIZE_KEY, GraphView, attribute, node_label
from edgeseg.trt.opset import LEAST_DB, as_written, decibel

if TYPE_CHECKING:
    import onnx

__all__ = ["usual_shape", "with_sizes"]

Size = tuple[int, int]
"""Height and width, pixels."""

_POINTWISE = frozenset(
    {
        *(
            "Abs",
            "Cast",
            "Ceil",
            "Clip",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "LeakyRelu",
        ),
        *("Log", "Mish", "Neg", "QuantizeLinear", "DequantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign"),
        *("Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Sin", "Cos", "Celu"),
    }
)
_BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Where", "Equal", "Greater", "Less", "Sum", "Mean"}
)
_ANY_SIZE = _POINTWISE | {
    *(
        "Conv",
        "BatchNormalization",
        "InstanceNormalization",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Resize",
        "Expand",
        "Transpose",
    ),
    *(
        "Pad",
        "DepthToSpace",
        "SpaceToDepth",
        "Shape",
        "Softmax",
        "LogSoftmax",
        "ArgMax",
        "ReduceMean",
        "ReduceMax",
        "ReduceSum",
    ),
    *("ReduceL2", "ReduceMin", "ReduceSumSquare", "LRN"),
}
_POOLS = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}
_PASSED = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})
_LARGEST_POOL = 3
"""A pooling in strides of its kernel beyond this may be an adaptive one, whose kernel would grow with the map."""

_OPEN_END = 2**31 - 1
_UNKNOWN = "reads or makes something of unknown shape"


def with_sizes(model: onnx.ModelProto, sizes: Sequence[Size], *, stage: str) -> onnx.ModelProto:
    """A copy of a graph made for one size (batch fixed or free) that takes others; run by onnxruntime at each of ``sizes``.

    Raises:
        StageError: the graph holds its size in a way that is not known to follow from the image, or a size is not one it can take.
    """
    import onnx

    source = model.graph.input[0]
    dims = source.type.tensor_type.shape.dim
    if len(dims) != 4 or not all(dim.HasField("dim_value") for dim in dims[2:]):
        raise StageError(
            f"input '{source.name}' is not an image of one size.",
            hint="Give a graph with a fixed height and width.",
            stage=stage,
        )
    usual = (int(dims[2].dim_value), int(dims[3].dim_value))
    others = [size for size in dict.fromkeys(sizes) if size != usual]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    writer = _SizeWriter(copy, _shapes(copy, usual, stage), usual, stage)
    nodes = [made for node in copy.graph.node for made in writer.freed(node)]
    rewritten = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(rewritten)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    for size in others:
        _check(copy, _shapes(copy, usual, stage), _shapes(copy, size, stage), stage)
    _prove(model, copy, usual, others, stage)
    for place, name in ((2, "height"), (3, "width")):
        copy.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    _name_outputs(copy, model)
    kept = [entry for entry in copy.metadata_props if entry.key != SIZE_KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=SIZE_KEY, value=f"{usual[0]}x{usual[1]}")])
    onnx.checker.check_model(copy)
    return copy


def usual_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """The input's shape with the batch of one and the size that the graph was made for where these are free."""
    shape = GraphView(model).one_image.shape(model.graph.input[0].name)
    assert shape is not None, "an input has a shape"
    return shape


def _shapes(model: onnx.ModelProto, size: Size, stage: str) -> Mapping[str, tuple[int, ...]]:
    """Of every tensor for one image of that size; what is not known is left out."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    dims = copy.graph.input[0].type.tensor_type.shape.dim
    for place, length in ((0, 1), (2, size[0]), (3, size[1])):
        dims[place].dim_value = length
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        view = GraphView(copy)
        names = [name for node in copy.graph.node for name in (*node.input, *node.output) if name]
        found = {name: view.shape(name) for name in (*view.inputs, *names)}
    except ModelError as error:
        raise StageError(
            f"the graph does not take {size[0]}x{size[1]}: {error.message}",
            hint="Give sizes in multiples of the network's stride, or leave out --trt-size.",
            stage=stage,
        ) from error
    return {name: shape for name, shape in found.items() if shape is not None and min(shape, default=1) >= 0}


@dataclass
class _SizeWriter:
    """``shapes``: at the usual size."""

    model: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]
    usual: Size
    stage: str
    order: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.view = GraphView(self.model)
        self.order = {name: place for place, node in enumerate(self.view.nodes) for name in node.output}

    def freed(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The node, or those that do the same at any size."""
        if node.op_type in _POOLS and self._is_global(node):
            node.op_type = _POOLS[node.op_type]
            del node.attribute[:]
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            yield from self._resized(node)
            return
        elif node.op_type == "Expand" and self._grows(node):
            yield from self._like(node, 1)
            return
        yield node

    def _spatial(self, name: str) -> tuple[int, ...]:
        shape = self.shapes.get(name, ())
        return shape[2:] if len(shape) == 4 else ()

    def _is_global(self, node: onnx.NodeProto) -> bool:
        kernel = next((tuple(a.ints) for a in node.attribute if a.name == "kernel_shape"), ())
        padded = any(any(a.ints) for a in node.attribute if a.name == "pads")
        return kernel == self._spatial(node.input[0]) and max(kernel, default=1) > 1 and not padded

    def _grows(self, node: onnx.NodeProto) -> bool:
        made = self._spatial(node.output[0])
        return max(made, default=1) > 1 and made != self._spatial(node.input[0])

    def _resized(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """By the size of another map; where there is none, by a whole factor of its own."""
        import onnx

        before, after = self._spatial(node.input[0]), self._spatial(node.output[0])
        if (
            self._pattern(node) is None
            and len(before) == 2
            and all(b % a == 0 or a % b == 0 for a, b in zip(before, after, strict=True))
        ):
            factors = f"{node.output[0]}_factors"
            values = np.asarray([1, 1, *(b / a for a, b in zip(before, after, strict=True))], np.float32)
            self.model.graph.initializer.append(onnx.numpy_helper.from_array(values, factors))
            del node.input[3:]
            node.input[2] = factors
            yield node
            return
        yield from self._like(node, 3)

    def _like(self, node: onnx.NodeProto, place: int) -> Iterator[onnx.NodeProto]:
        """Take the sizes (input ``place``) from the node's own batch and channels and the pattern's height and width."""
        import onnx

        pattern = self._pattern(node)
        if pattern is None:
            made = "x".join(map(str, self._spatial(node.output[0])))
            raise self._refusal(node, f"makes a map of {made}, which follows from no other map")
        own, others, joined = (f"{node.output[0]}_{what}" for what in ("own_lengths", "pattern_size", "any_size"))
        yield onnx.helper.make_node("Shape", [node.input[0]], [own], name=own, start=0, end=2)
        yield onnx.helper.make_node("Shape", [pattern], [others], name=others, start=2, end=4)
        yield onnx.helper.make_node("Concat", [own, others], [joined], name=joined, axis=0)
        node.input[place] = joined
        yield node

    def _pattern(self, node: onnx.NodeProto) -> str | None:
        """A map of the size that the node makes, made before it: what its result is joined with, or the image itself."""
        wanted, place = self._spatial(node.output[0]), self.order[node.output[0]]
        for reader in self._readers(node.output[0]):
            for name in reader.input:
                earlier = self.order.get(name, -1 if name in self.view.inputs else place)
                if earlier < place and self._spatial(name) == wanted and not self.view.is_constant(name):
                    return str(name)
        return self.view.inputs[0] if wanted == self.usual else None

    def _readers(self, name: str) -> Iterator[onnx.NodeProto]:
        for reader in self.view.consumers.get(name, []):
            if reader.op_type in _PASSED:
                yield from self._readers(reader.output[0])
            else:
                yield reader

    def _refusal(self, node: onnx.NodeProto, why: str) -> StageError:
        return _refusal(node, why, self.stage)


def _refusal(node: onnx.NodeProto, why: str, stage: str) -> StageError:
    return StageError(
        f"the graph cannot take other sizes: {node_label(node)} {why}.",
        hint="Compile it once for each size, or leave out --trt-size. --trt-batch is another matter.",
        stage=stage,
    )


def _check(
    model: onnx.ModelProto, usual: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]], stage: str
) -> None:
    """Every node that reads or makes what grows with the image must do at any size what it does at one."""
    view = GraphView(model)
    for node in view.nodes:
        names = [name for name in (*node.input, *node.output) if name]
        if any(name not in usual or name not in other for name in names):
            maps = [usual.get(name, ()) for name in node.input if view.is_constant(name)]
            same = node.op_type in _BROADCAST and any(len(shape) > 2 and max(shape[2:]) > 1 for shape in maps)
            raise _refusal(node, "has a constant of the map's size" if same else _UNKNOWN, stage)
        growing = {
            name: frozenset(i for i, (a, b) in enumerate(zip(usual[name], other[name], strict=True)) if a != b)
            for name in names
            if len(usual[name]) == len(other[name])
        }
        if len(growing) < len(set(names)):
            raise _refusal(node, "makes another number of axes at another size", stage)
        if any(growing[name] for name in node.input if name):
            why = _objection(view, node, usual, growing)
            if why:
                raise _refusal(node, why, stage)


def _objection(
    view: GraphView, node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], growing: Mapping[str, frozenset[int]]
) -> str:
    """Why a node that reads what grows may do something else at another size; empty where it does not."""
    kind, data, made = node.op_type, node.input[0], node.output[0]
    rank = len(shapes[data])
    grows = growing[data]
    if kind in _ANY_SIZE or kind in _BROADCAST:
        if kind in _BROADCAST and any(
            _fixed(shapes[n], shapes[made], growing[made]) for n in node.input if view.is_constant(n)
        ):
            return "has a constant of the map's size"
        return ""
    if kind in _POOLS or kind == "LpPool":
        kernel, steps = (tuple(next((a.ints for a in node.attribute if a.name == n), ())) for n in ("kernel_shape", "strides"))
        adaptive = kernel == steps and max(kernel, default=0) > _LARGEST_POOL
        return f"pools {'x'.join(map(str, kernel))} in strides of that: it may be adaptive" if adaptive else ""
    if kind == "ConvTranspose":
        return "has its output's size as an attribute" if any(a.name == "output_shape" for a in node.attribute) else ""
    if kind in {"Concat", "Split", "Gather"}:
        axis = attribute(node, "axis", 0) % rank
        return f"works along axis {axis}, which grows" if axis in grows else ""
    if kind == "LayerNormalization":
        axis = attribute(node, "axis", -1) % rank
        return "normalizes over an axis that grows" if any(place >= axis for place in grows) else ""
    if kind == "Slice":
        return "" if _open_slice(view, node, rank, grows) else "cuts at fixed places"
    return "holds the size, or is not known not to"


def _fixed(constant: tuple[int, ...], made: tuple[int, ...], growing: frozenset[int]) -> bool:
    """Whether a constant has more than one value along an axis that grows."""
    shift = len(made) - len(constant)
    return any(place - shift >= 0 and constant[place - shift] != 1 for place in growing)


def _open_slice(view: GraphView, node: onnx.NodeProto, rank: int, grows: frozenset[int]) -> bool:
    """Along what grows it cuts at most a fixed number from either end."""
    values = [view.constant(name) for name in node.input[1:4]]
    if len(values) < 3 or any(value is None for value in values):
        return False
    starts, ends, axes = (np.asarray(value).ravel() for value in values)
    return all(
        int(axis) % rank not in grows or (start >= 0 and (end < 0 or end >= _OPEN_END))
        for start, end, axis in zip(starts, ends, axes, strict=True)
    )


def _prove(fixed: onnx.ModelProto, freed: onnx.ModelProto, usual: Size, others: Sequence[Size], stage: str) -> None:
    """The same numbers at the usual size; at the others, maps that have grown as the image has."""
    import onnx

    least = LEAST_DB[any(node.op_type == "QuantizeLinear" for node in fixed.graph.node)]
    trial = onnx.ModelProto()
    trial.CopyFrom(freed)
    name, channels = trial.graph.input[0].name, trial.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for place, letter in ((2, "height"), (3, "width")):
        trial.graph.input[0].type.tensor_type.shape.dim[place].dim_param = letter
    rng = np.random.default_rng(0)
    size = usual
    try:
        image = rng.normal(0, 1, (1, channels, *usual)).astype(np.float32)
        wanted = as_written(fixed).run(None, {name: image})[0]
        session = as_written(trial)
        same = decibel(wanted, session.run(None, {name: image})[0]) >= least
        for size in others:
            got = session.run(None, {name: rng.normal(0, 1, (1, channels, *size)).astype(np.float32)})[0]
            grown = tuple(a * b / c for a, b, c in zip(wanted.shape[2:], size, usual, strict=True))
            if got.shape[2:] != grown:
                raise StageError(
                    f"from an image of {size[0]}x{size[1]} the graph makes {got.shape[2]}x{got.shape[3]}, not "
                    f"{grown[0]:g}x{grown[1]:g}.",
                    hint="Give sizes in multiples of the network's stride.",
                    stage=stage,
                )
    except StageError:
        raise
    except Exception as error:
        raise StageError(
            f"the graph does not take {size[0]}x{size[1]}: {str(error).strip().splitlines()[0]}",
            hint="Give sizes in multiples of the network's stride, or leave out --trt-size.",
            stage=stage,
        ) from error
    if not same:
        raise StageError(
            "freed from its size the graph gives other numbers at that very size.", hint="Leave out --trt-size.", stage=stage
        )


def _name_outputs(freed: onnx.ModelProto, fixed: onnx.ModelProto) -> None:
    """Rank and channels of the outputs as before, with free lengths where they grow."""
    for value, before in zip(freed.graph.output, fixed.graph.output, strict=True):
        shape = value.type.tensor_type.shape
        for place, dim in enumerate(before.type.tensor_type.shape.dim):
            made = shape.dim.add()
            if place < 2:
                made.CopyFrom(dim)
            else:
                made.dim_param = f"{value.name}_{place}"
