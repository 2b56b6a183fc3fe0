"""Procedural scenes: deterministic, complete, and not to be solved by colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.neighbors import KNeighborsClassifier

from edgeseg.data.scenes import CLASSES, HEIGHT, IGNORE, PALETTE, SPLITS, WIDTH, render, write_set
from edgeseg.errors import DataError, OutputError


def test_same_seed_same_scene_other_seed_other_scene() -> None:
    image, mask = render(11)
    again, again_mask = render(11)
    other, other_mask = render(12)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, again_mask)
    assert (image != other).mean() > 0.5
    assert (mask != other_mask).mean() > 0.05


def test_form_of_image_and_mask() -> None:
    for seed in (0, SPLITS["calibration"] + 3, SPLITS["val"] + 5):
        image, mask = render(seed)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert mask.shape == (HEIGHT, WIDTH)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), IGNORE}
        assert np.ptp(image) > 120, "a scene has contrast"


def test_every_class_is_common_and_a_palette_colour_is_unique() -> None:
    present = np.zeros(len(CLASSES))
    for seed in range(40):
        present += np.isin(np.arange(len(CLASSES)), render(seed)[1])
    assert dict(zip(CLASSES, present >= 20, strict=True)) == dict.fromkeys(CLASSES, True)
    assert len(set(PALETTE)) == len(PALETTE) == len(CLASSES)


def test_ignored_pixels_are_a_thin_band_along_edges() -> None:
    for seed in range(6):
        mask = render(seed)[1]
        ignored = mask == IGNORE
        assert 0 < ignored.mean() < 0.12
        assert not ndimage.binary_erosion(ignored, np.ones((5, 5))).any(), "nowhere 5 pixels thick"


def test_colour_alone_does_not_tell_the_class() -> None:
    """Nearest neighbours in RGB, with plenty of labelled pixels, stay far below what a network that sees texture reaches."""
    rng = np.random.default_rng(0)

    def pixels(first: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = [render(first + i) for i in range(30)]
        image, mask = (np.concatenate([pair[k].reshape(HEIGHT * WIDTH, -1) for pair in pairs]) for k in (0, 1))
        chosen = rng.choice(np.flatnonzero(mask[:, 0] != IGNORE), 12_000, replace=False)
        return image[chosen].astype(float), mask[chosen, 0]

    guess = KNeighborsClassifier(15).fit(*pixels(SPLITS["train"])).predict((unseen := pixels(SPLITS["val"]))[0])
    truth = unseen[1]
    iou = [((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum() for c in range(len(CLASSES))]
    assert np.mean(iou) < 0.40


def test_write_set_gives_pairs_of_the_split(tmp_path: Path) -> None:
    folder = write_set(tmp_path, "val", 2)
    assert folder == tmp_path / "val"
    for index in range(2):
        image, mask = render(SPLITS["val"] + index)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"images/{index:04d}.png")), image)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"masks/{index:04d}.png")), mask)


def test_unknown_split_is_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'test'.*train, calibration, val"):
        write_set(tmp_path, "test", 1)
    assert not any(tmp_path.iterdir())


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        write_set(blocked, "val", 1)
