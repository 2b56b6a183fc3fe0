"""Small float graphs for the tests of edgeseg.tflite: one operator each, and a few nets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeseg.quantize.plan import Domain, OpPlan, QuantPlan, TensorQuant
from edgeseg.quantize.ranges import Range, affine
from edgeseg.tflite.builder import OPTIONS_TYPES, GraphBuilder
from edgeseg.tflite.graph import Array, OptionValue, TfGraph, TfOp
from edgeseg.tflite.statistics import collect
from edgeseg.tflite.support import fixed_output

H, W, C = 12, 16, 8
SAME, VALID = 0, 1
CONV: dict[str, OptionValue] = {"padding": SAME, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
POOL: dict[str, OptionValue] = {"padding": VALID, "strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def normal(*shape: int, scale: float = 1.0) -> Array:
    return (rng().standard_normal(shape) * scale).astype(np.float32)


def builder(*shape: int) -> GraphBuilder:
    made = GraphBuilder(TfGraph({}, [], (), ()))
    made.input("x", shape or (1, H, W, C))
    return made


def finish(made: GraphBuilder, *outputs: str) -> TfGraph:
    made.graph.outputs = outputs
    return made.graph


def inputs(graph: TfGraph, count: int = 4) -> list[Array]:
    draw = rng()
    return [draw.standard_normal(graph.tensors[graph.inputs[0]].shape).astype(np.float32) for _ in range(count)]


def minmax(graph: TfGraph, images: Sequence[Array]) -> dict[str, TensorQuant]:
    """Plain extremes; the estimators have tests of their own."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}

    def watch(name: str, values: Array) -> None:
        low[name] = min(low.get(name, 0.0), float(values.min()))
        high[name] = max(high.get(name, 0.0), float(values.max()))

    collect(graph, images, watch)
    found = {name: affine(Range(low[name], high[name])) for name in low}
    for op in graph.ops:
        fixed = fixed_output(op.kind, Domain.INT8)
        if fixed is not None:
            found[op.id] = TensorQuant(scale=fixed.scale, zero_point=fixed.zero_point)
    return found


def plan_of(graph: TfGraph, tensors: Mapping[str, TensorQuant], domain: Domain = Domain.INT8, *stay: str) -> QuantPlan:
    """Every operator in ``domain``, except those whose kind is in ``stay``."""
    ops = tuple(OpPlan(op=op.id, kind=op.kind, domain=Domain.FLOAT if op.kind in stay else domain) for op in graph.ops)
    return QuantPlan(target="tflite", tensors=dict(tensors), ops=ops)


def snr(wanted: Array, got: Array) -> float:
    """Signal-to-noise ratio, dB."""
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    noise = float(np.square(wanted - got).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(np.square(wanted).sum() / noise))


def conv(made: GraphBuilder, x: str, weights: Array, bias: Array | None = None, **options: OptionValue) -> str:
    """A CONV_2D with ``weights`` (out, kh, kw, in); stride from the options, padding SAME unless given."""
    merged = {**CONV, **options}
    _, height, width, _ = made.graph.tensors[x].shape
    stride = int(merged["strideH"])  # type: ignore[arg-type]
    if merged["padding"] == SAME:
        shape = (1, -(-height // stride), -(-width // stride), weights.shape[0])
    else:
        kernel = weights.shape[1:3]
        shape = (1, (height - kernel[0]) // stride + 1, (width - kernel[1]) // stride + 1, weights.shape[0])
    w = made.constant("w", weights)
    b = made.constant("b", np.zeros(weights.shape[0], np.float32) if bias is None else bias)
    return made.op("CONV_2D", (x, w, b), shape, name="conv", options=merged)


def _conv() -> TfGraph:
    made = builder()
    return finish(made, conv(made, "x", normal(6, 3, 3, C), normal(6)))


def _grouped() -> TfGraph:
    made = builder()
    return finish(made, conv(made, "x", normal(6, 3, 3, C // 2), normal(6)))


def _depthwise() -> TfGraph:
    made = builder()
    w, b = made.constant("w", normal(1, 3, 3, C)), made.constant("b", normal(C))
    return finish(made, made.op("DEPTHWISE_CONV_2D", ("x", w, b), (1, H, W, C), options={**CONV, "depthMultiplier": 1}))


def _fully_connected() -> TfGraph:
    made = builder()
    w, b = made.constant("w", normal(5, C)), made.constant("b", normal(5))
    return finish(made, made.op("FULLY_CONNECTED", ("x", w, b), (1, H, W, 5), options={"keepNumDims": True}))


def _transpose_conv() -> TfGraph:
    made = builder()
    shape = made.ints("shape", (1, 2 * H, 2 * W, 6))
    w, b = made.constant("w", normal(6, 2, 2, C)), made.constant("b", normal(6))
    options = {"padding": SAME, "strideH": 2, "strideW": 2}
    return finish(made, made.op("TRANSPOSE_CONV", (shape, w, "x", b), (1, 2 * H, 2 * W, 6), options=options))


def _unary(kind: str, **options: OptionValue) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        return finish(made, made.op(kind, ("x",), (1, H, W, C), options=options))

    return make


def _of_two(kind: str) -> Callable[[], TfGraph]:
    """The operator on the input and on a convolution of it, so that the two scales differ."""

    def make() -> TfGraph:
        made = builder()
        other = conv(made, "x", normal(C, 1, 1, C, scale=0.6))
        return finish(made, made.op(kind, ("x", other), (1, H, W, C), name="y"))

    return make


def _with_constant(kind: str, *shape: int) -> Callable[[], TfGraph]:
    def make() -> TfGraph:
        made = builder()
        return finish(made, made.op(kind, ("x", made.constant("c", normal(*shape))), (1, H, W, C)))

    return make


def _shaped(
    kind: str, shape: tuple[int, ...], *ints: Sequence[int] | Sequence[Sequence[int]], **options: OptionValue
) -> Callable[[], TfGraph]:
    """A unary operator with int32 constants behind its input."""

    def make() -> TfGraph:
        made = builder()
        extra = [made.ints(f"i{k}", np.asarray(values)) for k, values in enumerate(ints)]
        return finish(made, made.op(kind, ("x", *extra), shape, options=options))

    return make


def _concatenation() -> TfGraph:
    made = builder()
    other = conv(made, "x", normal(4, 1, 1, C, scale=2.0))
    return finish(made, made.op("CONCATENATION", ("x", other), (1, H, W, C + 4), options={"axis": 3}))


def _split() -> TfGraph:
    made = builder()
    axis, halves = made.ints("axis", np.asarray(3)), tuple(made.tensor(name, (1, H, W, C // 2)) for name in ("left", "right"))
    made.graph.ops.append(TfOp("SPLIT", (axis, "x"), halves, {"numSplits": 2}, "SplitOptions"))
    return finish(made, *halves)


def _batch_matmul() -> TfGraph:
    made = builder()
    other = conv(made, "x", normal(C, 1, 1, C))
    return finish(made, made.op("BATCH_MATMUL", ("x", other), (1, H, W, W), options={"adjX": False, "adjY": True}))


def _padv2() -> TfGraph:
    made = builder()
    pads = made.ints("pads", [[0, 0], [1, 1], [1, 1], [0, 0]])
    value = made.constant("value", np.asarray(-0.5, np.float32))
    return finish(made, made.op("PADV2", ("x", pads, value), (1, H + 2, W + 2, C)))


def _pack() -> TfGraph:
    made = builder()
    other = conv(made, "x", normal(C, 1, 1, C, scale=2.0))
    return finish(made, made.op("PACK", ("x", other), (1, H, W, 2, C), options={"axis": 3, "valuesCount": 2}))


def _several(kind: str, outputs: Sequence[tuple[int, ...]], *extra: Array, **options: OptionValue) -> Callable[[], TfGraph]:
    """An operator of several outputs; ``extra`` are int32 operands behind the input."""

    def make() -> TfGraph:
        made = builder()
        more = [made.ints(f"i{k}", values) for k, values in enumerate(extra)]
        names = tuple(made.tensor(f"out{k}", shape) for k, shape in enumerate(outputs))
        made.graph.ops.append(TfOp(kind, ("x", *more), names, options, OPTIONS_TYPES[kind]))
        return finish(made, *names)

    return make


def _rsqrt() -> TfGraph:
    made = builder()
    square = made.op("MUL", ("x", "x"), (1, H, W, C))
    shifted = made.op("ADD", (square, made.constant("one", np.ones(1, np.float32))), (1, H, W, C))
    return finish(made, made.op("RSQRT", (shifted,), (1, H, W, C)))


def _arg_max() -> TfGraph:
    made = builder()
    axis = made.ints("axis", np.asarray(3))
    return finish(made, made.op("ARG_MAX", ("x", axis), (1, H, W), dtype="int32", options={"outputType": 2}))


BY_KIND: Mapping[str, Callable[[], TfGraph]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _of_two("ADD"),
    "SUB": _of_two("SUB"),
    "MUL": _of_two("MUL"),
    "SQUARED_DIFFERENCE": _of_two("SQUARED_DIFFERENCE"),
    "MAXIMUM": _of_two("MAXIMUM"),
    "MINIMUM": _of_two("MINIMUM"),
    "ABS": _unary("ABS"),
    "EXP": _unary("EXP"),
    "RELU": _unary("RELU"),
    "RELU6": _unary("RELU6"),
    "LEAKY_RELU": _unary("LEAKY_RELU", alpha=0.125),
    "PRELU": _with_constant("PRELU", 1, 1, C),
    "HARD_SWISH": _unary("HARD_SWISH"),
    "ELU": _unary("ELU"),
    "GELU": _unary("GELU"),
    "LOGISTIC": _unary("LOGISTIC"),
    "TANH": _unary("TANH"),
    "SOFTMAX": _unary("SOFTMAX", beta=1.0),
    "LOG_SOFTMAX": _unary("LOG_SOFTMAX"),
    "L2_NORMALIZATION": _unary("L2_NORMALIZATION"),
    "MEAN": _shaped("MEAN", (1, 1, 1, C), (1, 2), keepDims=True),
    "SUM": _shaped("SUM", (1, 1, 1, C), (1, 2), keepDims=True),
    "REDUCE_MAX": _shaped("REDUCE_MAX", (1, H, W, 1), (3,), keepDims=True),
    "AVERAGE_POOL_2D": _unary("AVERAGE_POOL_2D"),
    "MAX_POOL_2D": _unary("MAX_POOL_2D"),
    "CONCATENATION": _concatenation,
    "PAD": _shaped("PAD", (1, H + 2, W + 1, C), [[0, 0], [1, 1], [0, 1], [0, 0]]),
    "PADV2": _padv2,
    "PACK": _pack,
    "UNPACK": _several("UNPACK", [(1, H, W)] * C, num=C, axis=3),
    "SPLIT_V": _several("SPLIT_V", [(1, H, W, 3), (1, H, W, 5)], np.asarray([3, 5]), np.asarray(3), numSplits=2),
    "RSQRT": _rsqrt,
    "ARG_MAX": _arg_max,
    "MIRROR_PAD": _shaped("MIRROR_PAD", (1, H + 2, W + 2, C), [[0, 0], [1, 1], [1, 1], [0, 0]], mode=0),
    "RESHAPE": _shaped("RESHAPE", (1, H * W, C), (1, H * W, C)),
    "SQUEEZE": _unary("SQUEEZE"),
    "EXPAND_DIMS": _shaped("EXPAND_DIMS", (1, 1, H, W, C), (1,)),
    "TRANSPOSE": _shaped("TRANSPOSE", (1, C, H, W), (0, 3, 1, 2)),
    "SLICE": _shaped("SLICE", (1, 5, 4, C), (0, 1, 2, 0), (1, 5, 4, C)),
    "STRIDED_SLICE": _shaped("STRIDED_SLICE", (1, H // 2, 4, C), (0, 0, 2, 0), (1, H, 6, C), (1, 2, 1, 1)),
    "SPLIT": _split,
    "GATHER": _shaped("GATHER", (1, H, W, 3), (0, 2, 5), axis=3),
    "TILE": _shaped("TILE", (1, H, 2 * W, C), (1, 1, 2, 1)),
    "SPACE_TO_DEPTH": _unary("SPACE_TO_DEPTH"),
    "DEPTH_TO_SPACE": _unary("DEPTH_TO_SPACE"),
    "RESIZE_BILINEAR": _shaped("RESIZE_BILINEAR", (1, 2 * H, 2 * W, C), (2 * H, 2 * W), halfPixelCenters=True),
    "RESIZE_NEAREST_NEIGHBOR": _shaped("RESIZE_NEAREST_NEIGHBOR", (1, 2 * H, 2 * W, C), (2 * H, 2 * W), halfPixelCenters=True),
}
"""One operator of each kind, float."""


def _reshaping() -> dict[str, Callable[[], TfGraph]]:
    """Kinds whose output shape follows from options."""

    def pool(kind: str) -> Callable[[], TfGraph]:
        def make() -> TfGraph:
            made = builder()
            return finish(made, made.op(kind, ("x",), (1, H // 2, W // 2, C), options=POOL))

        return make

    def squeeze() -> TfGraph:
        made = builder()
        return finish(made, made.op("SQUEEZE", ("x",), (H, W, C), options={"squeezeDims": (0,)}))

    def blocks(kind: str, shape: tuple[int, ...]) -> Callable[[], TfGraph]:
        def make() -> TfGraph:
            made = builder()
            return finish(made, made.op(kind, ("x",), shape, options={"blockSize": 2}))

        return make

    return {
        "AVERAGE_POOL_2D": pool("AVERAGE_POOL_2D"),
        "MAX_POOL_2D": pool("MAX_POOL_2D"),
        "SQUEEZE": squeeze,
        "SPACE_TO_DEPTH": blocks("SPACE_TO_DEPTH", (1, H // 2, W // 2, C * 4)),
        "DEPTH_TO_SPACE": blocks("DEPTH_TO_SPACE", (1, H * 2, W * 2, C // 4)),
    }


BY_KIND = {**BY_KIND, **_reshaping()}
