"""The manifests: complete, consistent, found, and the embedded set in step with what ships."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from edgeseg.data import manifests
from edgeseg.data.calibration import open_calibration
from edgeseg.data.manifests import Role, list_manifests, load_manifest
from edgeseg.data.pairs import open_evaluation
from edgeseg.errors import DataError, UsageError
from edgeseg.spec import CalibrationSpec, ClassesSpec, EvaluationSpec, InputSpec, ModelSpec
from edgeseg.spec_file import load_spec


def test_the_data_sets_that_were_promised() -> None:
    promised = {"ade20k", "camvid", "cityscapes", "cocostuff", "drive", "embedded", "isic2018", "oxford_pet", "voc2012"}
    assert set(list_manifests()) == promised


@pytest.mark.parametrize(
    ("name", "classes"), [("ade20k", 150), ("camvid", 11), ("cityscapes", 19), ("cocostuff", 171), ("voc2012", 21)]
)
def test_number_of_classes(name: str, classes: int) -> None:
    assert len(load_manifest(name).classes.names) == classes


@pytest.mark.parametrize("name", list_manifests())
def test_every_manifest_says_all_of_it(name: str) -> None:
    manifest = load_manifest(name)
    assert all((manifest.title, manifest.obtain, manifest.licence, manifest.citation, manifest.splits))
    assert manifest.homepage.startswith("http") or manifest.package
    assert len(manifest.classes.palette) == len(set(manifest.classes.palette)) == len(manifest.classes.names)
    for form in manifest.forms:
        meanings = [value for values in form.labels.values for value in values] + list(form.labels.ignored)
        colors = [color for colors in form.labels.colors for color in colors] + list(form.labels.ignored_colors)
        assert len(set(meanings)) == len(meanings), "a value means two things"
        assert len(set(colors)) == len(colors), "a colour means two things"


def test_known_labels() -> None:
    """A few facts that anybody who knows the sets can check."""
    ade, coco, city = (load_manifest(name) for name in ("ade20k", "cocostuff", "cityscapes"))
    assert [ade.classes.names[i] for i in (0, 2, 12, 20, 149)] == ["wall", "sky", "person", "car", "flag"]
    values = coco.forms[0].labels.values
    by_id = {values[index][0] + 1: name for index, name in enumerate(coco.classes.names)}
    assert (by_id[1], by_id[90], by_id[92], by_id[182]) == ("person", "toothbrush", "banner", "wood")
    assert len([label for label in by_id if label < 92]) == 80
    assert city.forms[0].labels.values[city.classes.names.index("bicycle")] == (33,)


def test_the_folder_at_the_top_is_the_one_that_ships() -> None:
    top = Path(__file__).parents[2] / "calibration"
    shipped = resources.files("edgeseg") / "calibration"
    assert {path.name: path.read_text("utf-8") for path in top.glob("*.toml")} == {
        file.name: file.read_text("utf-8") for file in shipped.iterdir() if file.name.endswith(".toml")
    }


def test_an_unknown_name_is_corrected() -> None:
    with pytest.raises(UsageError) as caught:
        load_manifest("cityscape")
    assert "cityscapes" in caught.value.hint


def test_a_set_needs_its_root_and_its_folders(tmp_path: Path) -> None:
    camvid = load_manifest("camvid")
    with pytest.raises(UsageError, match="without a root"):
        camvid.folders(None, Role.CALIBRATION)
    with pytest.raises(DataError, match="no folder"):
        camvid.folders(tmp_path, Role.EVALUATION)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('evaluation = "vall"', "not one of its splits"),
        ("ignore_index = 11", "ignore_index must be 255"),
        ("titel = 1", "unknown field `titel`"),
        ("title = ", "not valid"),
    ],
)
def test_a_broken_manifest_says_what_is_wrong(broken: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (resources.files("edgeseg") / "calibration" / "voc2012.toml").read_text("utf-8")
    key = broken.split(" = ", maxsplit=1)[0]
    lines = [broken if line.startswith(f"{key} =") else line for line in text.splitlines()]
    if broken not in lines:
        lines.insert(0, broken)
    monkeypatch.setattr(manifests, "_manifest_files", lambda: {"voc2012": "\n".join(lines)})
    with pytest.raises(DataError, match=message):
        load_manifest("voc2012")


def test_the_embedded_set_is_found_without_a_root() -> None:
    manifest = load_manifest("embedded")
    shipped = load_spec(manifest.folders(None, Role.EVALUATION).images.parents[1] / "edgeseg.toml")
    assert shipped.classes == manifest.classes
    spec = ModelSpec(
        input=InputSpec(shape=shipped.input.shape),
        classes=ClassesSpec(names=manifest.classes.names),
        calibration=CalibrationSpec(set="embedded", count=2),
        evaluation=EvaluationSpec(set="embedded"),
    )
    assert len(list(open_calibration(spec, Path()))) == 2
    assert next(iter(open_evaluation(spec, Path()).load())).truth.max() < len(manifest.classes.names)
