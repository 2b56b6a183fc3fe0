"""Image/mask pairs: which belong together, and what the masks say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgeseg.data.pairs import Sample, load_truth, open_evaluation
from edgeseg.errors import DataError, UsageError
from edgeseg.spec import ClassesSpec, EvaluationSpec, InputSpec, ModelSpec, OutputKind, OutputSpec

SPEC = ModelSpec(
    input=InputSpec(shape=(1, 3, 4, 6)),
    classes=ClassesSpec(names=("road", "car", "sky"), palette=((128, 64, 128), (0, 0, 142), (70, 130, 180))),
    evaluation=EvaluationSpec(images="images", masks="masks"),
)
TRUTH = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [-1, 0, 0, 1, 1, 2], [2, 2, 2, 2, 2, -1]], np.int16)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def one(tmp_path: Path, mask: np.ndarray | Image.Image, name: str = "a.png", **classes: object) -> np.ndarray:
    image = save(tmp_path / "images" / "a.png", np.zeros((4, 6, 3), np.uint8))
    path = tmp_path / "masks" / name
    path.parent.mkdir(exist_ok=True)
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    spec = msgspec.structs.replace(SPEC, classes=msgspec.structs.replace(SPEC.classes, **classes))
    return load_truth(Sample(image, path), spec)


def test_indices_with_ignored(tmp_path: Path) -> None:
    truth = one(tmp_path, TRUTH.astype(np.uint8))  # -1 wraps to 255, the default ignore index
    assert truth.dtype == np.int16
    assert (truth == TRUTH).all()


def test_another_ignore_index_and_16_bits(tmp_path: Path) -> None:
    mask = np.where(TRUTH < 0, 999, TRUTH).astype(np.uint16)
    assert (one(tmp_path, mask, ignore_index=999) == TRUTH).all()


def test_mask_values(tmp_path: Path) -> None:
    mask = np.choose(TRUTH + 1, [0, 10, 200, 90]).astype(np.uint8)
    assert (one(tmp_path, mask, ignore_index=0, mask_values=(10, 200, 90)) == TRUTH).all()


def test_palette_pictures_are_read_as_indices(tmp_path: Path) -> None:
    mask = Image.fromarray(TRUTH.astype(np.uint8), mode="P")
    mask.putpalette([value for index in range(256) for value in (index // 2, 255 - index, 7)])
    assert (one(tmp_path, mask) == TRUTH).all()


def test_grey_gifs_are_read_as_grey_levels(tmp_path: Path) -> None:
    """A GIF of two grey levels is stored as indices 0 and 1 of a palette; DRIVE's outlines are such files."""
    mask = Image.fromarray((TRUTH == 1).astype(np.uint8), mode="P")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    truth = one(tmp_path, mask, "a.gif", names=("background", "vessel"), mask_values=(0, 255), ignore_index=None, palette=())
    assert (truth == (TRUTH == 1)).all()


def test_colours(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), *SPEC.classes.palette], np.uint8)
    assert (one(tmp_path, colors[TRUTH + 1]) == TRUTH).all()
    white = colors.copy()
    white[0] = 255  # the grey of the ignore index
    assert (one(tmp_path, white[TRUTH + 1]) == TRUTH).all()
    with pytest.raises(DataError, match=r"colour \(0, 0, 0\)"):
        one(tmp_path, colors[TRUTH + 1], ignore_index=None)


def test_a_colour_without_a_class_is_named(tmp_path: Path) -> None:
    mask = np.zeros((4, 6, 3), np.uint8)
    mask[1, 2:4] = (1, 2, 3)
    with pytest.raises(DataError, match=r"a\.png holds the colour \(1, 2, 3\) \(2 pixel") as caught:
        one(tmp_path, mask)
    assert "palette" in caught.value.hint


def test_rgb_without_a_palette_must_be_grey(tmp_path: Path) -> None:
    grey = np.repeat(TRUTH.astype(np.uint8)[:, :, None], 3, axis=2)
    assert (one(tmp_path, grey, palette=()) == TRUTH).all()
    grey[0, 0, 0] = 9
    with pytest.raises(DataError, match="has no palette"):
        one(tmp_path, grey, palette=())


def test_a_value_without_a_class_is_named(tmp_path: Path) -> None:
    mask = TRUTH.astype(np.uint8)
    mask[2, 2:5] = 17
    with pytest.raises(DataError, match=r"a\.png holds the value 17 \(3 pixel.*0, 1, 2, and 255 is ignored") as caught:
        one(tmp_path, mask)
    assert "ignore_index" in caught.value.hint


def test_a_jpeg_mask_is_told_what_is_wrong_with_it(tmp_path: Path) -> None:
    mask = np.kron(TRUTH.clip(0), np.ones((1, 1))).astype(np.uint8) * 100
    with pytest.raises(DataError) as caught:
        one(tmp_path, mask, "a.jpg", mask_values=(0, 100, 200))
    assert "JPEG" in caught.value.hint


def test_a_mask_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png is 6x4 .* its image 4x6"):
        one(tmp_path, TRUTH.T.astype(np.uint8))


def drive_like(tmp_path: Path) -> ModelSpec:
    """The names of DRIVE: 21_training.tif, 21_manual1.gif, 21_training_mask.gif."""
    for number in (22, 21):
        save(tmp_path / "images" / f"{number}_training.tif", np.zeros((4, 6, 3), np.uint8))
        save(tmp_path / "masks" / f"{number}_manual1.gif", np.full((4, 6), 255, np.uint8))
        region = np.zeros((4, 6), np.uint8)
        region[1:3, 2:5] = 255
        save(tmp_path / "fov" / f"{number}_training_mask.gif", region)
    return ModelSpec(
        input=SPEC.input,
        classes=ClassesSpec(names=("background", "vessel"), mask_values=(0, 255), ignore_index=None),
        output=OutputSpec(kind=OutputKind.SIGMOID),
        evaluation=EvaluationSpec(
            images="images",
            masks="masks",
            regions="fov",
            image_suffix="_training",
            mask_suffix="_manual1",
            region_suffix="_training_mask",
        ),
    )


def test_pairs_with_suffixes_and_regions(tmp_path: Path) -> None:
    samples = open_evaluation(drive_like(tmp_path), tmp_path)
    assert [sample.image_path.name for sample in samples] == ["21_training.tif", "22_training.tif"]
    assert [sample.mask_path.name for sample in samples] == ["21_manual1.gif", "22_manual1.gif"]
    loaded = list(samples.load())
    assert len(loaded) == len(samples) == 2
    expected = np.full((4, 6), -1)
    expected[1:3, 2:5] = 1
    assert (loaded[0].truth == expected).all()


def test_images_without_masks_are_named(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        save(tmp_path / "images" / f"{stem}.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", TRUTH.astype(np.uint8))
    save(tmp_path / "masks" / "unused.png", TRUTH.astype(np.uint8))
    with pytest.raises(DataError, match=r"2 of 3 images have no mask .*b\.png, c\.png") as caught:
        open_evaluation(SPEC, tmp_path)
    assert "suffix" in caught.value.hint


def test_two_masks_of_one_name_are_an_error(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", TRUTH.astype(np.uint8))
    save(tmp_path / "masks" / "old" / "a.png", TRUTH.astype(np.uint8))
    with pytest.raises(DataError, match="Two masks are called 'a'"):
        open_evaluation(SPEC, tmp_path)


@pytest.mark.parametrize("evaluation", [EvaluationSpec(), EvaluationSpec(images="images")])
def test_nothing_given_is_an_error(tmp_path: Path, evaluation: EvaluationSpec) -> None:
    with pytest.raises(UsageError, match="No evaluation"):
        open_evaluation(msgspec.structs.replace(SPEC, evaluation=evaluation), tmp_path)


def test_flags_override_the_spec_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = drive_like(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    samples = open_evaluation(spec, tmp_path, masks="other")
    assert {sample.mask_path.parent.name for sample in samples} == {"other"}
    assert all(sample.region_path is not None for sample in samples)


def test_take_and_digest(tmp_path: Path) -> None:
    for index in range(8):
        save(tmp_path / "images" / f"{index}.png", np.full((4, 6, 3), index, np.uint8))
        save(tmp_path / "masks" / f"{index}.png", TRUTH.astype(np.uint8))
    samples = open_evaluation(SPEC, tmp_path)
    some = samples.take(3)
    assert [sample.name for sample in some] == sorted(sample.name for sample in some)
    assert len(some) == 3
    assert some == samples.take(3)
    assert some != samples.take(3, seed=1)
    before = samples.digest()
    assert before == open_evaluation(SPEC, tmp_path).digest()
    save(tmp_path / "masks" / "7.png", np.zeros((4, 6), np.uint8))
    assert samples.digest() != before
