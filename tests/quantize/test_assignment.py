"""The minimum cut against trying every assignment."""

import itertools
import math

import numpy as np
import pytest

from edgeseg.quantize.assignment import Choice, Link, assign, cost
from edgeseg.quantize.plan import Domain


def _random_graph(seed: int) -> tuple[list[Choice], list[Link]]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 9))
    names = [f"op{i}" for i in range(count)]
    choices = [
        Choice(
            name,
            float(rng.integers(1, 50)),
            math.inf if rng.random() < 0.15 else float(rng.integers(1, 50)),
            float(rng.random()),
        )
        for name in names
    ]
    links = [Link(Domain.FLOAT, (names[0],), 3.0, 2.0), Link(names[-1], (Domain.FLOAT,), 3.0, 2.0)]
    for i in range(count - 1):
        later = names[i + 1 :]
        picked = tuple(rng.choice(later, size=min(len(later), int(rng.integers(1, 4))), replace=False).tolist())
        links.append(Link(names[i], picked, float(rng.integers(0, 20)), float(rng.integers(0, 20)), float(rng.random())))
    return choices, links


@pytest.mark.parametrize("seed", range(40))
def test_no_assignment_is_cheaper(seed: int) -> None:
    choices, links = _random_graph(seed)
    weight = [0.0, 10.0, 100.0][seed % 3]
    names = [choice.op for choice in choices]
    best = min(
        cost(choices, links, frozenset(chosen), weight)
        for size in range(len(names) + 1)
        for chosen in itertools.combinations(names, size)
    )
    assert cost(choices, links, assign(choices, links, weight), weight) == pytest.approx(best, abs=0.02)


def test_a_conversion_shared_by_many_is_paid_once() -> None:
    choices = [Choice("a", 10, 1), *(Choice(f"f{i}", 1, math.inf) for i in range(5))]
    links = [Link("a", tuple(f"f{i}" for i in range(5)), 5, 5)]
    assert assign(choices, links) == {"a"}


def test_weight_moves_harmful_operators_to_float() -> None:
    choices = [Choice("good", 10, 5, harm=0.1), Choice("bad", 10, 5, harm=10.0)]
    assert assign(choices, [], 0.0) == {"good", "bad"}
    assert assign(choices, [], 1.0) == {"good"}
    assert assign(choices, [], 1000.0) == frozenset()
