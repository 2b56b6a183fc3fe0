"""The stored operator costs: their files, and that the search's choices follow from them."""

from __future__ import annotations

import math

import msgspec
import pytest
from scipy.stats import spearmanr
from tf_cases import CONV, C, builder, conv, finish, normal

from edgeseg.quantize.assignment import assign
from edgeseg.quantize.plan import Domain
from edgeseg.spec import TuneFor
from edgeseg.tflite.cost import macs
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.preparation import choices_of, links_of
from edgeseg.tflite.probe import probe
from edgeseg.tflite.stored_costs import StoredCosts, stored_costs

TABLES = (TuneFor.X86_VNNI, TuneFor.ARM_DOTPROD)
BIG = (1, 64, 64, 32)


def chain() -> TfGraph:
    """Convolutions large and small with a GELU, a sum and a depthwise convolution between."""
    made = builder(*BIG)
    x = conv(made, "x", normal(64, 3, 3, 32, scale=0.1), strideH=2, strideW=2)
    x = made.op("GELU", (x,), (1, 32, 32, 64), options={"approximate": False}, name="bent")
    y = conv(made, x, normal(64, 1, 1, 64, scale=0.1))
    weights, bias = made.constant("w", normal(1, 3, 3, 64)), made.constant("b", normal(64))
    z = made.op("DEPTHWISE_CONV_2D", (y, weights, bias), (1, 32, 32, 64), options={**CONV, "depthMultiplier": 1})
    x = made.op("ADD", (y, z), (1, 32, 32, 64), name="sum")
    x = conv(made, x, normal(128, 3, 3, 64, scale=0.1))
    return finish(made, conv(made, x, normal(C, 1, 1, 128)))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_where_it_is_from_and_prices_every_operator(name: TuneFor) -> None:
    table = stored_costs(name)
    assert table.name == name.value
    assert len(" ".join(table.source)) > 80
    assert table.measured is (name is TuneFor.X86_VNNI)
    graph = chain()
    costs = table(graph)
    for op in graph.ops:
        one = costs.ops[op.id]
        assert 0 < one.float_us < math.inf
        if op.kind == "GELU":
            assert math.isinf(one.int8_us), "it would cut the delegate"
        if op.kind == "CONV_2D" and macs(op, graph) > 1e6:
            assert one.int8_us < one.float_us
    assert set(costs.quantize_us) == {name for name, tensor in graph.tensors.items() if tensor.data is None}
    assert all(us > 0 for us in (*costs.quantize_us.values(), *costs.dequantize_us.values()))
    chosen = assign(choices_of(costs), links_of(graph, costs, Domain.FLOAT))
    assert "bent" not in chosen
    assert {op.id for op in graph.ops if op.kind == "CONV_2D" and macs(op, graph) > 1e6} <= chosen


def test_x86_costs_rank_operators_as_this_machine_does() -> None:
    """Any x86-64 machine ranks operators whose costs differ by an order of magnitude alike."""
    graph = chain()
    stored, measured = stored_costs(TuneFor.X86_VNNI)(graph), probe(graph)
    names = [op.id for op in graph.ops]
    pairs = [[table.ops[name].float_us for name in names] for table in (stored, measured)]
    assert spearmanr(*pairs).statistic > 0.6


def test_an_unknown_class_falls_back_to_any() -> None:
    table = stored_costs(TuneFor.X86_VNNI)
    fewer = msgspec.structs.replace(table, classes={"any": table.classes["any"]})
    assert isinstance(fewer, StoredCosts)
    graph = chain()
    assert all(0 < one.float_us < math.inf for one in fewer(graph).ops.values())
