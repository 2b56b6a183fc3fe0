"""The samples that travel with edgeseg: a small trained model and pictures to calibrate and judge it.

::

    edgeseg.toml               the model's spec; its paths are relative to this folder
    scenes.pt2                 torch.export file, input 1x3x128x160, trained by benchmarks/zoo/train_scenes.py
    calibration/images/*.png   24 scenes, seeds from SPLITS["calibration"] on
    val/images/*.png           24 scenes, seeds from SPLITS["val"] on
    val/masks/*.png            their class indices, 255 = does not count

The model was trained on other seeds (SPLITS["train"]). ``edgeseg.data.scenes`` drew every picture.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgeseg.errors import DataError

__all__ = ["embedded_root"]


def embedded_root() -> Path:
    """The folder that holds the samples, in a source tree and in an installed wheel.

    Raises:
        DataError: edgeseg runs from a zip archive, where files have no paths, or the samples are missing.

    >>> (embedded_root() / "edgeseg.toml").is_file()
    True
    """
    root = files(__name__)
    if not isinstance(root, Path) or not (root / "edgeseg.toml").is_file():
        raise DataError(
            f"The embedded samples are not files in a folder ({root}).",
            hint="Install edgeseg unpacked, with pip install edgeseg.",
        )
    return root
