"""The TensorRT room: what a CUDA driver and NVIDIA's library are asked for. Importing it needs neither.

``driver`` looks for both; ``opset`` and ``half`` prepare ONNX files; ``build`` has an engine built by ``worker`` in a
process of its own; ``portable`` writes the kit that builds it elsewhere; ``inspector`` reads what came out; ``runner`` and
``memory`` run it.
``worker``, ``runner`` and ``memory`` also run under an older Python that has nothing but tensorrt: standard library only.
"""
