"""The one way of an image into a model and back, against Pillow, PyTorch and plain formulas."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgeseg.errors import DataError, ModelError
from edgeseg.preprocess import (
    Placement,
    decide,
    load_image,
    load_region,
    normalise,
    prepare,
    raw_threshold,
    resize_bilinear,
    restore,
)
from edgeseg.spec import (
    ClassesSpec,
    ColorOrder,
    InputSpec,
    Interpolation,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
    Resize,
)

RNG = np.random.default_rng(7)


def spec_of(
    height: int = 6,
    width: int = 8,
    *,
    preprocess: PreprocessSpec | None = None,
    output: OutputSpec | None = None,
    layout: Layout = Layout.NCHW,
) -> ModelSpec:
    preprocess = preprocess or PreprocessSpec()
    channels = 1 if preprocess.color is ColorOrder.GRAY else 3
    shape = (1, channels, height, width) if layout is Layout.NCHW else (1, height, width, channels)
    return ModelSpec(
        input=InputSpec(shape=shape, layout=layout),
        classes=ClassesSpec(names=("ground", "thing")),
        preprocess=preprocess,
        output=output or OutputSpec(),
    )


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_load_image_gives_the_same_rgb_for_every_way_of_storing_it(tmp_path: Path) -> None:
    rgb = np.zeros((4, 5, 3), np.uint8)
    rgb[1:3, 2:4] = (200, 30, 90)
    plain = Image.fromarray(rgb)
    rgba = plain.copy()
    rgba.putalpha(120)
    for name, image in {"rgb.png": plain, "rgba.png": rgba, "palette.png": plain.quantize(8), "rgb.bmp": plain}.items():
        image.save(tmp_path / name)
        assert (load_image(tmp_path / name) == rgb).all(), name


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_load_image_repeats_grey(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255, 0], [255, 0, 255]], np.uint8)
    if mode == "I;16":
        grey = np.array([[0, 17, 128], [200, 254, 255]], np.uint8)
        image = Image.fromarray(grey.astype(np.uint16) * 256 + 255)
    else:
        image = Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "grey.png")
    assert (load_image(tmp_path / "grey.png") == grey[:, :, None]).all()


def test_load_image_turns_by_exif(tmp_path: Path) -> None:
    rgb = np.zeros((16, 32, 3), np.uint8)
    rgb[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; upright is a quarter turn clockwise
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    upright = load_image(tmp_path / "turned.png")
    assert upright.shape == (32, 16, 3)
    assert upright[0].max() == 0
    assert upright[-1].min() == 255


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "empty", "float"])
def test_load_image_names_what_it_cannot_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.png"
    if kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        Image.fromarray(picture(40, 40)).save(path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "float":
        path = path.with_suffix(".tif")
        Image.fromarray(np.ones((3, 3), np.float32)).save(path)
    with pytest.raises(DataError, match=path.name) as caught:
        load_image(path)
    assert caught.value.hint


def test_load_region_is_true_where_any_channel_is_not_zero(tmp_path: Path) -> None:
    inside = np.array([[True, False], [False, True]])
    Image.fromarray(inside.astype(np.uint8) * 255).save(tmp_path / "grey.png")
    Image.fromarray(inside.astype(np.uint8) * 255).convert("1").save(tmp_path / "bits.gif")
    Image.fromarray(inside[:, :, None] * np.array([0, 0, 9], np.uint8)).save(tmp_path / "blue.png")
    Image.fromarray(inside[:, :, None] * np.array([7, 0, 0, 0], np.uint8) + np.array([0, 0, 0, 255], np.uint8)).save(
        tmp_path / "alpha.png"
    )
    for path in sorted(tmp_path.iterdir()):
        assert (load_region(path) == inside).all(), path.name


# --- into the model ---------------------------------------------------------------------------------------------------


def test_values_follow_the_formula_in_channel_order() -> None:
    rule = PreprocessSpec(
        color=ColorOrder.BGR,
        scale=1.0,
        mean=(110.3313, 108.4091, 105.0335),
        std=(72.1252, 72.6885, 69.9026),
        post_scale=1 / 255,
    )
    image = picture(6, 8)
    prepared = prepare(image, spec_of(preprocess=rule))
    bgr = image[:, :, ::-1]
    expected = (bgr.astype(np.float64) - rule.mean) / rule.std / 255
    assert (prepared.input.pixels[0] == bgr).all()
    assert prepared.input.values.dtype == np.float32
    np.testing.assert_allclose(prepared.input.values[0], expected.transpose(2, 0, 1), rtol=1e-6)
    assert prepared.input.pixels.flags.c_contiguous
    assert prepared.input.values.flags.c_contiguous


def test_values_are_nchw_whatever_the_layout_of_the_spec() -> None:
    image = picture(6, 8)
    nchw, nhwc = (prepare(image, spec_of(layout=layout)).input for layout in (Layout.NCHW, Layout.NHWC))
    assert nhwc.values.shape == (1, 3, 6, 8)
    assert (nchw.values == nhwc.values).all()
    assert (nchw.pixels == nhwc.pixels).all()


def test_grey_is_pillows_luma_and_keeps_grey_exactly() -> None:
    image = picture(6, 8)
    spec = spec_of(preprocess=PreprocessSpec(color=ColorOrder.GRAY))
    pixels = prepare(image, spec).input.pixels
    assert pixels.shape == (1, 6, 8, 1)
    assert (pixels[0, :, :, 0] == np.asarray(Image.fromarray(image).convert("L"))).all()
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    assert (prepare(grey, spec).input.pixels[0, :, :, 0] == grey[:, :, 0]).all()


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_stretch_resizes_as_pillow_does(interpolation: Interpolation) -> None:
    resampling = {"nearest": 0, "bilinear": 2, "bicubic": 3, "area": 4}[interpolation.value]
    image = picture(13, 9)
    prepared = prepare(image, spec_of(preprocess=PreprocessSpec(resize=Resize.STRETCH, interpolation=interpolation)))
    assert (prepared.input.pixels[0] == np.asarray(Image.fromarray(image).resize((8, 6), resampling))).all()


def test_pad_puts_the_image_at_the_top_left_and_the_pad_value_elsewhere() -> None:
    rule = PreprocessSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=Resize.PAD, pad_value=0.0)
    image = picture(4, 8)
    spec = spec_of(preprocess=rule)
    prepared = prepare(image, spec)
    assert (prepared.input.pixels[0, :4] == image).all()
    assert (prepared.input.values[0, :, 4:] == 0.0).all()
    # The pixel that normalises nearest to 0 is the mean itself.
    assert prepared.input.pixels[0, 5, 5].tolist() == [round(mean * 255) for mean in rule.mean]
    assert (prepared.input.values[:, :, :4] == normalise(prepared.input.pixels, spec)[:, :, :4]).all()


@pytest.mark.parametrize("size", [(3, 8), (30, 11), (1, 500), (6, 8), (7, 8)])
def test_letterbox_keeps_the_aspect_and_centres(size: tuple[int, int]) -> None:
    spec = spec_of(preprocess=PreprocessSpec(resize=Resize.LETTERBOX, pad_value=0.5))
    prepared = prepare(np.full((*size, 3), 255, np.uint8), spec)
    placement = prepared.placement
    (height, width), (top, left) = placement.scaled, placement.offset
    assert height == 6 or width == 8
    assert abs(height / width - size[0] / size[1]) < max(1 / height, 1 / width)
    assert abs(2 * top + height - 6) <= 1
    assert abs(2 * left + width - 8) <= 1
    values = prepared.input.values[0, 0]
    inside = np.zeros((6, 8), bool)
    inside[top : top + height, left : left + width] = True
    assert (values[inside] == 1.0).all()
    assert (values[~inside] == 0.5).all()
    assert set(prepared.input.pixels[0][~inside].ravel().tolist()) <= {127, 128}


def test_crop_to_region_takes_the_bounding_box_first() -> None:
    image = picture(20, 30)
    region = np.zeros((20, 30), bool)
    region[3, 10] = region[8, 17] = True
    spec = spec_of(preprocess=PreprocessSpec(crop_to_region=True))
    prepared = prepare(image, spec, region)
    assert prepared.placement.crop == (3, 10, 9, 18)
    assert (prepared.input.pixels[0] == image[3:9, 10:18]).all()


@pytest.mark.parametrize(
    ("resize", "size", "remedy"), [("exact", (5, 8), "stretch"), ("pad", (7, 8), "letterbox"), ("exact", (8, 6), "letterbox")]
)
def test_an_image_that_does_not_fit_is_named_with_a_remedy(resize: str, size: tuple[int, int], remedy: str) -> None:
    spec = spec_of(preprocess=PreprocessSpec(resize=Resize(resize)))
    with pytest.raises(DataError, match=rf"street\.png is {size[0]}x{size[1]}") as caught:
        prepare(picture(*size), spec, name="street.png")
    assert remedy in caught.value.hint


@pytest.mark.parametrize("region", [None, np.zeros((6, 8), bool), np.ones((5, 8), bool)])
def test_crop_to_region_needs_a_region_that_fits(region: np.ndarray | None) -> None:
    spec = spec_of(preprocess=PreprocessSpec(crop_to_region=True))
    with pytest.raises(DataError, match=r"eye\.png .*region mask"):
        prepare(picture(6, 8), spec, region, name="eye.png")


# --- and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [((3, 5), (12, 20)), ((7, 9), (10, 6)), ((6, 6), (6, 11)), ((1, 1), (4, 3))])
def test_bilinear_is_that_of_pytorch(source: tuple[int, int], target: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    plane = RNG.normal(size=(4, *source)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(plane)[None], target, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize_bilinear(plane, target), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_restore_does_not_copy_what_fits() -> None:
    spec = spec_of()
    logits = RNG.normal(size=(1, 2, 6, 8)).astype(np.float32)
    restored = restore(logits, prepare(picture(6, 8), spec).placement, spec)
    assert np.shares_memory(restored, logits)
    assert (restored == logits[0]).all()


def test_restore_upsamples_the_stride_then_cuts_the_padding() -> None:
    torch = pytest.importorskip("torch")
    spec = spec_of(8, 16, preprocess=PreprocessSpec(resize=Resize.PAD), output=OutputSpec(stride=4))
    logits = RNG.normal(size=(1, 3, 2, 4)).astype(np.float32)
    placement = prepare(picture(6, 13), spec).placement
    full = torch.nn.functional.interpolate(torch.from_numpy(logits), (8, 16), mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(restore(logits, placement, spec), full[:, :6, :13], rtol=1e-5, atol=1e-6)


def test_restore_resizes_the_crop_and_puts_it_in_its_place() -> None:
    torch = pytest.importorskip("torch")
    spec = spec_of(preprocess=PreprocessSpec(resize=Resize.STRETCH, crop_to_region=True))
    region = np.zeros((20, 30), bool)
    region[2:12, 5:29] = True
    placement = prepare(picture(20, 30), spec, region).placement
    logits = RNG.normal(size=(1, 1, 6, 8)).astype(np.float32)
    restored = restore(logits, placement, spec)
    part = torch.nn.functional.interpolate(torch.from_numpy(logits), (10, 24), mode="bilinear", align_corners=False)[0].numpy()
    assert restored.shape == (1, 20, 30)
    np.testing.assert_allclose(restored[:, 2:12, 5:29], part, rtol=1e-5, atol=1e-6)
    assert (restored[0][~region] == 0).all()


@pytest.mark.parametrize("resize", [Resize.STRETCH, Resize.LETTERBOX])
def test_a_blob_comes_back_where_it_was(resize: Resize) -> None:
    """Feeding a picture's own brightness back as the output must find its bright part again, at the source's size."""
    spec = spec_of(64, 96, preprocess=PreprocessSpec(resize=resize), output=OutputSpec(kind=OutputKind.PROBABILITY))
    image = np.zeros((150, 120, 3), np.uint8)
    image[40:90, 30:70] = 255
    prepared = prepare(image, spec)
    found = decide(restore(prepared.input.values[:, :1], prepared.placement, spec), spec)
    truth = image[:, :, 0] > 0
    assert found.shape == truth.shape
    assert (found == truth).mean() > 0.98


def test_restore_names_the_stride_that_fits() -> None:
    spec = spec_of(8, 16)
    placement = Placement(source=(8, 16), crop=(0, 0, 8, 16), scaled=(8, 16), offset=(0, 0), target=(8, 16))
    with pytest.raises(ModelError, match="2x4") as caught:
        restore(np.zeros((1, 2, 2, 4), np.float32), placement, spec)
    assert "stride = 4" in caught.value.hint


def test_decide_is_argmax_over_all_channels_first_of_equals() -> None:
    logits = RNG.integers(-3, 3, (5, 30, 40)).astype(np.float32)
    winner = decide(logits, spec_of())
    assert winner.dtype == np.int16
    assert (winner == logits.argmax(axis=0)).all()
    assert winner.max() == 4  # beyond the two class names


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
def test_decide_thresholds_the_sigmoid(threshold: float) -> None:
    logits = RNG.normal(scale=3, size=(1, 30, 40)).astype(np.float32)
    probability = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    sigmoid = spec_of(output=OutputSpec(kind=OutputKind.SIGMOID, threshold=threshold))
    given = spec_of(output=OutputSpec(kind=OutputKind.PROBABILITY, threshold=threshold))
    expected = probability[0] > threshold
    assert (decide(logits, sigmoid) == expected).all()
    assert (decide(probability, given) == expected).all()
    assert 1 / (1 + np.exp(-raw_threshold(sigmoid))) == pytest.approx(threshold)


@pytest.mark.parametrize(("kind", "channels"), [("logits", 1), ("sigmoid", 2), ("probability", 3)])
def test_decide_refuses_channels_that_do_not_fit(kind: str, channels: int) -> None:
    spec = msgspec.structs.replace(spec_of(), output=OutputSpec(kind=OutputKind(kind)))
    with pytest.raises(ModelError, match="channel"):
        decide(np.zeros((channels, 2, 2), np.float32), spec)
