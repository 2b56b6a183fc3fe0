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
from edgeseg.tflite.graph import Array
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


def test_a_portrait_net_in_int8_keeps_its_float_outputs() -> None:
    if not FLOAT.exists():
        pytest.skip(f"{FLOAT} is absent; set EDGESEG_DATA")
    graph = read(FLOAT)
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    images = pictures(height, width, 6)
    prepared, _ = apply(graph)
    folded, pixels = fold_input_normalisation(prepared, NORM)
    ranges = minmax(folded, [pixels.feed(image) for image in images]) | {folded.inputs[0]: pixels.quant()}
    emitted = quantize(folded, initial_plan(folded, ranges), io=IoType.UINT8)
    assert int8_share(emitted) == 1.0
    assert len(partitions(bytes(serialise(emitted))).outside) <= 2
    quant = emitted.tensors[emitted.outputs[0]].quant
    assert quant is not None
    for image in images:
        wanted = run(graph, [(image / 127.5 - 1).astype(np.float32)])[0][graph.outputs[0]]
        np.testing.assert_allclose(
            run(folded, [pixels.feed(image)])[0][folded.outputs[0]], wanted, atol=2e-3 * np.abs(wanted).max()
        )
        got = run(emitted, [image])[0][emitted.outputs[0]]
        assert snr(wanted, (got.astype(np.float64) - quant.zero_point[0]) * quant.scale[0]) > 20
