"""Writing an artifact whole or not at all, and verifying it on load."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgeseg.artifact import Manifest, SourceRecord, check_replaceable, file_record, install, load_artifact, staging
from edgeseg.errors import ArtifactError, OutputError, StageError
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec


@dataclass(frozen=True)
class Draft:
    """A folder ready for ``install``, and its manifest."""

    folder: Path
    manifest: Manifest


def draft(folder: Path, content: bytes = b"model", name: str = "net") -> Draft:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    (folder / "compile.log").write_text("said")
    manifest = Manifest(
        name=name,
        target="onnx-fp32",
        spec=ModelSpec(input=InputSpec(shape=(1, 3, 8, 8)), classes=ClassesSpec(names=("a", "b"))),
        source=SourceRecord(file="net.pt", digest="sha256:0", kind="onnx", path="/x/net.pt", base="/x"),
        files=(file_record(folder / "model.onnx"), file_record(folder / "compile.log")),
        inputs=(),
        outputs=(),
        pixels=False,
        stages=(),
        versions={},
        command=("edgeseg",),
        created="2026-01-01T00:00:00+00:00",
    )
    return Draft(folder, manifest)


def installed(destination: Path, content: bytes = b"model") -> None:
    with staging(destination) as work:
        made = draft(work / "artifact", content)
        install(made.folder, destination, made.manifest)


def failing(destination: Path, content: bytes) -> None:
    """An artifact whose making goes wrong just before it would be installed."""

    def make() -> None:
        with staging(destination) as work:
            draft(work / "artifact", content)
            raise StageError("it went wrong.", hint="", stage="last")

    with pytest.raises(StageError):
        make()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    installed(tmp_path / "deep" / "er" / "out")
    artifact = load_artifact(tmp_path / "deep" / "er" / "out")
    assert artifact.model_path.read_bytes() == b"model"
    assert artifact.manifest.spec.classes.names == ("a", "b")
    assert names(tmp_path / "deep" / "er") == ["out"]


@pytest.mark.parametrize("victim", ["model.onnx", "compile.log"])
def test_altered_file(tmp_path: Path, victim: str) -> None:
    installed(tmp_path / "out")
    (tmp_path / "out" / victim).write_bytes(b"other")
    with pytest.raises(ArtifactError, match=f"{victim}.*was altered"):
        load_artifact(tmp_path / "out")


def test_missing_file(tmp_path: Path) -> None:
    installed(tmp_path / "out")
    (tmp_path / "out" / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        load_artifact(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ('{"schema": 1}', "cannot be read"), ("[]", "cannot be read")],
)
def test_damaged_manifest(tmp_path: Path, text: str, message: str) -> None:
    installed(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=message):
        load_artifact(tmp_path / "out")


def test_newer_schema(tmp_path: Path) -> None:
    """Also where a newer edgeseg has added fields that this one does not know."""
    installed(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**document, "schema": 2, "news": True}))
    with pytest.raises(ArtifactError, match="has schema 2; this edgeseg reads schema 1"):
        load_artifact(tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_manifest_may_only_name_files_of_its_folder(tmp_path: Path, name: str) -> None:
    """A manifest from elsewhere must not make edgeseg open other files."""
    installed(tmp_path / "out")
    (tmp_path / "outside").write_bytes(b"model")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"model.onnx"', f'"{name}"'))
    with pytest.raises(ArtifactError, match="names a file outside its folder"):
        load_artifact(tmp_path / "out")


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        load_artifact(tmp_path)


def test_failure_inside_leaves_nothing(tmp_path: Path) -> None:
    failing(tmp_path / "out", b"model")
    assert names(tmp_path) == []


def test_writing_errors_name_the_destination(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out.*No space left") as raised, staging(tmp_path / "out"):
        raise OSError(28, os.strerror(28), "model.onnx")
    assert raised.value.hint
    assert names(tmp_path) == []


def test_replacing_keeps_the_old_one_until_the_end(tmp_path: Path) -> None:
    installed(tmp_path / "out", b"old")
    failing(tmp_path / "out", b"new")
    assert load_artifact(tmp_path / "out").model_path.read_bytes() == b"old"
    installed(tmp_path / "out", b"new")
    assert load_artifact(tmp_path / "out").model_path.read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead = _dead_pid()
    mine = [f".out[1].partial-{dead}", f".out[1].old-{dead}"]
    others = [f".out[1].partial-{os.getppid()}", f".other.partial-{dead}", ".out[1].partial-x"]
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "out[1]").mkdir()
    installed(tmp_path / "out[1]")
    assert names(tmp_path) == sorted([*others, "out[1]"])


def test_artifact_moved_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames of install, with an older artifact in place."""
    installed(tmp_path / "out", b"old")
    (tmp_path / "out").rename(tmp_path / f".out.old-{_dead_pid()}")
    failing(tmp_path / "out", b"new")
    assert load_artifact(tmp_path / "out").model_path.read_bytes() == b"old"


def test_what_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_replaceable(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")
    installed(tmp_path / "artifact")
    check_replaceable(tmp_path / "artifact")
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name in ("file", "full", "x" * 300):
        with pytest.raises(OutputError):
            check_replaceable(tmp_path / name)
    monkeypatch.chdir(tmp_path / "artifact")
    with pytest.raises(OutputError, match="current folder"):
        check_replaceable(Path())
