"""`--device`: a model runs on the CPU, or on a GPU with the CPU's images to one gray level."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.common.latents import draw_labels, latents
from ganctl.serving.archive.mar import package
from ganctl.serving.errors import ServerError
from ganctl.serving.handler.cuda import find_gpu
from ganctl.serving.handler.service import Service
from ganctl.serving.hosts.native.server import Server
from tests.unit.serving.service_calls import json_call, reply_to

Inputs = dict[str, np.ndarray]


@pytest.mark.parametrize("variables", [{}, {"GANCTL_DEVICE": "cpu"}, {"GANCTL_DEVICE": "auto"}])
def test_a_model_for_onnx_runtime_runs_on_the_cpu(variables: dict[str, str]) -> None:
    assert find_gpu(variables, "onnx-int8") is None


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the GPUs of the machine, from this process and from those that it starts."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert find_gpu({"GANCTL_DEVICE": "auto"}, "torchscript") is None


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"--device cuda: torch .* found no GPU"):
        find_gpu({"GANCTL_DEVICE": "cuda"}, "torchscript")


def test_a_gpu_for_a_model_that_cannot_use_it_is_an_error_that_names_the_back_end_to_take() -> None:
    with pytest.raises(ValueError, match="found a model for onnx, expected torchscript"):
        find_gpu({"GANCTL_DEVICE": "cuda"}, "onnx")


def test_a_device_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="found 'gpu', expected auto, cpu or cuda"):
        find_gpu({"GANCTL_DEVICE": "gpu"}, "torchscript")


@pytest.mark.usefixtures("no_gpu")
def test_a_server_that_cannot_use_the_gpu_ends_with_the_reason(export: Path, tmp_path: Path) -> None:
    archive = package(export, tmp_path, "torchscript")
    with (
        pytest.raises(ServerError, match=r"--device cuda: torch .* found no GPU. Leave --device out"),
        Server(archive, port=0, workers=1, device="cuda"),
    ):
        pass


def test_the_device_of_a_server_is_that_of_its_workers(export: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="found a model for onnx, expected torchscript"),
        Server(package(export, tmp_path), port=0, workers=1, device="cuda"),
    ):
        pass


def inputs_of(count: int) -> Inputs:
    return {"z": latents(1, count, 16), "label": draw_labels(1, count, 10)}


@pytest.fixture
def on_gpu(load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("GANCTL_DEVICE", "cuda")
    return load("torchscript")


@pytest.mark.gpu
def test_images_of_a_gpu_are_within_one_gray_level_of_the_cpu(on_gpu: Service, load: Callable[..., Service]) -> None:
    inputs = inputs_of(100)
    assert on_gpu.engine.device == torch.cuda.get_device_name()
    found, expected = (service.engine.generate(inputs).astype(int) for service in (on_gpu, load("onnx")))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.gpu
def test_an_image_of_a_gpu_is_the_same_alone_in_every_batch_and_after_a_restart(
    on_gpu: Service, load: Callable[..., Service]
) -> None:
    inputs = inputs_of(100)
    images = on_gpu.engine.generate(inputs)
    for rows in (np.arange(1), np.arange(7, 20), np.arange(99, 20, -1)):
        assert np.array_equal(on_gpu.engine.generate({name: each[rows] for name, each in inputs.items()}), images[rows])
    assert np.array_equal(load("torchscript").engine.generate(inputs), images)


@pytest.mark.gpu
def test_a_gpu_has_other_etags_than_a_cpu(
    on_gpu: Service, load: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GANCTL_DEVICE")
    call = json_call(digits="7", seed=1)
    assert reply_to(on_gpu, call).headers["ETag"] != reply_to(load("torchscript"), call).headers["ETag"]
