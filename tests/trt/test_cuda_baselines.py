"""The baselines where there is no CUDA: one clear error each."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from edgeseg.errors import EnvironmentLack
from edgeseg.model import load_model
from edgeseg.session import ModelInput, infer
from edgeseg.spec import ClassesSpec, InputSpec, ModelSpec
from edgeseg.targets.torch_cuda import CudaMode, CudaOptions, open_onnx_cuda, open_torch_cuda

SPEC = ModelSpec(input=InputSpec(shape=(1, 3, 16, 16)), classes=ClassesSpec(names=("a", "b")))


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 2, 3, padding=1).eval(), torch.zeros(1, 3, 16, 16)), path)
    return path


def test_pytorch_without_cuda(traced: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("PyTorch has a GPU here")
    with pytest.raises(EnvironmentLack, match=r"PyTorch .* (is built without CUDA|finds no GPU)") as caught:
        open_torch_cuda(load_model(traced), SPEC)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("mode", list(CudaMode))
@pytest.mark.parametrize("graph", [False, True])
def test_pytorch_on_a_gpu(mode: CudaMode, graph: bool, traced: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no GPU here")
    import numpy as np

    values = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        wanted = load_model(traced).module()(torch.from_numpy(values)).numpy()
    with open_torch_cuda(load_model(traced), SPEC, CudaOptions(mode=mode, batch=2, graph=graph)) as session:
        got = infer(session, ModelInput(np.zeros((1, 16, 16, 3), np.uint8), values))
        assert len(session.device_times(3)) == 3
    np.testing.assert_allclose(got, wanted, atol=1e-4 if mode is CudaMode.FP32 else 5e-2)


def test_pytorch_on_the_second_gpu_while_the_first_is_current(traced: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("PyTorch has no second GPU here")
    with open_torch_cuda(load_model(traced), SPEC, CudaOptions(device=1, graph=True)) as session:
        assert len(session.device_times(3)) == 3
        assert torch.cuda.current_device() == 0


def test_a_gpu_that_pytorch_does_not_see(traced: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no GPU here")
    with pytest.raises(EnvironmentLack, match="There is no GPU 99"):
        open_torch_cuda(load_model(traced), SPEC, CudaOptions(device=99))


def test_onnxruntime_without_its_cuda_provider(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has its CUDA provider here")
    path = tmp_path / "m.onnx"
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu(x) }'
    onnx.save_model(onnx.parser.parse_model(text), str(path))
    with pytest.raises(EnvironmentLack, match="has no CUDA provider") as caught:
        open_onnx_cuda(path)
    assert "onnxruntime-gpu" in caught.value.hint
