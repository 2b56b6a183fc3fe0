"""ONNX to float TFLite without TensorFlow: every tensor in the order that needs the fewest transposes, exact or refused."""

from edgeseg.lower.lowering import LowerResult, Unsupported, UnsupportedNode, lower_direct, lower_model

__all__ = ["LowerResult", "Unsupported", "UnsupportedNode", "lower_direct", "lower_model"]
