"""The plan: which tensor has which scale and zero point, which operator runs in which type, and why.

One object serves TFLite, ONNX Q/DQ and TensorRT. It is written beside every INT8 file as ``quantization.json``, can be edited
and given back. Tensors and operators are named as in the float graph that is quantized; an operator's identity is the name
of its first output, which is unique because the graph is in single-assignment form.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from edgeseg.errors import UsageError

__all__ = ["Domain", "OpPlan", "QuantPlan", "TensorQuant", "WeightsFile", "read_plan"]


class Domain(StrEnum):
    """The arithmetic an operator runs in. INT16: int16 activations with int8 weights."""

    FLOAT = "float32"
    INT8 = "int8"
    INT16 = "int16"


class TensorQuant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Affine quantization of one tensor: ``real = scale * (q - zero_point)`` (Jacob et al. 2018, arXiv:1712.05877, eq. 1).

    One scale for the tensor, or one per index of ``axis`` (weights). ``low``/``high``: the real range it was derived from.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dtype: str = "int8"
    axis: int | None = None
    low: float | None = None
    high: float | None = None
    estimator: str = ""


class OpPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One operator's domain. ``op``: name of its first output; ``kind``: its type in the graph's own vocabulary.

    ``saves_us``: what int8 would save in this operator alone, microseconds, conversions not counted (negative: int8 is slower).
    ``noise_db``: the int8 noise of its output and weights alone, dB below the network's output. Both where they were measured.
    """

    op: str
    kind: str
    domain: Domain
    why: str = ""
    saves_us: float | None = None
    noise_db: float | None = None


class WeightsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Learned weights, in a file that lies beside the plan (``edgeseg.quantize.learned``). ``digest``: its SHA-256."""

    file: str
    digest: str


class QuantPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``tensors`` holds activations only: weights are quantized per channel from their own values, biases follow from both;
    ``weights`` names the file with those that were learned instead.

    ``passes``: the rewrites that made the graph whose tensors and operators are named here out of the lowered one.
    """

    target: str
    tensors: dict[str, TensorQuant]
    ops: tuple[OpPlan, ...]
    passes: tuple[str, ...] = ()
    weights: WeightsFile | None = None
    schema: int = 1

    def domain_of(self, op: str) -> Domain:
        """The domain of an operator; an operator that the plan does not name runs in float."""
        return self._domains().get(op, Domain.FLOAT)

    @property
    def runtime(self) -> str:
        """What it is for: ``tflite``, ``onnx`` or ``tensorrt``."""
        return self.target.partition("-")[0]

    def _domains(self) -> dict[str, Domain]:
        return {entry.op: entry.domain for entry in self.ops}


def read_plan(path: Path) -> QuantPlan:
    """Read ``quantization.json``.

    Raises:
        UsageError: it is missing or not a plan.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=QuantPlan)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"'{path}' is not a quantization plan: {error}.", hint="Give the quantization.json of an INT8 artifact."
        ) from error
