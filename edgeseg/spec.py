"""The vocabulary: what a model takes, what its output means, which data calibrate and judge it.

``ModelSpec`` is edgeseg.toml in memory. It is written into every artifact's manifest, so that a file that ships carries
everything needed to feed it and to read its answer. Reading and writing the TOML file is ``edgeseg.spec_file``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = [
    "CalibrationSpec",
    "ClassesSpec",
    "ColorOrder",
    "EvaluationSpec",
    "GateSpec",
    "Head",
    "InputSpec",
    "Interpolation",
    "IoType",
    "Layout",
    "ModelSpec",
    "OutputKind",
    "OutputSpec",
    "PreprocessSpec",
    "Resize",
    "Target",
]


class Target(StrEnum):
    """What ``edgeseg compile --target`` takes."""

    ONNX_FP32 = "onnx-fp32"
    ONNX_INT8 = "onnx-int8"
    TFLITE_FP32 = "tflite-fp32"
    TFLITE_FP16 = "tflite-fp16"
    TFLITE_INT8 = "tflite-int8"
    TENSORRT_FP32 = "tensorrt-fp32"
    TENSORRT_FP16 = "tensorrt-fp16"
    TENSORRT_INT8 = "tensorrt-int8"

    @property
    def runtime(self) -> str:
        """``onnx``, ``tflite`` or ``tensorrt``."""
        return self.value.split("-")[0]

    @property
    def is_int8(self) -> bool:
        return self.value.endswith("-int8")


class Layout(StrEnum):
    NCHW = "NCHW"
    NHWC = "NHWC"


class ColorOrder(StrEnum):
    RGB = "RGB"
    BGR = "BGR"
    GRAY = "GRAY"


class Resize(StrEnum):
    """How an image becomes the model's input size.

    exact: it must have that size already, anything else is an error. stretch: resized, aspect ratio ignored.
    pad: never resized, padded at the bottom and right (a larger image is an error). letterbox: resized by one factor to
    fit, then padded evenly on both sides.
    """

    EXACT = "exact"
    STRETCH = "stretch"
    PAD = "pad"
    LETTERBOX = "letterbox"


class Interpolation(StrEnum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    AREA = "area"


class OutputKind(StrEnum):
    """LOGITS: one channel a class, the largest wins. SIGMOID: one channel, class 1 where sigmoid(x) > threshold.
    PROBABILITY: as SIGMOID, but the model has applied the sigmoid itself."""

    LOGITS = "logits"
    SIGMOID = "sigmoid"
    PROBABILITY = "probability"


class IoType(StrEnum):
    """Element type of an INT8 file's input and output tensors."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


class Head(StrEnum):
    """What the file gives. LOGITS: as the model has them. SMALL_LOGITS: without the final resizes. LABELS: uint8 class indices."""

    LOGITS = "logits"
    SMALL_LOGITS = "small-logits"
    LABELS = "labels"


class TuneFor(StrEnum):
    """What an INT8 file is made fast for: the machine at hand (measured), a processor whose operator costs are stored, or
    hardware that has no float at all."""

    HERE = "here"
    X86_VNNI = "x86-vnni"
    ARM_DOTPROD = "arm-dotprod"
    INTEGER_ONLY = "integer-only"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class InputSpec(_Table, frozen=True, kw_only=True):
    """``shape`` is in ``layout`` order with the batch first, as the PyTorch model takes it; the batch must be 1."""

    shape: tuple[int, int, int, int]
    layout: Layout = Layout.NCHW

    @property
    def channels(self) -> int:
        return self.shape[1] if self.layout is Layout.NCHW else self.shape[3]

    @property
    def height(self) -> int:
        return self.shape[2] if self.layout is Layout.NCHW else self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[3] if self.layout is Layout.NCHW else self.shape[2]


class PreprocessSpec(_Table, frozen=True, kw_only=True):
    """``value = (pixel * scale - mean) / std * post_scale`` with pixel in 0..255, per channel in ``color`` order.

    ``pad_value`` is in the value domain: what a padded position holds after normalising. ``crop_to_region`` cuts the image
    to the bounding box of its region mask (a retina's field of view, say) before anything else.
    """

    color: ColorOrder = ColorOrder.RGB
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    post_scale: float = 1.0
    resize: Resize = Resize.EXACT
    interpolation: Interpolation = Interpolation.BILINEAR
    pad_value: float = 0.0
    crop_to_region: bool = False


class OutputSpec(_Table, frozen=True, kw_only=True):
    """``stride`` is input size divided by output size (4 for logits at a quarter of the resolution): the output is brought
    back to the input's size bilinearly before it is judged. ``name`` chooses among several outputs of the model."""

    kind: OutputKind = OutputKind.LOGITS
    threshold: float = 0.5
    stride: int = 1
    name: str | None = None


class ClassesSpec(_Table, frozen=True, kw_only=True):
    """``names`` are the classes that count, in the order of the output's channels; a model may have further channels (a void
    class), whose prediction on a counted pixel is an error. ``mask_values`` gives the value in a mask file that means
    class i (default: i itself); ``palette`` one RGB colour a class, also the key of masks stored as RGB pictures."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int | None = 255
    mask_values: tuple[int, ...] = ()


class CalibrationSpec(_Table, frozen=True, kw_only=True):
    """``images``: folder or glob, relative to edgeseg.toml. ``set``: the name of a manifest (``camvid``, ``embedded``) instead,
    with ``root`` the folder of the prepared data. ``masks``: where given, INT8 candidates are also scored against the truth;
    named as those of [evaluation] are. ``count`` images are drawn with ``seed``."""

    images: str | None = None
    set: str | None = None
    root: str | None = None
    regions: str | None = None
    masks: str | None = None
    count: int = 100
    seed: int = 0


class EvaluationSpec(_Table, frozen=True, kw_only=True):
    """Image/mask pairs that judge. Files are paired by stem; ``mask_suffix``, ``region_suffix`` are cut from the stems of masks
    and regions first. ``regions``: pictures whose zero pixels do not count (DRIVE's field of view)."""

    images: str | None = None
    masks: str | None = None
    regions: str | None = None
    set: str | None = None
    root: str | None = None
    mask_suffix: str = ""
    region_suffix: str = ""
    image_suffix: str = ""


class GateSpec(_Table, frozen=True, kw_only=True):
    """``rules``: what ``edgeseg gate`` judges by where the command line names none; the text of ``edgeseg.gate.rules``."""

    rules: tuple[str, ...] = ()


class ModelSpec(_Table, frozen=True, kw_only=True):
    """edgeseg.toml. Relative paths in it are relative to the file's folder."""

    input: InputSpec
    classes: ClassesSpec
    preprocess: PreprocessSpec = PreprocessSpec()
    output: OutputSpec = OutputSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gate: GateSpec = GateSpec()
    schema: int = 1

    @property
    def num_classes(self) -> int:
        """Classes that count in mIoU; for one sigmoid channel, 2 (background, foreground)."""
        return len(self.classes.names)
