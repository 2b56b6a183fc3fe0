"""edgeseg.toml: there and back, and an error with its line for everything that can be wrong in it."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from edgeseg.errors import SpecError
from edgeseg.spec import (
    CalibrationSpec,
    ClassesSpec,
    ColorOrder,
    EvaluationSpec,
    InputSpec,
    Interpolation,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
    Resize,
)
from edgeseg.spec_file import check_spec, dump_spec, find_spec, load_spec, parse_spec

PLAIN = ModelSpec(input=InputSpec(shape=(1, 3, 360, 480)), classes=ClassesSpec(names=("sky", "road")))
FULL = ModelSpec(
    input=InputSpec(shape=(1, 512, 384, 3), layout=Layout.NHWC),
    classes=ClassesSpec(
        names=("backgröund", 'a "quoted" \\ name'), palette=((0, 0, 0), (255, 1, 2)), ignore_index=None, mask_values=(0, 255)
    ),
    preprocess=PreprocessSpec(
        color=ColorOrder.BGR,
        scale=1.0,
        mean=(110.3313, 108.4091, 105.0335),
        std=(72.1252, 72.6885, 69.9026),
        post_scale=1 / 255,
        resize=Resize.LETTERBOX,
        interpolation=Interpolation.AREA,
        pad_value=-1 / 3,
        crop_to_region=True,
    ),
    output=OutputSpec(kind=OutputKind.SIGMOID, threshold=0.3, stride=4, name="out"),
    calibration=CalibrationSpec(images="photos/*.jpg", regions="fov", count=7, seed=3),
    evaluation=EvaluationSpec(
        images="val", masks="labels", regions="fov", mask_suffix="_m", region_suffix="_r", image_suffix="_i"
    ),
)
SETS = msgspec.structs.replace(
    PLAIN,
    calibration=CalibrationSpec(set="camvid", root="data/camvid"),
    evaluation=EvaluationSpec(set="camvid", root="../camvid"),
)


@pytest.mark.parametrize("spec", [PLAIN, FULL, SETS], ids=["plain", "full", "sets"])
def test_there_and_back(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "edgeseg.toml"
    path.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(path) == spec


def test_every_key_is_written_with_a_comment_above_it() -> None:
    lines = dump_spec(PLAIN).splitlines()
    keys = {line.removeprefix("# ").split(" = ")[0] for line in lines if " = " in line}
    sections = {line.strip("[]") for line in lines if line.startswith("[")}
    for section in msgspec.structs.fields(ModelSpec):
        assert section.name in sections | keys
        if isinstance(section.type, type) and issubclass(section.type, msgspec.Struct):
            assert {field.name for field in msgspec.structs.fields(section.type)} <= keys
    for above, line in pairwise(lines):
        if line.startswith("[") or (" = " in line and not line.startswith("#")):
            assert above.startswith("# "), line


def test_only_commented_keys_are_left_to_defaults() -> None:
    """The keys that stand there as comments must be valid once they are switched on."""
    text = dump_spec(PLAIN)
    switched = text.replace('# name = "logits"', 'name = "logits"').replace('# images = "photos"', 'images = "photos"')
    spec = parse_spec(switched)
    assert spec.output.name == "logits"
    assert spec.calibration.images == "photos"


@pytest.mark.parametrize(
    ("written", "value"), [('"1/255"', 1 / 255), ('" 1 / 4 "', 0.25), ("1", 1.0), ('"2.5"', 2.5), ('"-1/3"', -1 / 3)]
)
def test_numbers_may_be_fractions(written: str, value: float) -> None:
    text = f"""
        [input]
        shape = [1, 3, 8, 8]
        [classes]
        names = ["a", "b"]
        [preprocess]
        post_scale = {written}
        mean = [{written}, 0, 0.5]
    """
    spec = parse_spec(text)
    assert spec.preprocess.post_scale == value
    assert spec.preprocess.mean == (value, 0.0, 0.5)


MINIMAL = """\
schema = 1
[input]
shape = [1, 3, 360, 480]
layout = "NCHW"
[preprocess]
color = "RGB"
scale = 1.0
mean = [0.5]
std = [0.5]
post_scale = 1
resize = "exact"
crop_to_region = false
[output]
kind = "logits"
threshold = 0.5
stride = 1
[classes]
names = ["sky", "road", "car"]
palette = [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
ignore_index = 255
mask_values = [0, 1, 2]
[calibration]
images = "a"
count = 100
seed = 0
[evaluation]
images = "b"
masks = "c"
"""


def test_the_minimal_text_is_valid() -> None:
    assert parse_spec(MINIMAL).num_classes == 3


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        # keys
        ("color =", "colour =", 6, "Did you mean 'color'?"),
        ("stride =", "strides =", 16, "Did you mean 'stride'?"),
        ("[output]", "[ouput]", 13, "Did you mean 'output'?"),
        ("seed =", "zzz =", 25, "images, set, root"),
        ("schema = 1", "title = 1", 1, "unknown key 'title'"),
        # types
        ('"RGB"', '"bgr"', 6, 'Did you mean "BGR"?'),
        ('"exact"', '"leterbox"', 11, 'Did you mean "letterbox"?'),
        ('"logits"', '"softmax"', 14, "logits, sigmoid, probability"),
        ("shape = [1, 3, 360, 480]", "shape = [3, 360, 480]", 3, "length 4"),
        ("shape = [1, 3, 360, 480]", 'shape = [1, 3, "a", 480]', 3, "expected `int`"),
        ("shape = [1, 3, 360, 480]", "", 2, "'shape' is missing"),
        ("stride = 1", "stride = 1.5", 16, "expected `int`"),
        ("threshold = 0.5", "threshold = true", 15, "expected `float`"),
        ("names = [", "names = [1, ", 18, "expected `str`"),
        ("[2, 2, 2]]", "[2, 2]]", 19, "length 3"),
        ("scale = 1.0", 'scale = "1/0"', 7, "'1/0' is not a number"),
        ("mean = [0.5]", 'mean = ["half"]', 8, "'half' is not a number"),
        # TOML
        ("seed = 0", "seed = ", 25, "not TOML"),
        ('layout = "NCHW"', 'layout = "NCHW', 4, "not TOML"),
        ("seed = 0", "count = 1", 25, "not TOML"),
        # impossible values
        ("schema = 1", "schema = 2", 1, "newer edgeseg"),
        ("[1, 3, 360, 480]", "[2, 3, 360, 480]", 3, "batch"),
        ("[1, 3, 360, 480]", "[1, 3, 0, 480]", 3, "below 1"),
        ("[1, 3, 360, 480]", "[1, 360, 480, 3]", 3, 'layout = "NHWC"'),
        ("[1, 3, 360, 480]", "[1, 1, 360, 480]", 3, 'color = "GRAY"'),
        ("[1, 3, 360, 480]", "[1, 4, 360, 480]", 3, "4 channel"),
        ('color = "RGB"', 'color = "GRAY"', 3, "has 1"),
        ("mean = [0.5]", "mean = [0.5, 0.5]", 8, "2 numbers"),
        ("std = [0.5]", "std = [1, 1, 1, 1]", 9, "4 numbers"),
        ("std = [0.5]", "std = [0.5, 0, 0.5]", 9, "impossible"),
        ("std = [0.5]", "std = [nan]", 9, "finite"),
        ("scale = 1.0", "scale = 0", 7, "every pixel the same"),
        ("post_scale = 1", "post_scale = 0", 10, "every pixel the same"),
        ("threshold = 0.5", "threshold = 1.0", 15, "between 0 and 1"),
        ("stride = 1", "stride = 0", 16, "stride = 0"),
        ("stride = 1", "stride = 400", 16, "stride = 400"),
        ('"logits"', '"sigmoid"', 18, "2 classes"),
        ('names = ["sky", "road", "car"]', 'names = ["sky", "road", "sky"]', 18, "'sky' is named twice"),
        ('names = ["sky", "road", "car"]', 'names = ["sky", "road", ""]', 18, "empty name"),
        ('names = ["sky", "road", "car"]', 'names = ["sky"]', 18, "needs two"),
        ("[2, 2, 2]]", "]", 19, "2 colours for 3"),
        ("[2, 2, 2]]", "[2, 2, 256]]", 19, "0..255"),
        ("[2, 2, 2]]", "[1, 1, 1]]", 19, "same colour"),
        ("mask_values = [0, 1, 2]", "mask_values = [0, 1]", 21, "2 values for 3"),
        ("mask_values = [0, 1, 2]", "mask_values = [0, 1, 1]", 21, "same mask value"),
        ("mask_values = [0, 1, 2]", "mask_values = [0, 1, 70000]", 21, "0..65535"),
        ("ignore_index = 255", "ignore_index = 2", 20, "class 'car'"),
        ("ignore_index = 255", "ignore_index = -1", 20, '"none"'),
        ("count = 100", "count = 0", 24, "draws no image"),
        ("seed = 0", "seed = -1", 25, "negative"),
        ('images = "a"', 'images = "a"\nset = "camvid"', 24, "both images and set"),
        ('images = "a"', 'root = "data"', 23, "root and no set"),
        ('images = "a"', 'set = "drive"\nroot = "r"\nregions = "x"', 25, "brings its own regions"),
        ('masks = "c"', "", 27, "no masks"),
        ('images = "b"', "", 28, "no images"),
        ("crop_to_region = false", "crop_to_region = true", 12, "needs region masks"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, line: int, said: str) -> None:
    assert old in MINIMAL
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL.replace(old, new, 1), "street.toml")
    assert str(caught.value).startswith(f"street.toml:{line}: ")
    assert said in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_ignore_index_without_mask_values_is_a_class_too() -> None:
    text = MINIMAL.replace("mask_values = [0, 1, 2]\n", "").replace("ignore_index = 255", "ignore_index = 1")
    with pytest.raises(SpecError, match="class 'road'"):
        parse_spec(text)


def test_sections_that_are_missing_or_no_sections() -> None:
    with pytest.raises(SpecError, match=r"section \[classes\] is missing"):
        parse_spec("[input]\nshape = [1, 3, 8, 8]\n")
    with pytest.raises(SpecError, match="'input' must be a section"):
        parse_spec('input = 3\n[classes]\nnames = ["a", "b"]\n')


def test_dotted_keys_and_inline_tables_are_found_too() -> None:
    with pytest.raises(SpecError, match=r"^edgeseg\.toml:3: output\.stride"):
        parse_spec('input.shape = [1, 3, 8, 8]\nclasses.names = ["a", "b"]\noutput.stride = "x"\n')
    with pytest.raises(SpecError, match=r"^edgeseg\.toml:2: unknown key 'nme' in \[classes\]"):
        parse_spec('input = { shape = [1, 3, 8, 8] }\nclasses = { nme = ["a", "b"] }\n')


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="There is no") as caught:
        load_spec(tmp_path / "edgeseg.toml")
    assert "edgeseg init" in caught.value.hint
    (tmp_path / "edgeseg.toml").write_bytes(b"\xff\xfe\x00 not text")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path / "edgeseg.toml")


def test_a_spec_built_in_memory_is_checked_by_the_same_rules() -> None:
    check_spec(FULL)
    wrong = msgspec.structs.replace(PLAIN, preprocess=PreprocessSpec(std=(0.0,)))
    with pytest.raises(SpecError, match="std"):
        check_spec(wrong)


def test_find_spec_looks_beside_the_model_then_in_the_folder(tmp_path: Path) -> None:
    model, here = tmp_path / "models" / "net.pt2", tmp_path / "work"
    model.parent.mkdir()
    here.mkdir()
    with pytest.raises(SpecError) as caught:
        find_spec(model, here)
    assert f"edgeseg init {model}" in caught.value.hint
    (here / "edgeseg.toml").touch()
    assert find_spec(model, here) == here / "edgeseg.toml"
    (model.parent / "edgeseg.toml").touch()
    assert find_spec(model, here) == model.parent / "edgeseg.toml"


def test_what_is_written_is_plain_toml() -> None:
    table = tomllib.loads(dump_spec(FULL))
    assert table["preprocess"]["post_scale"] == "1/255"
    assert table["classes"]["ignore_index"] == "none"
    assert table["preprocess"]["mean"] == [110.3313, 108.4091, 105.0335]
