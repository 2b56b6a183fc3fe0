"""Weights that were learned for one plan, and the file beside ``quantization.json`` that keeps them.

The file holds the integers themselves, not a rule that gives them: a compile with ``--plan`` writes the same bytes, whatever
becomes of the rounding code. The plan names it with its digest, so that a plan and the weights of another are not mixed up.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgeseg.errors import UsageError
from edgeseg.quantize.plan import QuantPlan, WeightsFile

__all__ = ["WEIGHTS_FILE", "LayerWeights", "load_learned", "store_learned"]

WEIGHTS_FILE = "weights.npz"


@dataclass(frozen=True)
class LayerWeights:
    """What was learned for one operator.

    Attributes:
        integers: int8, shaped as the operator's weights.
        scale: float64 (C,), of each output channel; the integers mean nothing at another.
        shift: float32 (C,), added to the bias, in real units.
    """

    integers: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float32]


def store_learned(layers: Mapping[str, LayerWeights], plan: QuantPlan, folder: Path) -> QuantPlan:
    """Write ``weights.npz`` into ``folder`` and name it in the plan; the plan as it is where nothing was learned.

    The same layers give the same bytes.
    """
    if not layers:
        return msgspec.structs.replace(plan, weights=None)
    arrays: dict[str, npt.NDArray[np.generic]] = {"ops": np.asarray(list(layers))}
    for number, layer in enumerate(layers.values()):
        arrays |= {f"{field}_{number}": value for field, value in vars(layer).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()
    (folder / WEIGHTS_FILE).write_bytes(data)
    return msgspec.structs.replace(plan, weights=WeightsFile(file=WEIGHTS_FILE, digest=hashlib.sha256(data).hexdigest()))


def load_learned(plan: QuantPlan, folder: Path) -> dict[str, LayerWeights]:
    """The learned weights that a plan names, from the folder the plan lies in; nothing where it names none.

    Raises:
        UsageError: the file is missing or is not the one the plan was written with.
    """
    if plan.weights is None:
        return {}
    path = folder / Path(plan.weights.file).name
    hint = f"Put {path.name} of the same compile beside the plan, or remove its entry 'weights' to have them rounded anew."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The plan names learned weights in '{path}': {error.strerror}.", hint=hint) from error
    if hashlib.sha256(data).hexdigest() != plan.weights.digest:
        raise UsageError(f"'{path}' does not hold the learned weights that the plan was written with.", hint=hint)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {
                str(op): LayerWeights(stored[f"integers_{number}"], stored[f"scale_{number}"], stored[f"shift_{number}"])
                for number, op in enumerate(stored["ops"])
            }
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"'{path}' holds no learned weights: {error}.", hint=hint) from error
