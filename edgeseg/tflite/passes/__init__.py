"""Rewrites of a float TFLite graph that INT8 profits from. Each is exact in float, checked by a test, and can be left out.

``run(graph)`` of each module gives a new graph and how many places it changed; ``apply`` runs them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from edgeseg.errors import UsageError
from edgeseg.tflite.graph import TfGraph
from edgeseg.tflite.passes import (
    activations,
    affine_depthwise,
    average_pool,
    fold_affine,
    hard_swish,
    integer_forms,
    moves,
    pads,
    prelu,
    transpose_conv,
    wide_joins,
)

__all__ = ["DEFAULT", "INTEGER_ONLY", "PASSES", "apply"]

PASSES: Mapping[str, Callable[[TfGraph], tuple[TfGraph, int]]] = {
    "moves": moves.run,
    "hard_swish": hard_swish.run,
    "integer_forms": integer_forms.run,
    "fold_affine": fold_affine.run,
    "activations": activations.run,
    "affine_depthwise": affine_depthwise.run,
    "prelu": prelu.run,
    "transpose_conv": transpose_conv.run,
    "average_pool": average_pool.run,
    "wide_joins": wide_joins.run,
    "pads": pads.run,
}
"""All passes, in the order in which they run."""

INTEGER_ONLY = ("prelu", "hard_swish", "integer_forms")
"""Passes that pay only where no float operator is allowed."""

DEFAULT = tuple(name for name in PASSES if name not in INTEGER_ONLY)


def apply(graph: TfGraph, names: Collection[str] = DEFAULT) -> tuple[TfGraph, dict[str, int]]:
    """Run the passes named, in the order of ``PASSES``; gives the graph and how many places each changed.

    Raises:
        UsageError: there is no such pass.
    """
    unknown = sorted(set(names) - set(PASSES))
    if unknown:
        raise UsageError(f"There is no graph pass '{unknown[0]}'.", hint=f"Choose among: {', '.join(PASSES)}.")
    counts: dict[str, int] = {}
    for name, run in PASSES.items():
        if name in names:
            graph, counts[name] = run(graph)
    return graph, counts
