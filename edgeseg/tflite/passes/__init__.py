"""Rewrites of a float TFLite graph that INT8 profits from. Each is exact in float, checked by a test, and can be left out.

``run(graph)`` of each module gives a new graph and how many places it changed.
"""
