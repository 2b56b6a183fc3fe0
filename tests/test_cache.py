"""The cache: what is found, what is not, and what two processes do to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from test_artifact import draft

from edgeseg.artifact import Artifact, install
from edgeseg.cache import Cache, CacheKey, code_digest, default_cache_root, tool_versions

KEY = CacheKey(source="sha256:1", factory="", spec="{}", calibration="sha256:2", settings={"a": "1", "b": "2"}, versions={})


def artifact(folder: Path, content: bytes = b"model") -> Artifact:
    made = draft(folder / f"draft-{len(list(folder.iterdir()))}", content)
    return install(made.folder, folder / "artifact", made.manifest)


def test_found_as_it_was_stored(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.find(KEY) is None
    cache.store(KEY, artifact(tmp_path))
    found = cache.find(KEY)
    assert found is not None
    assert found.model_path.read_bytes() == b"model"
    assert found.path.is_relative_to(tmp_path / "cache")


def test_key_depends_on_everything_but_order() -> None:
    changed = [
        msgspec.structs.replace(KEY, **{field: value})
        for field, value in (
            ("source", "sha256:9"),
            ("factory", "net:Net"),
            ("spec", '{"x":1}'),
            ("calibration", "sha256:9"),
            ("settings", {"a": "1", "b": "3"}),
            ("versions", {"torch": "2"}),
        )
    ]
    assert len({key.digest for key in (KEY, *changed)}) == 7
    assert msgspec.structs.replace(KEY, settings={"b": "2", "a": "1"}).digest == KEY.digest


def test_damaged_entry_counts_as_absent_and_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.store(KEY, artifact(tmp_path))
    found = cache.find(KEY)
    assert found is not None
    found.model_path.write_bytes(b"rotten")
    assert cache.find(KEY) is None
    assert not found.path.exists()
    cache.store(KEY, artifact(tmp_path, b"again"))
    again = cache.find(KEY)
    assert again is not None
    assert again.model_path.read_bytes() == b"again"


def test_first_one_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.store(KEY, artifact(tmp_path, b"first"))
    cache.store(KEY, artifact(tmp_path, b"second"))
    found = cache.find(KEY)
    assert found is not None
    assert found.model_path.read_bytes() == b"first"


STORING = """\
import sys
from pathlib import Path
from edgeseg.artifact import load_artifact
from edgeseg.cache import Cache
from test_cache import KEY
import msgspec
cache, artifact = Cache(Path(sys.argv[1])), load_artifact(sys.argv[2])
for number in range(40):
    key = msgspec.structs.replace(KEY, source=str(number))
    cache.store(key, artifact)
    assert cache.find(key).model_path.read_bytes() == artifact.model_path.read_bytes()
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both store the same forty keys and read each back; a torn entry would not verify."""
    made = artifact(tmp_path, b"x" * 300_000)
    command = [sys.executable, "-c", STORING, str(tmp_path / "cache"), str(made.path)]
    both = [subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for child in both:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    cache = Cache(tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "artifacts").iterdir())) == 40, "something partial was left behind"
    assert all(cache.find(msgspec.structs.replace(KEY, source=str(number))) is not None for number in range(40))


def test_clear_removes_only_what_edgeseg_put_there(tmp_path: Path) -> None:
    """EDGESEG_CACHE may name a folder that holds other things too."""
    (tmp_path / "thesis.txt").write_text("years of work")
    cache = Cache(tmp_path)
    made = draft(tmp_path / "draft")
    cache.store(KEY, install(made.folder, tmp_path / "mine", made.manifest))
    size = cache.size()
    assert size > 0
    assert cache.clear() == size
    assert cache.size() == 0
    assert cache.find(KEY) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "thesis.txt"]
    assert Cache(tmp_path / "absent").clear() == 0


def test_root_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path))
    assert default_cache_root() == tmp_path
    monkeypatch.delenv("EDGESEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_root().name == "edgeseg"


def test_versions_of_the_tools_that_are_here() -> None:
    import numpy as np

    assert tool_versions()["numpy"] == np.__version__


def test_code_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit anywhere in the factory's package counts, and looking does not run the code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo" / "parts").mkdir(parents=True)
    for name in ("zoo/__init__.py", "zoo/nets.py", "zoo/parts/blocks.py", "single.py", "beside.py"):
        (tmp_path / name).write_text("raise SystemExit('this code was run')\n")
    package, single = code_digest("zoo.nets:build"), code_digest("single:build")
    assert package is not None
    assert single is not None
    assert (code_digest("zoo.nets:build"), code_digest("single:build")) == (package, single)
    (tmp_path / "zoo" / "parts" / "blocks.py").write_text("x = 1\n")
    assert code_digest("zoo.nets:build") != package
    (tmp_path / "beside.py").write_text("x = 1\n")
    assert code_digest("single:build") != single
    assert code_digest("no_such_package_anywhere:build") is None
