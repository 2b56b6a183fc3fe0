"""Bias correction: what int8 adds to a layer's output on average is taken off its bias (Nagel et al. 2019, arXiv:1906.04721,
section 4.2, in the empirical form of its appendix D: the averages are measured, not derived from batch norms).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["bias_shift"]

_CERTAIN = 3.0  # standard errors that an average must lie from 0 to count


def bias_shift(wanted: npt.NDArray[np.floating], found: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """What to add to each channel's bias, so that its average is that of the float layer.

    Averages that may be chance are left alone: correcting them would add the sample's noise.

    Args:
        wanted, found: outputs of the float and of the integer layer at the same places, (n, C), before any clipping.

    Returns:
        float32 (C,).

    >>> bias_shift(np.float32([[1, 1], [1, -1]] * 50), np.float32([[0, 1], [0, -1]] * 50)).tolist()
    [1.0, 0.0]
    """
    error = np.asarray(wanted, np.float64) - np.asarray(found, np.float64)
    mean = error.mean(axis=0)
    doubt = error.std(axis=0) / np.sqrt(max(1, error.shape[0]))
    return np.where(np.abs(mean) > _CERTAIN * doubt, mean, 0.0).astype(np.float32)
