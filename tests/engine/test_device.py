import pytest
import torch

from seqdsd.engine import device_name, make_fabric


def test_the_cpu_and_other_devices_are_named_as_torch_does():
    assert device_name(make_fabric("cpu", "32-true").device) == "cpu"
    assert device_name(torch.device("mps:0")) == "mps:0"


def test_a_gpu_is_named_with_its_model(monkeypatch):
    models = {torch.device("cuda:0"): "NVIDIA H100", torch.device("cuda:1"): "NVIDIA H200"}
    monkeypatch.setattr(torch.cuda, "get_device_name", models.__getitem__)
    assert device_name(torch.device("cuda:1")) == "cuda:1 NVIDIA H200"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_here_has_a_name():
    assert device_name(make_fabric("cuda", "32-true").device).startswith("cuda:0 ")
