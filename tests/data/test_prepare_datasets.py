"""Each data set, from a tiny download of its official form to pairs that evaluation reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg.data.calibration import open_calibration
from edgeseg.data.manifests import IGNORED, list_manifests, load_manifest
from edgeseg.data.pairs import open_evaluation
from edgeseg.data.prepare import prepare_dataset
from edgeseg.errors import DataError, OutputError, UsageError
from edgeseg.spec import CalibrationSpec, EvaluationSpec, InputSpec, ModelSpec, PreprocessSpec

SIZE = (3, 4)


@dataclass
class Download:
    """Builds the official form of a data set: every mask is one row of labels, repeated."""

    root: Path
    files: list[Path] = field(default_factory=list)

    def image(self, name: str) -> None:
        self._save(name, Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)))

    def values(self, name: str, row: list[int]) -> None:
        self._save(name, Image.fromarray(np.tile(np.array(row, np.uint8), (SIZE[0], 1))))

    def indices(self, name: str, row: list[int]) -> None:
        picture = Image.fromarray(np.tile(np.array(row, np.uint8), (SIZE[0], 1)), mode="P")
        picture.putpalette([(index * 37 + part * 50) % 256 for index in range(256) for part in range(3)])
        self._save(name, picture)

    def grey_gif(self, name: str, row: list[int]) -> None:
        """Black and white as indices 0 and 1, as GIF encoders store it."""
        picture = Image.fromarray(np.tile((np.array(row) > 0).astype(np.uint8), (SIZE[0], 1)), mode="P")
        picture.putpalette([0, 0, 0, 255, 255, 255])
        self._save(name, picture)

    def colors(self, name: str, row: list[tuple[int, int, int]]) -> None:
        self._save(name, Image.fromarray(np.tile(np.array(row, np.uint8), (SIZE[0], 1, 1))))

    def text(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def _save(self, name: str, picture: Image.Image) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        self.files.append(path)


def camvid_colors(made: Download) -> None:
    rows = {
        "0001TP_006690": [(128, 128, 128), (0, 128, 64), (0, 0, 0), (128, 0, 192)],  # Sky, Bridge, Void, LaneMkgsDriv
        "0016E5_00390": [(64, 128, 192), (192, 192, 0), (192, 0, 192), (64, 0, 192)],  # SUV, VegetationMisc, Scooter, Luggage
        "0016E5_08159": [(0, 0, 64), (64, 192, 128), (0, 64, 64), (64, 64, 128)],  # TrafficCone, ParkingBlock, Light, Fence
        "0001TP_008550": [(128, 0, 0)] * 4,
        "Seq05VD_f00000": [(0, 0, 0)] * 4,
    }
    for stem, row in rows.items():
        made.image(f"701_StillsRaw_full/{stem}.png")
        made.colors(f"LabeledApproved_full/{stem}_L.png", row)


def camvid_indices(made: Download) -> None:
    for split in ("train", "val", "test"):
        made.image(f"CamVid/{split}/0001TP_006690.png")
        made.values(f"CamVid/{split}annot/0001TP_006690.png", [0, 10, 11, 4])


def isic(made: Download) -> None:
    for part, number in (("Training", 1), ("Validation", 2), ("Test", 3)):
        made.image(f"ISIC2018_Task1-2_{part}_Input/ISIC_000000{number}.jpg")
        made.text(f"ISIC2018_Task1-2_{part}_Input/ATTRIBUTION.txt", "names")
        made.values(f"ISIC2018_Task1_{part}_GroundTruth/ISIC_000000{number}_segmentation.png", [0, 255, 255, 0])


def ade20k(made: Download) -> None:
    made.text("ADEChallengeData2016/images/training/._ADE_train_00000001.jpg", "left by an archiver")
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        made.image(f"ADEChallengeData2016/images/{split}/{stem}.jpg")
        made.values(f"ADEChallengeData2016/annotations/{split}/{stem}.png", [0, 1, 150, 7])


def cityscapes(made: Download) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "munster")):
        stem = f"{city}_000000_000019"
        made.image(f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        made.values(f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", [7, 33, 9, 3])
        made.values(f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png", [7, 33, 9, 3])
        made.text(f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json", "{}")


def voc(made: Download) -> None:
    for stem in ("2007_000032", "2007_000033", "2008_000002"):
        made.image(f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg")
    for stem in ("2007_000032", "2007_000033"):
        made.indices(f"VOCdevkit/VOC2012/SegmentationClass/{stem}.png", [0, 20, 255, 1])
    made.text("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt", "2007_000032\n")
    made.text("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "2007_000033\n")


def cocostuff(made: Download) -> None:
    for split in ("train2017", "val2017"):
        made.image(f"images/{split}/000000000139.jpg")
        made.values(f"annotations/{split}/000000000139.png", [0, 181, 255, 12])  # person, wood, unlabeled, stop sign


def pet(made: Download) -> None:
    for stem in ("Abyssinian_1", "Abyssinian_2"):
        made.image(f"images/{stem}.jpg")
        made.values(f"annotations/trimaps/{stem}.png", [1, 2, 3, 2])
    made.text("annotations/trainval.txt", "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\n")
    made.text("annotations/test.txt", "Abyssinian_2 1 1 1\n")


def drive(made: Download) -> None:
    for folder, kind, number in (("training", "training", 21), ("test", "test", "01")):
        made.image(f"DRIVE/{folder}/images/{number}_{kind}.tif")
        made.grey_gif(f"DRIVE/{folder}/1st_manual/{number}_manual1.gif", [0, 255, 255, 0])
        made.grey_gif(f"DRIVE/{folder}/mask/{number}_{kind}_mask.gif", [0, 255, 255, 255])


# What each prepared mask must hold, by split and stem.
EXPECTED = {
    "camvid": (
        camvid_colors,
        {
            "train/0001TP_006690": [0, 1, IGNORED, 3],
            "train/0016E5_00390": [8, 5, 10, 9],
            "val/0016E5_08159": [2, 4, 6, 7],
            "test/0001TP_008550": [1, 1, 1, 1],
            "test/Seq05VD_f00000": [IGNORED] * 4,
        },
    ),
    "camvid (indices)": (camvid_indices, {f"{split}/0001TP_006690": [0, 10, IGNORED, 4] for split in ("train", "val", "test")}),
    "isic2018": (isic, {f"{split}/ISIC_000000{i}": [0, 1, 1, 0] for i, split in enumerate(("train", "val", "test"), 1)}),
    "ade20k": (ade20k, {f"{split}/ADE_{split}_00000001": [IGNORED, 0, 149, 6] for split in ("train", "val")}),
    "cityscapes": (
        cityscapes,
        {f"{split}_000000_000019": [0, 18, IGNORED, IGNORED] for split in ("train/aachen", "train/bochum", "val/munster")},
    ),
    "voc2012": (voc, {"train/2007_000032": [0, 20, IGNORED, 1], "val/2007_000033": [0, 20, IGNORED, 1]}),
    "cocostuff": (cocostuff, {f"{split}/000000000139": [0, 170, IGNORED, 11] for split in ("train", "val")}),
    "oxford_pet": (pet, {"train/Abyssinian_1": [1, 0, IGNORED, 0], "test/Abyssinian_2": [1, 0, IGNORED, 0]}),
    "drive": (drive, {"train/21": [0, 1, 1, 0], "test/01": [0, 1, 1, 0]}),
}


def test_every_data_set_is_here() -> None:
    assert {name.split(" ")[0] for name in EXPECTED} | {"embedded"} == set(list_manifests())


@pytest.mark.parametrize("case", EXPECTED)
def test_official_form_to_pairs(case: str, tmp_path: Path) -> None:
    build, masks = EXPECTED[case]
    name = case.split(" ", maxsplit=1)[0]
    made = Download(tmp_path / "download")
    build(made)
    before = {path: path.read_bytes() for path in made.files}
    summary = prepare_dataset(name, made.root, tmp_path / "root")

    assert {path: path.read_bytes() for path in made.files} == before
    assert not summary.absent
    assert {split.name: split.images for split in summary.splits} == {
        split: sum(key.startswith(f"{split}/") for key in masks) for split in load_manifest(name).splits
    }
    found = {}
    for path in (tmp_path / "root").glob("*/masks/*"):
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.mode == "L"
            found[f"{path.parts[-3]}/{path.stem}"] = np.asarray(picture)
    assert {key: mask[0].tolist() for key, mask in found.items()} == masks

    # What was prepared is what `set` and `root` in edgeseg.toml find.
    manifest = load_manifest(name)
    spec = ModelSpec(
        input=InputSpec(shape=(1, 3, *SIZE)),
        preprocess=PreprocessSpec(),
        classes=manifest.classes,
        calibration=CalibrationSpec(set=name, root="root"),
        evaluation=EvaluationSpec(set=name, root="root"),
    )
    assert len(list(open_calibration(spec, tmp_path))) == sum(key.startswith(f"{manifest.calibration}/") for key in masks)
    for loaded in open_evaluation(spec, tmp_path).load():
        mask = found[f"{manifest.evaluation}/{loaded.sample.name}"].astype(int)
        expected = np.where(mask == IGNORED, -1, mask)
        if manifest.regions:
            expected[:, 0] = -1
        assert (loaded.truth == expected).all()


def test_a_split_that_was_not_downloaded_is_left_out(tmp_path: Path) -> None:
    made = Download(tmp_path / "download")
    drive(made)
    (made.root / "DRIVE/test/1st_manual/01_manual1.gif").unlink()
    (made.root / "DRIVE/test/1st_manual").rmdir()
    summary = prepare_dataset("drive", made.root, tmp_path / "root")
    assert [split.name for split in summary.splits] == ["train"]
    assert summary.absent == ("test",)


def test_an_incomplete_download_names_a_missing_file(tmp_path: Path) -> None:
    made = Download(tmp_path / "download")
    cityscapes(made)
    (made.root / "gtFine/train/bochum/bochum_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match="bochum_000000_000019_gtFine_labelIds"):
        prepare_dataset("cityscapes", made.root, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_unknown_label_leaves_no_half_split(tmp_path: Path) -> None:
    made = Download(tmp_path / "download")
    voc(made)
    made.indices("VOCdevkit/VOC2012/SegmentationClass/2007_000033.png", [0, 21, 255, 1])
    with pytest.raises(DataError, match=r"2007_000033\.png holds the value 21"):
        prepare_dataset("voc2012", made.root, tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["train"]


def test_a_prepared_split_is_not_overwritten(tmp_path: Path) -> None:
    made = Download(tmp_path / "download")
    pet(made)
    prepare_dataset("oxford_pet", made.root, tmp_path / "root")
    with pytest.raises(OutputError, match="exists already"):
        prepare_dataset("oxford_pet", made.root, tmp_path / "root")


def test_progress_counts_every_image(tmp_path: Path) -> None:
    made = Download(tmp_path / "download")
    cityscapes(made)
    seen: list[tuple[str, int, int]] = []
    prepare_dataset("cityscapes", made.root, tmp_path / "root", progress=lambda *step: seen.append(step))
    assert seen == [("train", 1, 2), ("train", 2, 2), ("val", 1, 1)]


def test_a_folder_of_something_else_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="no download of Cityscapes") as caught:
        prepare_dataset("cityscapes", tmp_path, tmp_path / "root")
    assert "gtFine_trainvaltest.zip" in caught.value.hint
    with pytest.raises(DataError, match="no folder"):
        prepare_dataset("cityscapes", tmp_path / "nowhere", tmp_path / "root")


def test_the_embedded_set_needs_no_preparing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="part of edgeseg"):
        prepare_dataset("embedded", tmp_path, tmp_path / "root")
