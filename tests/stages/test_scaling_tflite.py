"""Which rule scales the channels of a graph is decided by the noise of the emitted file, and a plan finds the same form again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tf_cases import CONV, C, H, W, builder, conv, finish, inputs, normal

from edgeseg.session import Float32
from edgeseg.stages.scaling_tflite import SCALINGS, best_scaling, rescaling
from edgeseg.tflite.flatbuffer import serialise
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.judge import Judge
from edgeseg.tflite.planning import Policy

FULL = (1, H, W, C)
UNEVEN: Float32 = np.geomspace(0.01, 1.0, C).astype(np.float32)


def draw(*shape: int) -> Float32:
    return np.asarray(normal(*shape), np.float32)


def opposed() -> TfGraph:
    """Channels that are small in a sum are the largest of its other, far smaller term; a batch norm makes them alike."""
    made = builder()
    terms = [
        conv(made, "x", draw(C, 1, 1, C) * sizes.reshape(-1, 1, 1, 1), draw(C) * 0.1 * sizes)
        for sizes in (UNEVEN, 0.01 * UNEVEN[::-1])
    ]
    total = made.op("ADD", terms, FULL)
    names = (made.constant("gain", (1 / UNEVEN).reshape(1, 1, 1, -1)), made.constant("shift", normal(C)))
    alike = made.op("DEPTHWISE_CONV_2D", (total, *names), FULL, options={**CONV, "depthMultiplier": 1})
    return finish(made, conv(made, alike, normal(3, 1, 1, C)))


def alike() -> TfGraph:
    made = builder()
    return finish(made, conv(made, conv(made, "x", normal(C, 3, 3, C)), normal(3, 1, 1, C)))


@pytest.mark.parametrize(("make", "policy", "rule"), [(opposed, Policy.INTEGER_ONLY, "least_noise"), (alike, Policy.AUTO, "")])
def test_a_rule_is_taken_where_it_lowers_the_noise(make: Callable[[], TfGraph], policy: Policy, rule: str) -> None:
    graph = make()
    images = inputs(graph, 8)
    judge = Judge(graph, images[:4], images[:4], threshold=0.0, probability=False)
    form, name, note = best_scaling(graph, lambda: images, judge, {}, policy)
    assert name == rule
    if not rule:
        assert form is graph
        assert not note
        return
    assert name in SCALINGS
    assert "channels" in note
    assert bytes(serialise(rescaling(graph, name, images))) == bytes(serialise(form))
