"""Running an engine, up to where a GPU would be needed: the real ctypes calls into a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from trt_doubles import build_libcuda, fake_environment, fake_python

from edgeseg.errors import EnvironmentLack, ModelError, SpecError
from edgeseg.session import ModelInput, Session, infer
from edgeseg.targets import tensorrt as target
from edgeseg.targets.tensorrt import EngineOptions, open_tensorrt
from edgeseg.trt.driver import Environment, find_driver
from edgeseg.trt.memory import CudaError, open_memory


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_CALLS", str(tmp_path / "cuda"))
    return build_libcuda(tmp_path)


def cuda_calls(folder: Path) -> list[str]:
    return (folder / "cuda").read_text().split()


def test_what_is_taken_is_given_back_in_reverse(cuda: str, tmp_path: Path) -> None:
    memory = open_memory("ctypes", library=cuda)
    with memory.current():
        address, host = memory.allocate(64), memory.allocate_host(64)
        stream = memory.create_stream()
        ctypes.memmove(host, bytes(range(64)), 64)
        memory.to_device(address, host, 64, stream)
        ctypes.memset(host, 0, 64)
        memory.to_host(host, address, 64, stream)
        memory.synchronize(stream)
    assert ctypes.string_at(host, 64) == bytes(range(64))
    memory.close()
    memory.close()
    assert cuda_calls(tmp_path) == [
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent_v2",
        "cuMemAlloc_v2",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuCtxPopCurrent_v2",
        "cuCtxPushCurrent_v2",
        "cuStreamDestroy_v2",
        "cuMemFreeHost",
        "cuMemFree_v2",
        "cuCtxPopCurrent_v2",
        "cuDevicePrimaryCtxRelease_v2",
    ]


def test_a_failing_call_says_which_and_why(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = open_memory("ctypes", library=cuda)
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_FAILS", "cuMemAlloc_v2")
    with memory.current(), pytest.raises(CudaError, match=r"cuMemAlloc_v2: out of memory \(error 2\)"):
        memory.allocate(1 << 40)
    memory.close()


def test_no_library_and_no_such_kind(tmp_path: Path) -> None:
    with pytest.raises(CudaError, match="cannot be loaded"):
        open_memory("ctypes", library=str(tmp_path / "none.so"))
    with pytest.raises(ValueError, match="not 'cupy'"):
        open_memory("cupy")


@pytest.mark.parametrize("kind", ["pycuda", "cuda-python"])
def test_a_package_that_is_not_installed(kind: str, cuda: str) -> None:
    if any(name in sys.modules for name in ("pycuda", "cuda")):
        pytest.skip(f"{kind} is installed here")
    with pytest.raises(ImportError):
        open_memory(kind, library=cuda)


def test_pycuda_comes_first_where_it_is_installed(cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with pycuda's names: its memory, and the primary context made current by it."""
    said: list[str] = []
    context = types.SimpleNamespace(push=lambda: said.append("push"), pop=lambda: said.append("pop"))

    class Allocation:
        def __int__(self) -> int:
            return 4096

        def free(self) -> None:
            said.append("free")

    driver = types.ModuleType("pycuda.driver")
    driver.init = lambda: said.append("init")
    driver.Device = lambda _: types.SimpleNamespace(retain_primary_context=lambda: context)
    driver.mem_alloc = lambda _: Allocation()
    package = types.ModuleType("pycuda")
    driver.__spec__ = types.SimpleNamespace(name="pycuda.driver")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    memory = open_memory(library=cuda)
    assert memory.kind == "pycuda"
    with memory.current():
        assert memory.allocate(16) == 4096
    memory.close()
    assert said == ["init", "push", "pop", "push", "free", "pop"]
    assert cuda_calls(tmp_path)[-1] == "cuDevicePrimaryCtxRelease_v2"
    assert "cuMemAlloc_v2" not in cuda_calls(tmp_path)


def test_another_package_in_the_same_parent_is_not_cuda_python(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("cuda")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "cuda", package)
    memory = open_memory(library=cuda)
    assert memory.kind == "ctypes"
    memory.close()


@pytest.mark.parametrize("module", ["cuda.bindings.driver", "cuda.cuda"])
def test_cuda_python_by_either_of_its_names(module: str, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = types.ModuleType(module)
    freed: list[int] = []
    driver.cuMemAlloc = lambda size: (0, 8192) if size < 1000 else (2, 0)
    driver.cuMemFree = lambda address: (freed.append(address), (0,))[1]
    package = types.ModuleType("cuda")
    driver.__spec__ = types.SimpleNamespace(name=module)
    package.__path__ = []
    parents = (
        (("cuda", package), ("cuda.bindings", types.ModuleType("cuda.bindings")))
        if "bindings" in module
        else (("cuda", package),)
    )
    for _, parent in parents:
        parent.__path__ = []
    for name, value in (*parents, (module, driver)):
        monkeypatch.setitem(sys.modules, name, value)
    memory = open_memory(library=cuda)
    assert memory.kind == "cuda-python"
    with memory.current():
        assert memory.allocate(16) == 8192
    with pytest.raises(CudaError, match="cuMemAlloc: out of memory"):
        memory.allocate(5000)
    memory.close()
    assert freed == [8192]


# ---- the session: tensorrt's names from the API table, the driver's calls for real -----------------------------------------------


def image(size: int = 4) -> ModelInput:
    values = np.arange(3 * size * size, dtype=np.float32).reshape(1, 3, size, size)
    return ModelInput(np.zeros((1, size, size, 3), np.uint8), values)


@pytest.fixture
def machine(cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a driver, and tensorrt under another Python."""
    python = fake_python("8.6.0", tmp_path)
    monkeypatch.setenv("EDGESEG_TRT_PYTHON", python)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))  # where the child finds libcuda.so.1
    seen = target.look_around
    monkeypatch.setattr(target, "look_around", lambda: seen(cuda))
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    return engine


@pytest.fixture
def here(machine: Path, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with tensorrt in this very Python."""
    for name, value in fake_environment("8.6.0", tmp_path).items():
        if name != "PYTHONPATH":
            monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("doubles")))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    found = target.look_around()
    python = target.TrtPython(sys.executable, "3", "8.6.0")
    monkeypatch.setattr(target, "look_around", lambda: type(found)(found.driver, python))
    monkeypatch.setattr(target, "LIBRARY", cuda)
    yield machine
    sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize("where", ["machine", "here"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_session_in_this_process_and_in_another(
    where: str, graph: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(where)
    with open_tensorrt(engine, options=EngineOptions(graph=graph, memory="ctypes")) as session:
        assert isinstance(session, Session)
        assert session.info.runtime == "tensorrt"
        assert session.info.device == "cuda:0 Stand-in GPU"
        assert [tensor.shape for tensor in (*session.info.inputs, *session.info.outputs)] == [(1, 3, 4, 4), (1, 2, 4, 4)]
        with pytest.raises(ModelError, match="No output"):
            session.fetch()
        assert infer(session, image()).shape == (1, 2, 4, 4)
        assert len(session.device_times(3)) == 3
        with pytest.raises(SpecError, match="takes"):
            session.feed(image(8))
    seen = cuda_calls(tmp_path)
    assert seen.count("cuGraphLaunch") == (4 if graph else 0)
    assert seen.index("cuMemcpyHtoDAsync_v2") < seen.index("cuMemcpyDtoHAsync_v2")
    trt = [json.loads(line)[0] for line in (tmp_path / "calls").read_text().splitlines()]
    # once to warm up; once to record, or each of four runs
    assert trt.count("execute_async_v3") == (2 if graph else 5)
    assert trt.index("set_input_shape") < trt.index("set_tensor_address") < trt.index("execute_async_v3")
    if graph:
        order = [name for name in seen if "Capture" in name or "Graph" in name]
        assert order[:4] == ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy"]
        assert order[-1] == "cuGraphExecDestroy"
    assert seen[-1] == "cuDevicePrimaryCtxRelease_v2"


def test_a_callers_stream_is_used_and_not_destroyed(here: Path, tmp_path: Path) -> None:
    with open_tensorrt(here, options=EngineOptions(stream=4711, memory="ctypes")) as session:
        infer(session, image())
    assert "cuStreamCreate" not in cuda_calls(tmp_path)
    assert "cuStreamDestroy_v2" not in cuda_calls(tmp_path)


def test_sessions_on_two_gpus_beside_a_context_of_the_callers(here: Path, cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used in turn and closed in the order of opening; what is current for the thread, as torch sees it, stays."""
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_GPUS", "2")
    driver = find_driver(cuda)
    python = target.TrtPython(sys.executable, "3", "8.6.0")
    monkeypatch.setattr(target, "look_around", lambda: Environment(driver, python))
    library = ctypes.CDLL(cuda)

    def current() -> int | None:
        found = ctypes.c_void_p()
        assert library.cuCtxGetCurrent(ctypes.byref(found)) == 0
        return found.value

    callers = ctypes.c_void_p()
    library.cuDevicePrimaryCtxRetain(ctypes.byref(callers), 0)
    library.cuCtxPushCurrent_v2(callers)
    first = open_tensorrt(here, options=EngineOptions(device=1, graph=True, memory="ctypes"))
    second = open_tensorrt(here, options=EngineOptions(device=0, memory="ctypes"))
    assert first.info.device == "cuda:1 Stand-in GPU"
    for session in (first, second, first):
        infer(session, image())
        session.device_times(2)
        assert current() == callers.value
    first.close()
    infer(second, image())
    second.close()
    assert current() == callers.value
    assert library.cuDevicePrimaryCtxRelease_v2(1) == 201  # nothing holds it any more


@pytest.mark.parametrize("index", [1, -1])
def test_a_gpu_that_is_not_there(index: int, machine: Path) -> None:
    with pytest.raises(EnvironmentLack, match=f"no GPU {index}; this machine has 1"):
        open_tensorrt(machine, options=EngineOptions(device=index))


@pytest.mark.parametrize("where", ["machine", "here"])
def test_a_batch_feeds_the_image_that_many_times(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEG_FAKE_TRT_BATCH", "16")
    engine = request.getfixturevalue(where)
    with open_tensorrt(engine, options=EngineOptions(batch=16, memory="ctypes")) as session:
        assert session.info.inputs[0].shape == (16, 3, 4, 4)
        assert infer(session, image()).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("where", ["machine", "here"])
def test_without_a_batch_the_fewest_images_the_engine_takes(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEG_FAKE_TRT_BATCH", "4")
    with open_tensorrt(request.getfixturevalue(where), options=EngineOptions(memory="ctypes")) as session:
        assert session.info.inputs[0].shape == (4, 3, 4, 4)
        assert infer(session, image()).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("where", ["machine", "here"])
def test_an_engine_for_any_size_runs_at_the_usual_one(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGESEG_FAKE_TRT_ANY_SIZE", "1")
    with open_tensorrt(request.getfixturevalue(where), options=EngineOptions(memory="ctypes")) as session:
        assert session.info.inputs[0].shape == (1, 3, 4, 4)
    asked = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert ["set_input_shape", "input", "(1, 3, 4, 4)"] in asked


@pytest.mark.parametrize("where", ["machine", "here"])
def test_an_engine_that_tensorrt_refuses(where: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(where)
    engine.write_bytes(b"of another version")
    with pytest.raises(ModelError, match=r"does not run .*model\.engine.*does not load") as caught:
        open_tensorrt(engine)
    assert "build it here" in caught.value.hint


@pytest.mark.parametrize("where", ["machine", "here"])
def test_device_memory_that_runs_out(where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = request.getfixturevalue(where)
    monkeypatch.setenv("EDGESEG_FAKE_CUDA_FAILS", "cuMemAlloc_v2")
    with pytest.raises(ModelError, match="cuMemAlloc_v2: out of memory") as caught:
        open_tensorrt(engine, options=EngineOptions(memory="ctypes"))
    assert "smaller batch" in caught.value.hint


def test_no_driver_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    seen = target.look_around
    monkeypatch.setattr(target, "look_around", lambda: seen(str(tmp_path / "none.so")))
    with pytest.raises(EnvironmentLack, match="no CUDA driver"):
        open_tensorrt(engine)
    with pytest.raises(ModelError, match="no file"):
        open_tensorrt(tmp_path / "other.engine")


def test_a_process_that_dies_is_an_error(machine: Path) -> None:
    session = open_tensorrt(machine, options=EngineOptions(memory="ctypes"))
    session._engine._child.kill()
    session._engine._child.wait()
    with pytest.raises(ModelError, match="its process ended"):
        session.feed(image())
    session.close()
