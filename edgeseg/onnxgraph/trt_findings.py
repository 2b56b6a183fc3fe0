"""What the TensorRT checker can find: the rules by name, which of them end a build, and one finding."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edgeseg.onnxgraph.view import node_label

if TYPE_CHECKING:
    import onnx

__all__ = ["OLDER_OPSET", "REFUSED", "Finding", "Rule", "finding_at"]

OLDER_OPSET = 17
"""The newest opset of TensorRT 8; who reads a newer one is 10 or later."""


class Rule(StrEnum):
    """What can be wrong. Those of ``REFUSED`` end the parse or the build, or are read as other values than ONNX says; the others
    cost speed or accuracy."""

    MALFORMED = "malformed"
    OPSET = "opset"
    FOREIGN_DOMAIN = "foreign-domain"
    INTEGER_OPERATOR = "integer-operator"
    UNKNOWN_OPERATOR = "unknown-operator"
    OPERATOR_FORM = "operator-form"
    TENSOR_TYPE = "tensor-type"
    SCALE = "scale"
    ZERO_POINT = "zero-point"
    ELEMENT_TYPE = "element-type"
    BLOCKED = "blocked"
    QUANTIZED_BIAS = "quantized-bias"
    BROKEN_PAIR = "broken-pair"
    PER_CHANNEL_ACTIVATION = "per-channel-activation"
    WEIGHT_AXIS = "weight-axis"
    UNSAID_AXIS = "unsaid-axis"
    WEIGHT_DETOUR = "weight-detour"
    NEWER_TYPE = "newer-type"
    HALF_PAIR = "half-pair"
    HALF_QUANTIZED = "half-quantized"
    PER_TENSOR_WEIGHTS = "per-tensor-weights"
    QUANTIZED_OUTPUT = "quantized-output"
    FLOAT_READER = "float-reader"
    RESIDUAL = "residual"
    TRANSPOSED = "transposed-convolution"
    NOTHING_QUANTIZED = "nothing-quantized"


REFUSED = frozenset(
    {
        Rule.MALFORMED,
        Rule.OPSET,
        Rule.FOREIGN_DOMAIN,
        Rule.INTEGER_OPERATOR,
        Rule.UNKNOWN_OPERATOR,
        Rule.OPERATOR_FORM,
        Rule.TENSOR_TYPE,
        Rule.SCALE,
        Rule.ZERO_POINT,
        Rule.ELEMENT_TYPE,
        Rule.BLOCKED,
        Rule.QUANTIZED_BIAS,
        Rule.BROKEN_PAIR,
        Rule.PER_CHANNEL_ACTIVATION,
        Rule.WEIGHT_AXIS,
        Rule.UNSAID_AXIS,
        Rule.WEIGHT_DETOUR,
    }
)


@dataclass(frozen=True)
class Finding:
    """One broken rule. ``node``: kind and name, empty where the whole graph is meant."""

    node: str
    rule: Rule
    message: str
    remedy: str

    @property
    def refused(self) -> bool:
        """True where TensorRT will not build the file as ONNX means it; False where it will, slower or less exact than it could."""
        return self.rule in REFUSED


def finding_at(node: onnx.NodeProto, rule: Rule, message: str, remedy: str) -> Finding:
    """A finding about one node."""
    return Finding(node_label(node), rule, message, remedy)
