"""Stage: lower an ONNX graph to a float TFLite file, by the direct route or by onnx2tf."""

from __future__ import annotations

from pathlib import Path

from edgeseg.errors import EnvironmentLack
from edgeseg.graph import Graph
from edgeseg.lower import Unsupported, lower_direct
from edgeseg.pipeline import Outcome

__all__ = ["lower_tflite"]


def lower_tflite(graph: Graph, out: Path, *, route: str, work: Path, time_limit_s: float) -> Outcome:
    """Lower a simplified ONNX graph.

    Args:
        route: ``direct``; ``onnx2tf``; or ``auto``: direct, and onnx2tf for graphs with operators that the direct route does not
            know. Which one was taken, and why, is in the notes.
        work: folder for a child process's files.
        time_limit_s: of the onnx2tf route, seconds.

    Raises:
        Unsupported: ``direct`` was asked for and does not know an operator.
        StageError: onnx2tf failed.
        EnvironmentLack: onnx2tf is needed and not installed.
    """
    notes: tuple[str, ...] = ()
    if route != "onnx2tf":
        try:
            result = lower_direct(graph, out)
        except Unsupported as error:
            if route == "direct":
                raise
            kinds = sorted({node.op for node in error.nodes})
            notes = (f"the direct route does not know {', '.join(kinds)}",)
        else:
            return Outcome(result.graph, (f"route direct, {result.ops} operators, {result.transposes} TRANSPOSE",))
    from edgeseg.stages.lower_onnx2tf import lower_onnx2tf

    try:
        lowered = lower_onnx2tf(graph, out, workdir=work / "onnx2tf", time_limit_s=time_limit_s)
    except EnvironmentLack as error:
        if not notes:
            raise
        raise EnvironmentLack(f"The graph needs the onnx2tf route ({notes[0]}). {error.message}", hint=error.hint) from error
    return Outcome(lowered.graph, (*notes, "route onnx2tf"), child_peak_mb=lowered.peak_mb)
