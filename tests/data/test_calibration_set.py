"""Which images calibrate, and that they come as evaluation's do, in flat memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgeseg.data.calibration import open_calibration
from edgeseg.data.pairs import open_evaluation
from edgeseg.errors import DataError, UsageError
from edgeseg.spec import (
    CalibrationSpec,
    ClassesSpec,
    ColorOrder,
    EvaluationSpec,
    InputSpec,
    ModelSpec,
    PreprocessSpec,
    Resize,
)

SPEC = ModelSpec(
    input=InputSpec(shape=(1, 3, 12, 16)),
    classes=ClassesSpec(names=("a", "b")),
    preprocess=PreprocessSpec(
        color=ColorOrder.BGR, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), resize=Resize.LETTERBOX, pad_value=0.1
    ),
    calibration=CalibrationSpec(images="photos", count=5),
)


def write_images(folder: Path, count: int, size: tuple[int, int] = (10, 14)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")


def calibrating(**changes: object) -> ModelSpec:
    return msgspec.structs.replace(SPEC, calibration=msgspec.structs.replace(SPEC.calibration, **changes))


def test_the_draw_depends_on_seed_and_names_only(tmp_path: Path) -> None:
    write_images(tmp_path / "one" / "photos", 20)
    for path in sorted((tmp_path / "one" / "photos").iterdir(), reverse=True):  # another order on disk, another place
        target = tmp_path / "two" / "photos" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    one, two = (open_calibration(SPEC, tmp_path / place) for place in ("one", "two"))
    assert [path.name for path in one.paths] == [path.name for path in two.paths]
    assert one.digest == two.digest
    assert len(one) == 5
    assert one.available == 20
    other = open_calibration(SPEC, tmp_path / "one", seed=1)
    assert {path.name for path in other.paths} != {path.name for path in one.paths}
    larger = open_calibration(SPEC, tmp_path / "one", count=9)
    assert larger.paths[:5] == one.paths


def test_every_image_is_drawn_about_as_often(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 10, (1, 1))
    drawn = np.zeros(10)
    for seed in range(200):
        for path in open_calibration(SPEC, tmp_path, seed=seed).paths:
            drawn[int(path.stem)] += 1
    # 200 draws of 5 in 10: mean 100, standard deviation below sqrt(200 / 4) = 7.1
    assert abs(drawn - 100).max() < 4 * 7.1


def test_the_digest_is_that_of_the_bytes_in_order(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 5)
    before = open_calibration(SPEC, tmp_path)
    assert before.take(3).digest != before.digest
    assert open_calibration(SPEC, tmp_path, count=3).digest == before.take(3).digest
    changed = before.paths[2]
    Image.open(changed).transpose(Image.Transpose.ROTATE_180).save(changed)
    assert open_calibration(SPEC, tmp_path).digest != before.digest


@pytest.mark.parametrize("source", ["photos", "photos/*.png", "photos/**/*", "photos/00?.png", "pho*/*.png"])
def test_folders_and_globs(tmp_path: Path, source: str) -> None:
    write_images(tmp_path / "photos", 4)
    write_images(tmp_path / "photos" / ".hidden", 1)
    (tmp_path / "photos" / "._000.png").write_text("left by a copying tool")
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    names = {path.name for path in open_calibration(calibrating(images=source), tmp_path).paths}
    assert names == {"000.png", "001.png", "002.png", "003.png"}


def test_flags_override_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "elsewhere" / "more", 3)
    write_images(tmp_path / "elsewhere" / "extra", 1)
    monkeypatch.chdir(tmp_path)
    drawn = open_calibration(SPEC, tmp_path / "nowhere", images=["elsewhere/more", "elsewhere/extra/000.png"], count=10, seed=3)
    assert len(drawn) == 4
    assert drawn.seed == 3


def test_split_and_take_share_nothing_and_lose_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 5)
    whole = open_calibration(SPEC, tmp_path)
    fit, held_back = whole.split(0.4)
    assert (len(fit), len(held_back)) == (3, 2)
    assert fit.paths + held_back.paths == whole.paths
    assert len(whole.take(99)) == 5
    with pytest.raises(UsageError, match="cannot be split"):
        whole.take(1).split(0.5)


def test_it_can_be_iterated_again(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 5)
    drawn = open_calibration(SPEC, tmp_path)
    first, second = ([x.values for x in drawn] for _ in range(2))
    assert len(first) == 5
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_no_images_given_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No calibration images") as caught:
        open_calibration(calibrating(images=None), tmp_path)
    assert "[calibration]" in caught.value.hint


@pytest.mark.parametrize("case", ["empty folder", "no such folder", "only text", "empty glob"])
def test_nothing_there_is_an_error(tmp_path: Path, case: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "readme.txt").write_text("nothing")
    source = {
        "empty folder": "photos",
        "no such folder": "photo",
        "only text": "photos/readme.txt",
        "empty glob": "photos/*.png",
    }
    with pytest.raises(DataError, match="photo"):
        open_calibration(calibrating(images=source[case]), tmp_path)


def test_a_file_that_is_no_image_is_found_at_once(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    (tmp_path / "photos" / "bad.png").write_text("not an image")
    with pytest.raises(DataError, match=r"bad\.png"):
        open_calibration(SPEC, tmp_path)


def test_a_truncated_image_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3, (40, 40))
    path = tmp_path / "photos" / "001.png"
    path.write_bytes(path.read_bytes()[:2000])
    drawn = open_calibration(SPEC, tmp_path)
    with pytest.raises(DataError, match=r"001\.png"):
        list(drawn)


def test_regions_are_paired_and_part_of_the_digest(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3, (20, 24))
    (tmp_path / "fov").mkdir()
    region = np.zeros((20, 24), np.uint8)
    region[4:16, 4:20] = 255
    for index in range(3):
        Image.fromarray(region).save(tmp_path / "fov" / f"{index:03}_fov.gif")
    spec = msgspec.structs.replace(
        calibrating(regions="fov"),
        preprocess=msgspec.structs.replace(SPEC.preprocess, crop_to_region=True),
        evaluation=EvaluationSpec(region_suffix="_fov"),
    )
    drawn = open_calibration(spec, tmp_path)
    assert [path.stem for path in drawn.regions] == [f"{path.stem}_fov" for path in drawn.paths]
    original = np.asarray(Image.open(drawn.paths[0]))
    assert (next(iter(drawn)).pixels[0] == original[4:16, 4:20, ::-1]).all()
    Image.fromarray(np.full_like(region, 255)).save(drawn.regions[0])
    assert open_calibration(spec, tmp_path).digest != drawn.digest
    drawn.regions[1].unlink()
    with pytest.raises(DataError, match="no region mask"):
        open_calibration(spec, tmp_path)


def test_calibration_and_evaluation_feed_the_same_bytes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4, (31, 17))
    (tmp_path / "masks").mkdir()
    for index in range(4):
        Image.fromarray(np.zeros((31, 17), np.uint8)).save(tmp_path / "masks" / f"{index:03}.png")
    spec = msgspec.structs.replace(SPEC, evaluation=EvaluationSpec(images="photos", masks="masks"))
    drawn = open_calibration(spec, tmp_path)
    calibration = dict(zip(drawn.paths, drawn, strict=True))
    evaluation = {loaded.sample.image_path: loaded.prepared.input for loaded in open_evaluation(spec, tmp_path).load()}
    assert calibration.keys() == evaluation.keys()
    for path, x in calibration.items():
        assert x.values.tobytes() == evaluation[path].values.tobytes()
        assert x.pixels.tobytes() == evaluation[path].pixels.tobytes()


MEASURE = """
import json, resource, sys
from pathlib import Path
import msgspec
from edgeseg.data.calibration import open_calibration
from edgeseg.spec import ModelSpec
spec = msgspec.json.decode(sys.argv[1], type=ModelSpec)
drawn = open_calibration(spec, Path(sys.argv[2]))
total = sum(float(x.values[0, 0, 0, 0]) for x in drawn)
print(json.dumps([len(drawn), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def test_memory_is_flat_from_10_to_500_images(tmp_path: Path) -> None:
    """500 prepared images take 500 x 960 KiB = 469 MiB; the peak of a process of its own must not see them."""
    write_images(tmp_path / "photos", 500, (8, 8))
    spec = msgspec.structs.replace(
        calibrating(), input=InputSpec(shape=(1, 3, 256, 256)), preprocess=PreprocessSpec(resize=Resize.STRETCH)
    )
    peaks = {}
    for count in (10, 500):
        counted = msgspec.structs.replace(spec, calibration=msgspec.structs.replace(spec.calibration, count=count))
        command = [sys.executable, "-c", MEASURE, msgspec.json.encode(counted).decode(), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        found, peaks[count] = json.loads(done.stdout)
        assert found == count
    assert peaks[500] - peaks[10] < 24 * 1024  # KiB; a few images and what the allocator keeps
