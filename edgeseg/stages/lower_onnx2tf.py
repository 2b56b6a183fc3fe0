"""From ONNX to a float32 TFLite file with onnx2tf, for graphs that the direct lowering has no rule for.

onnx2tf rewrites its input file, downloads an array, leaves with ``sys.exit`` and calls a conversion done whose file does not
load. So it runs in a child process, in a folder of its own, on a copy, offline, and its file is loaded before it is believed.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeseg.errors import ModelError, OutputError, StageError, missing_extra
from edgeseg.graph import Format, Graph
from edgeseg.isolate import run_isolated
from edgeseg.onnxgraph.rewrite import rewrite
from edgeseg.tflite.runtime import open_interpreter

__all__ = ["LowerResult", "lower_onnx2tf"]

STAGE = "lower_onnx2tf"

# onnx2tf fetches this array over the network unless it lies in the working folder, and runs it through both graphs to
# find out which axes to move. Any images will do.
_SAMPLE_NAME = "calibration_image_sample_data_20x128x128x3_float32.npy"
_SAMPLE_SHAPE = (20, 128, 128, 3)
_RESULT_SUFFIX = "_float32.tflite"

_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_USE_LEGACY_KERAS": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    # Whatever else it may try to fetch is refused at once.
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


@dataclass(frozen=True)
class LowerResult:
    """``rewrites``: what was spelled differently first. ``peak_mb``: the child's largest resident set, in MiB."""

    graph: Graph
    seconds: float
    peak_mb: float
    rewrites: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True):
    """What the child gets: the file to convert (its own copy) and where to put what comes out."""

    onnx: str
    folder: str


class Converted(msgspec.Struct, frozen=True):
    """What the child gives: the float32 file."""

    tflite: str


def lower_onnx2tf(graph: Graph, out: Path, *, workdir: Path, time_limit_s: float = 900) -> LowerResult:
    """Convert a simplified ONNX graph to float32 TFLite, NHWC.

    Args:
        graph: ONNX, static, simplified.
        out: the file to write.
        workdir: where the log (``lower_onnx2tf.log``) goes, and a temporary folder.

    Raises:
        StageError: onnx2tf failed, or LiteRT refuses its file.
        StageTimeout: it took longer than ``time_limit_s``.
        EnvironmentLack: the extra ``onnx2tf`` is not installed.
    """
    for module in ("onnx2tf", "tensorflow", "tf_keras"):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(module, "onnx2tf", "to lower this graph to TFLite")
    import numpy as np
    import onnx

    model, rewrites = rewrite(onnx.load_model(str(graph.path)))
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="onnx2tf-", dir=workdir) as name:
        folder = Path(name)
        onnx.save_model(onnx.shape_inference.infer_shapes(model, data_prop=True), str(folder / "graph.onnx"))
        sample = np.random.default_rng(0).random(_SAMPLE_SHAPE, dtype=np.float32)
        np.save(folder / _SAMPLE_NAME, sample)
        done = run_isolated(
            f"{__name__}:convert",
            Task(onnx=str(folder / "graph.onnx"), folder=str(folder / "out")),
            Converted,
            stage=STAGE,
            time_limit_s=time_limit_s,
            log=workdir / f"{STAGE}.log",
            cwd=folder,
            env=_ENVIRONMENT,
        )
        found = Path(done.value.tflite)
        try:
            open_interpreter(found)
        except ModelError as error:
            raise StageError(
                f"onnx2tf reported success, but {error.message.replace(str(found), 'its file')}",
                hint=f"Simplify the operator that is named, or ask for an ONNX target. Its whole log: {workdir / STAGE}.log",
                stage=STAGE,
            ) from error
        try:
            shutil.move(found, out)
        except OSError as error:
            raise OutputError(
                f"{out} cannot be written: {error.strerror}.", hint="Check the folder's permissions and free space."
            ) from error
    return LowerResult(Graph.of(out, Format.TFLITE, pixels=graph.pixels), done.seconds, done.peak_mb, rewrites)


def convert(task: Task) -> Converted:
    """The child's work."""
    import onnx2tf

    onnx2tf.convert(
        input_onnx_file_path=task.onnx,
        output_folder_path=task.folder,
        not_use_onnxsim=True,  # onnxslim has done it, and onnxsim undoes some of its work
        copy_onnx_input_output_names_to_tflite=False,
        output_signaturedefs=True,
        verbosity="error",
    )
    files = sorted(Path(task.folder).glob(f"*{_RESULT_SUFFIX}"))
    if len(files) != 1:
        raise RuntimeError(f"onnx2tf wrote {len(files)} float32 files")
    return Converted(tflite=str(files[0]))
