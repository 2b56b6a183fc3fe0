"""A float file of another tool, through passes, ranges, plan and emitter, beside that tool's own INT8 file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tf_cases import minmax, snr

from edgeseg.spec import IoType
from edgeseg.tflite.cost import int8_share
from edgeseg.tflite.emit import quantize
from edgeseg.tflite.flatbuffer import read, serialise
from edgeseg.tflite.graph import Array, Quant
from edgeseg.tflite.partitions import partitions
from edgeseg.tflite.passes import apply
from edgeseg.tflite.pixels import Normalisation, fold_input_normalisation
from edgeseg.tflite.planning import initial_plan
from edgeseg.tflite.runtime import run

DATA = Path(os.environ.get("EDGESEG_DATA", Path(__file__).parents[3] / "shared"))
FLOAT, OTHER = (DATA / "artifacts" / f"{name}.tflite" for name in ("mnv3_seg_float", "mnv3_post_quant"))
NORM = Normalisation((2 / 255,) * 3, (-1.0,) * 3)


def pictures(height: int, width: int, count: int) -> list[Array]:
    files = sorted((DATA / "data" / "camvid" / "train" / "images").glob("*.png"))[::20][:count]
    if len(files) < count or not FLOAT.exists() or not OTHER.exists():
        pytest.skip(f"{DATA} is absent or lacks camvid or artifacts; set EDGESEG_DATA")
    return [np.asarray(Image.open(file).convert("RGB").resize((width, height)))[None] for file in files]


def dequantized(values: Array, quant: Quant | None) -> Array:
    assert quant is not None
    return (values.astype(np.float64) - quant.zero_point[0]) * quant.scale[0]


def test_a_portrait_net_in_int8_is_nearer_to_float_than_the_other_tools_file() -> None:
    if not FLOAT.exists() or not OTHER.exists():
        pytest.skip(f"{FLOAT.parent} is absent; set EDGESEG_DATA")
    graph, other = read(FLOAT), read(OTHER)
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    images = pictures(height, width, 6)
    values = [(image / 127.5 - 1).astype(np.float32) for image in images]
    wanted = [found[graph.outputs[0]] for found in run(graph, values)]

    folded, pixels = fold_input_normalisation(apply(graph)[0], NORM)
    for image, logits in zip(images, wanted, strict=True):
        assert snr(logits, run(folded, [pixels.feed(image)])[0][folded.outputs[0]]) > 50
    ranges = minmax(folded, [pixels.feed(image) for image in images]) | {folded.inputs[0]: pixels.quant()}
    emitted = quantize(folded, initial_plan(folded, ranges), io=IoType.UINT8)
    assert int8_share(emitted) == 1.0
    assert partitions(bytes(serialise(emitted))).outside == ()

    given = other.tensors[other.inputs[0]].quant
    assert given is not None
    stored = [np.clip(np.rint(x / given.scale[0]) + given.zero_point[0], 0, 255).astype(np.uint8) for x in values]
    outcome = {}
    for name, candidate, fed in (("ours", emitted, images), ("theirs", other, stored)):
        out = candidate.outputs[0]
        got = [dequantized(found[out], candidate.tensors[out].quant) for found in run(candidate, fed)]
        outcome[name] = float(np.mean([snr(a, b) for a, b in zip(wanted, got, strict=True)]))
    assert outcome["ours"] > outcome["theirs"] + 1.0
