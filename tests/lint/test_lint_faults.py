"""One fault planted into a clean set of pictures gives one finding, which names the fault and its pictures."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from picture_sets import SPEC, PictureSet, UInt8, jpeg, numbered, preprocess, resized

from edgeseg.lint import Code, LintReport, Severity
from edgeseg.spec import ColorOrder, EvaluationSpec, InputSpec, Resize

RNG = np.random.default_rng(5)


def gray_of(pixels: UInt8) -> UInt8:
    luma = pixels.mean(axis=2).astype(np.uint8)
    return np.repeat(luma[:, :, None], 3, axis=2)


def discs(pixels: UInt8) -> UInt8:
    """A micrograph: discs on a black ground."""
    y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]]
    level = np.full(pixels.shape[:2], 3.0)
    for _ in range(30):
        cy, cx, radius = RNG.uniform(0, 128), RNG.uniform(0, 160), RNG.uniform(3, 9)
        level[np.hypot(y - cy, x - cx) < radius] = 70
    noisy = level[:, :, None] * np.array([0.9, 0.5, 1.0]) + RNG.normal(0, 0.4, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_clean_set_gives_no_finding(pictures: PictureSet, seed: int) -> None:
    report = pictures.lint(seed=seed)
    assert (report.images, report.evaluation_images) == (30, 24)
    assert report.findings == ()
    assert report.skipped == ()


def test_random_noise(pictures: PictureSet) -> None:
    names = pictures.change(numbered(3, 8), lambda p: RNG.integers(0, 256, p.shape, dtype=np.uint8))
    names += pictures.change(numbered(9), lambda p: np.clip(RNG.normal(128, 40, p.shape), 0, 255).astype(np.uint8))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.RANDOM_NOISE, Severity.ERROR, set(names))


def test_constant_pictures(pictures: PictureSet) -> None:
    names = pictures.change(numbered(1), lambda p: np.full_like(p, 128)) + pictures.change(numbered(2), np.zeros_like)
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.CONSTANT, Severity.ERROR, set(names))


def test_values_of_0_to_1_saved_as_pixels(pictures: PictureSet) -> None:
    names = pictures.change(numbered(4, 5, 6), lambda p: np.rint(p / 255).astype(np.uint8))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.NEARLY_BLACK, Severity.ERROR, set(names))


def test_exact_duplicates_are_found_by_pixels_not_bytes(pictures: PictureSet) -> None:
    pictures.save("copy.bmp", pictures.pixels("c07.png"))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity) == (Code.EXACT_DUPLICATES, Severity.WARNING)
    assert set(finding.images) == {"c07.png", "copy.bmp"}
    assert [set(pair) for pair in finding.twins] == [{"c07.png", "copy.bmp"}]


@pytest.mark.parametrize(
    "alter",
    [
        lambda p: jpeg(p, 30),
        lambda p: resized(p, 96, 120),
        lambda p: np.clip(p * 1.15, 0, 255).astype(np.uint8),
        lambda p: np.clip(p + RNG.normal(0, 6, p.shape), 0, 255).astype(np.uint8),
        lambda p: jpeg(p[:, ::-1], 60),
        lambda p: p[::-1, ::-1],
        np.rot90,
        lambda p: p[4:-6, 8:-5],
        lambda p: jpeg(resized(p[7:-7, 9:-9], *p.shape[:2]), 60),
        lambda p: np.clip(p[5:-5, -6:5:-1] * 1.15, 0, 255).astype(np.uint8),
        lambda p: np.roll(p, 5, axis=1),
    ],
    ids=[
        "jpeg",
        "smaller",
        "brighter",
        "noisier",
        "mirrored",
        "upside-down",
        "turned",
        "cut",
        "cropped",
        "cut-mirrored",
        "moved",
    ],
)
def test_near_duplicates(pictures: PictureSet, alter: object) -> None:
    assert callable(alter)
    pictures.save("again.png", alter(pictures.pixels("c11.png")))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity) == (Code.NEAR_DUPLICATES, Severity.WARNING)
    assert set(finding.images) == {"c11.png", "again.png"}


def test_a_set_that_is_nearly_all_copies_of_one_picture(pictures: PictureSet) -> None:
    pictures.change(numbered(*range(1, 30)), lambda _: jpeg(pictures.pixels("c00.png"), int(RNG.integers(60, 95))))
    found = {one.code: one for one in pictures.lint().findings}
    assert (
        len(found[Code.NEAR_DUPLICATES].images) + len(found.get(Code.EXACT_DUPLICATES, found[Code.NEAR_DUPLICATES]).images)
        >= 30
    )


def test_overlap_with_the_evaluation_set(pictures: PictureSet) -> None:
    for name, source in (("extra0.png", "v02.png"), ("extra1.bmp", "v05.png")):
        pictures.save(name, pictures.pixels(source))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity) == (Code.IN_EVALUATION, Severity.ERROR)
    assert set(finding.twins) == {("extra0.png", "v02.png"), ("extra1.bmp", "v05.png")}
    assert set(finding.images) == {"extra0.png", "extra1.bmp"}


@pytest.mark.parametrize(
    "alter", [lambda p: jpeg(p, 40), lambda p: jpeg(p[3:-5, ::-1], 70)], ids=["encoded-again", "mirrored-and-cut"]
)
def test_near_overlap_with_the_evaluation_set(pictures: PictureSet, alter: object) -> None:
    assert callable(alter)
    pictures.save("extra.png", alter(pictures.pixels("v09.png")))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, finding.twins) == (
        Code.NEAR_EVALUATION,
        Severity.WARNING,
        (("extra.png", "v09.png"),),
    )


@pytest.mark.parametrize("color", [ColorOrder.RGB, ColorOrder.BGR])
def test_red_and_blue_exchanged_in_all_pictures(pictures: PictureSet, color: ColorOrder) -> None:
    names = pictures.change(numbered(*range(30)), lambda p: p[:, :, ::-1])
    finding = pictures.only_finding(preprocess(color=color))
    assert (finding.code, finding.severity) == (Code.COLOR_ORDER, Severity.ERROR)
    assert len(set(finding.images) & set(names)) >= 27  # a scene without sky and soil tells too little alone


def test_red_and_blue_exchanged_in_some_pictures(pictures: PictureSet) -> None:
    names = pictures.change(numbered(2, 4, 6, 8, 10, 12), lambda p: p[:, :, ::-1])
    finding = pictures.only_finding()
    assert (finding.code, finding.severity) == (Code.COLOR_ORDER, Severity.WARNING)
    assert finding.images
    assert set(finding.images) <= set(names)


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 1.0},
        {"mean": (123.7, 116.3, 103.5)},
        {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)},
        {"mean": (123.7, 116.3, 103.5), "std": (1.0,)},
    ],
)
def test_scale_mean_and_std_in_different_units(pictures: PictureSet, changes: dict[str, object]) -> None:
    finding = pictures.only_finding(preprocess(**changes))
    assert (finding.code, finding.severity, finding.images) == (Code.VALUE_RANGE, Severity.ERROR, ())


def test_the_figures_of_the_value_range_are_those_of_the_prepared_values(pictures: PictureSet) -> None:
    from edgeseg.data.calibration import open_calibration

    spec = preprocess(scale=1.0)
    values = np.concatenate([one.values for one in open_calibration(spec, pictures.root)]).astype(np.float64)
    figures = {figure.name: figure.value for figure in pictures.only_finding(spec).figures}
    means, deviations = values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3))
    channel = int(np.argmin(np.abs(means - figures["mean"])))
    assert figures["mean"] == pytest.approx(means[channel], rel=1e-4)
    assert figures["standard deviation"] == pytest.approx(deviations[channel], rel=1e-4)


def test_a_network_that_divides_by_255_after_standardising_is_fed_right(pictures: PictureSet) -> None:
    spec = preprocess(scale=1.0, mean=(110.3, 108.4, 105.0), std=(72.1, 72.7, 69.9), post_scale=1 / 255)
    assert pictures.lint(spec).findings == ()


def test_gray_pictures_for_a_colour_model(pictures: PictureSet) -> None:
    names = pictures.change(numbered(0, 9, 18), gray_of)
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.GRAY_IMAGES, Severity.WARNING, set(names))


def test_gray_pictures_are_fine_where_the_evaluation_images_are_gray(pictures: PictureSet) -> None:
    pictures.change(numbered(*range(30)), gray_of)
    pictures.change([f"v{index:02d}.png" for index in range(24)], gray_of)
    report = pictures.lint()
    assert report.findings == ()
    assert [one.codes for one in report.skipped] == [(Code.COLOR_ORDER,)]


def test_a_gray_model_takes_gray_pictures(pictures: PictureSet) -> None:
    pictures.change(numbered(0, 1, 2), gray_of)
    spec = msgspec.structs.replace(
        preprocess(color=ColorOrder.GRAY, mean=(0.45,), std=(0.22,)), input=InputSpec(shape=(1, 1, 128, 160))
    )
    assert pictures.lint(spec).findings == ()


@pytest.mark.parametrize("kept", [3, 7])
def test_too_few_pictures(pictures: PictureSet, kept: int) -> None:
    for name in numbered(*range(kept, 30)):
        pictures.path(name).unlink()
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, finding.images) == (Code.TOO_FEW, Severity.WARNING, ())
    assert finding.figures[0].value == kept


def test_halves_that_disagree_are_too_few(pictures: PictureSet) -> None:
    """Twelve pictures, of which one alone reaches the bright end."""
    for name in numbered(*range(12, 30)):
        pictures.path(name).unlink()
    pictures.change(numbered(*range(11)), lambda p: (p * 0.55).astype(np.uint8))
    spec = msgspec.structs.replace(SPEC, evaluation=EvaluationSpec())
    finding = pictures.only_finding(spec)
    assert finding.code is Code.TOO_FEW
    assert finding.figures[1].value > 0.1


def test_another_kind_of_picture(pictures: PictureSet) -> None:
    names = pictures.change(numbered(*range(30)), discs)
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.DIFFERENT_KIND, Severity.WARNING, set(names))
    figures = {figure.name: figure.value for figure in finding.figures}
    assert figures["p-value"] == pytest.approx(0.001)


def test_a_few_pictures_of_another_kind(pictures: PictureSet) -> None:
    names = pictures.change(numbered(5, 25), discs)
    finding = pictures.only_finding()
    assert (finding.code, set(finding.images)) == (Code.DIFFERENT_KIND, set(names))


def test_stretching_that_distorts(pictures: PictureSet) -> None:
    names = pictures.change(numbered(7, 14), lambda p: resized(p, 128, 400))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.DISTORTED, Severity.WARNING, set(names))
    assert finding.figures[0].value == pytest.approx(2.5)


@pytest.mark.parametrize("resize", [Resize.STRETCH, Resize.LETTERBOX, Resize.PAD])
def test_pictures_much_smaller_than_the_input(pictures: PictureSet, resize: Resize) -> None:
    names = pictures.change(numbered(13, 26), lambda p: resized(p, 40, 50))
    finding = pictures.only_finding(preprocess(resize=resize))
    assert (finding.code, finding.severity, set(finding.images)) == (Code.SMALL_IMAGES, Severity.WARNING, set(names))


def test_pictures_that_cannot_be_fed(pictures: PictureSet) -> None:
    pictures.path("c03.png").write_bytes(pictures.path("c03.png").read_bytes()[:2000])
    pictures.change(numbered(4), lambda p: p[:100])
    finding = pictures.only_finding(preprocess(resize=Resize.EXACT))
    assert (finding.code, finding.severity, set(finding.images)) == (Code.UNUSABLE, Severity.ERROR, {"c03.png", "c04.png"})


def test_without_evaluation_images_the_report_says_what_was_not_checked(pictures: PictureSet) -> None:
    report = pictures.lint(msgspec.structs.replace(SPEC, evaluation=EvaluationSpec()))
    assert report.findings == ()
    assert {code for one in report.skipped for code in one.codes} == {
        Code.IN_EVALUATION,
        Code.NEAR_EVALUATION,
        Code.COLOR_ORDER,
        Code.SOFT_IMAGES,
        Code.DIFFERENT_KIND,
    }


def test_errors_come_first_and_the_report_survives_json(pictures: PictureSet) -> None:
    pictures.change(numbered(1), lambda p: np.full_like(p, 7 * 16))
    pictures.save("copy.bmp", pictures.pixels("c07.png"))
    report = pictures.lint()
    assert [one.code for one in report.findings] == [Code.CONSTANT, Code.EXACT_DUPLICATES]
    assert (report.errors, report.warnings) == (1, 1)
    assert msgspec.json.decode(msgspec.json.encode(report), type=LintReport) == report


def test_the_same_seed_gives_the_same_report(pictures: PictureSet) -> None:
    pictures.change(numbered(*range(10)), discs)
    assert pictures.lint(seed=3) == pictures.lint(seed=3)


@pytest.mark.parametrize("which", [range(30), (3, 7, 20)], ids=["all", "some"])
def test_pictures_enlarged_before(pictures: PictureSet, which: range | tuple[int, ...]) -> None:
    names = pictures.change(numbered(*which), lambda p: resized(resized(p, 32, 40), 128, 160))
    finding = pictures.only_finding()
    assert (finding.code, finding.severity, set(finding.images)) == (Code.SOFT_IMAGES, Severity.WARNING, set(names))


def test_a_set_of_nothing_but_noise_is_not_also_too_small(pictures: PictureSet) -> None:
    names = pictures.change(numbered(*range(30)), lambda p: RNG.integers(0, 256, p.shape, dtype=np.uint8))
    finding = pictures.only_finding()
    assert (finding.code, set(finding.images)) == (Code.RANDOM_NOISE, set(names))
