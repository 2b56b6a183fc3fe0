"""Building, up to where a GPU would be needed: real processes, a stand-in for tensorrt with each version's names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_nets import two_convs
from trt_doubles import VERSIONS, build_libcuda, calls, fake_environment, fake_python

from edgeseg.errors import EnvironmentLack, StageError, StageTimeout, UsageError
from edgeseg.trt.build import BuildSettings, OnnxFiles, build_engine
from edgeseg.trt.driver import WORKER, CudaDriver, Gpu, TrtPython, find_driver, find_tensorrt, look_around

DRIVER = CudaDriver((12, 8), (Gpu("Stand-in GPU", (9, 0), 80 << 30),))


def built(folder: Path, version: str, precision: str = "int8", mode: str = "", **settings: object):
    for name in ("weak.onnx", "typed.onnx"):
        onnx.save_model(two_convs(), str(folder / name))
    python = TrtPython(fake_python(version, folder, mode), "3.11", version)
    files = OnnxFiles(folder / "weak.onnx", folder / "typed.onnx", "x", (1, 3, 16, 16))
    return build_engine(
        files,
        precision,
        folder / "model.engine",
        driver=DRIVER,
        python=python,
        settings=BuildSettings(**settings),
        log=folder / "log",
    )


def flags(folder: Path) -> set[str]:
    return {call[1] for call in calls(folder) if call[0] == "set_flag"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_with_every_setting(version: str, tmp_path: Path) -> None:
    record = built(
        tmp_path,
        version,
        workspace_mib=512,
        level=3,
        timing_cache=tmp_path / "timing",
        version_compatible=True,
        hardware_compatible=True,
        batch=(1, 4, 16),
    )
    typed = version.startswith(("10", "11"))
    assert record.strongly_typed is typed
    assert record.source == ("typed.onnx" if typed else "weak.onnx")
    assert ({"INT8", "FP16"} <= flags(tmp_path)) is not typed
    assert ["clear_flag", "TF32"] in calls(tmp_path)
    assert ["set_memory_pool_limit", "WORKSPACE", str(512 << 20)] in calls(tmp_path)
    assert ["set_shape", "x", "(1, 3, 16, 16)", "(4, 3, 16, 16)", "(16, 3, 16, 16)"] in calls(tmp_path)
    assert (tmp_path / "model.engine").read_bytes() == b"engine"
    assert (tmp_path / "model.layers.json").is_file()
    assert "building" in (tmp_path / "log").read_text()
    lacks = " ".join(record.notes)
    for words in ("VERSION_COMPATIBLE", "GPU at hand", "optimisation level"):
        assert (words in lacks) is version.startswith("8.5")


@pytest.mark.parametrize(("precision", "expected"), [("fp32", set()), ("fp16", {"FP16"}), ("int8", {"FP16", "INT8"})])
def test_precision_flags_where_they_exist(precision: str, expected: set[str], tmp_path: Path) -> None:
    built(tmp_path, "8.6.0", precision)
    assert flags(tmp_path) == expected


def test_tf32_is_off_unless_asked_for(tmp_path: Path) -> None:
    built(tmp_path, "8.6.0", "fp32", tf32=True)
    assert flags(tmp_path) == {"TF32"}
    assert ["clear_flag", "TF32"] not in calls(tmp_path)


def test_a_kept_timing_cache_is_used_again_and_hashed(tmp_path: Path) -> None:
    first = built(tmp_path, "8.6.0", timing_cache=tmp_path / "timing")
    (file,) = (tmp_path / "timing").iterdir()
    assert file.name == "timing-8.6.0-Stand-in-GPU.cache"
    assert file.read_bytes() == b"measured;"
    second = built(tmp_path, "8.6.0", timing_cache=tmp_path / "timing")
    assert file.read_bytes() == b"measured;measured;"
    assert first.timing_cache.startswith("sha256:")
    assert first.timing_cache != second.timing_cache
    file.write_bytes(b"foreign")
    third = built(tmp_path, "8.6.0", timing_cache=tmp_path / "timing")
    assert "a new one was begun" in third.notes[0]
    assert third.timing_cache == first.timing_cache


def test_own_tactics_unless_others_are_asked_for(tmp_path: Path) -> None:
    built(tmp_path, "8.6.0")
    assert ["set_tactic_sources", str((1 << 3) | (1 << 4))] in calls(tmp_path)
    (tmp_path / "calls").unlink()
    built(tmp_path, "8.6.0", external_tactics=True)
    assert not [call for call in calls(tmp_path) if call[0] == "set_tactic_sources"]


def test_a_refused_file_keeps_nvidias_message(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"parser refuses weak\.onnx.*UNSUPPORTED_NODE: non-zero zero points") as caught:
        built(tmp_path, "8.6.0", mode="refuse")
    assert "check-trt weak.onnx" in caught.value.hint
    assert not (tmp_path / "model.engine").exists()


def test_memory_that_ran_out(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"memory ran out .*workspace 2048 MiB.*OutOfMemory"):
        built(tmp_path, "10.3.0", mode="memory")


def test_a_crash_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"crashed \(SIGSEGV\) and left no engine"):
        built(tmp_path, "11.4.0", mode="crash")


def test_a_build_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(StageTimeout, match="after 2 s"):
        built(tmp_path, "11.4.0", mode="hang", time_limit_s=2)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="do not rise"):
        BuildSettings(batch=(4, 1, 16))
    with pytest.raises(UsageError, match="optimisation level is 9"):
        BuildSettings(level=9)


def test_the_kits_script_builds_in_every_version(tmp_path: Path) -> None:
    from edgeseg.trt.portable import write_kit

    for name in ("model.qdq.onnx", "model.qdq.fp16.onnx"):
        (tmp_path / name).write_bytes(b"graph")
    write_kit(tmp_path, "model.qdq.onnx", "int8", None)
    for version in VERSIONS:
        environment = fake_environment(version, tmp_path)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "build_engine.py")], env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        source = "model.qdq.fp16.onnx" if version.startswith(("10", "11")) else "model.qdq.onnx"
        assert f"built from {source} with TensorRT {version}" in done.stdout
        assert (tmp_path / "model.engine").read_bytes() == b"engine"
        (tmp_path / "model.engine").unlink()
    settings = BuildSettings(batch=(2, 4, 8), level=2, version_compatible=True, hardware_compatible=True)
    write_kit(tmp_path, "model.qdq.onnx", "int8", None, settings=settings, tensor="input", shape=(0, 3, 4, 4))
    environment = fake_environment("10.3.0", tmp_path) | {"EDGESEG_FAKE_TRT_DECLARED": "-1"}
    command = [sys.executable, str(tmp_path / "build_engine.py"), "--timing-cache", str(tmp_path / "timing")]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert ["set_shape", "input", "(2, 3, 4, 4)", "(4, 3, 4, 4)", "(8, 3, 4, 4)"] in calls(tmp_path)
    assert ["set_flag", "VERSION_COMPATIBLE"] in calls(tmp_path)
    assert (tmp_path / "timing").read_bytes().startswith(b"kept")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "build_engine.py")],
        env=fake_environment("8.6.0", tmp_path, "refuse"),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert "UNSUPPORTED_NODE" in done.stderr


# ---- looking for driver and tensorrt ---------------------------------------------------------------------------------------------


def test_no_driver(tmp_path: Path) -> None:
    around = look_around(str(tmp_path / "libcuda.so.1"))
    assert around.missing == "no CUDA driver"
    assert isinstance(around.lack, EnvironmentLack)
    assert "--allow-unbuilt" in around.lack.hint
    assert around.text == "engine not built: no CUDA driver"


def test_a_driver_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_FAILS", "cuInit")
    with pytest.raises(EnvironmentLack, match=r"does not start: no CUDA-capable device is detected \(cuInit gives 100\)"):
        find_driver(build_libcuda(tmp_path))


def test_a_driver_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_GPUS", "0")
    with pytest.raises(EnvironmentLack, match="finds no GPU"):
        find_driver(build_libcuda(tmp_path))


def test_driver_and_tensorrt_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_TRT_PYTHON", fake_python("10.3.0", tmp_path))
    around = look_around(build_libcuda(tmp_path))
    assert around.driver == DRIVER
    assert around.tensorrt is not None
    assert around.tensorrt.version == "10.3.0"
    assert around.text == "TensorRT 10.3.0 on Stand-in GPU, driver for CUDA 12.8"


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESEG_TRT_PYTHON", raising=False)
    with pytest.raises(EnvironmentLack, match=r"has no tensorrt \(ModuleNotFoundError") as caught:
        find_tensorrt()
    assert "EDGESEG_TRT_PYTHON" in caught.value.hint


def test_tensorrt_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_TRT_PYTHON", fake_python("8.5.3", tmp_path, reported="8.4.1.5"))
    with pytest.raises(EnvironmentLack, match=r"has tensorrt 8\.4\.1\.5; edgeseg needs 8\.5"):
        find_tensorrt()


@pytest.mark.parametrize("named", ["/nowhere/python3", "/bin/false"])
def test_an_interpreter_that_is_none(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_TRT_PYTHON", named)
    with pytest.raises(EnvironmentLack, match=named) as caught:
        find_tensorrt()
    assert "Python 3.8" in caught.value.hint


def test_the_worker_runs_where_edgeseg_cannot(tmp_path: Path) -> None:
    """-I -S: no site-packages, no edgeseg."""
    done = subprocess.run([sys.executable, "-I", "-S", str(WORKER), "probe"], cwd=tmp_path, capture_output=True, text=True)
    assert '"tensorrt": ""' in done.stdout
