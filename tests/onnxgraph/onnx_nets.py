"""Small ONNX nets for the tests, written with onnx's text parser, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeseg.session import ModelInput

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def net(body: str, weights: dict[str, np.ndarray], *, size: int | tuple[int, int] = 16, channels: int = 3) -> onnx.ModelProto:
    """A model from statements over ``x`` (1, channels, height, width) that end in ``y``; ``weights`` are its initializers."""
    height, width = (size, size) if isinstance(size, int) else size
    text = f"{HEADER} net (float[1,{channels},{height},{width}] x) => (float y) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    del model.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model.graph.output.append(next(item for item in inferred.graph.value_info if item.name == "y"))
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"n{place}"
    onnx.checker.check_model(model, full_check=True)
    return model


def filters(out: int, into: int, size: int = 3, seed: int = 0) -> np.ndarray:
    """Convolution weights whose channels differ in size by up to 100 times."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-1, 1, (out, 1, 1, 1)) / np.sqrt(into * size * size)
    return (rng.normal(0, 1, (out, into, size, size)) * scale).astype(np.float32)


def vector(count: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def images(count: int, *, size: int = 16, channels: int = 3, seed: int = 0) -> list[ModelInput]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        pixels = rng.integers(0, 256, (1, size, size, channels), dtype=np.uint8)
        values = (pixels.astype(np.float32) / 64 - 2).transpose(0, 3, 1, 2)
        made.append(ModelInput(pixels, np.ascontiguousarray(values)))
    return made


def two_convs() -> onnx.ModelProto:
    """conv, relu, conv: every tensor between int8 operators."""
    return net(
        "c = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(c) y = Conv<pads=[1,1,1,1]>(r, w2, b2)",
        {"w1": filters(8, 3), "b1": vector(8), "w2": filters(4, 8, seed=1), "b2": vector(4, 1)},
    )


def residual() -> onnx.ModelProto:
    """A residual block between two convolutions, then pooling, resizing and a concatenation."""
    return net(
        "a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w2, b2) s = Add(r, c)"
        " p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) u = Conv<pads=[1,1,1,1]>(p, w3)"
        ' v = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(u, , scales)'
        " k = Concat<axis=1>(s, v) y = Conv(k, w4, b4)",
        {
            "w1": filters(8, 3),
            "b1": vector(8),
            "w2": filters(8, 8, seed=1),
            "b2": vector(8, 1),
            "w3": filters(8, 8, seed=2),
            "w4": filters(4, 16, 1, seed=3),
            "b4": vector(4, 3),
            "scales": np.float32([1, 1, 2, 2]),
        },
    )
