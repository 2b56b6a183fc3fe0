"""Imports every module that registers rules."""

from edgeseg.lower import (
    ops_activation,
    ops_conv,
    ops_einsum,
    ops_elementwise,
    ops_index,
    ops_matmul,
    ops_norm,
    ops_pool,
    ops_reduce,
    ops_resize,
    ops_shape,
)

__all__ = [
    "ops_activation",
    "ops_conv",
    "ops_einsum",
    "ops_elementwise",
    "ops_index",
    "ops_matmul",
    "ops_norm",
    "ops_pool",
    "ops_reduce",
    "ops_resize",
    "ops_shape",
]
