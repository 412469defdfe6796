"""Saved samples can be opened, and scored against their data set, also after it has been moved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ganctl.training.config.schema import DataSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.errors import ConfigError, DataError
from ganctl.training.sampling.animation import Animation
from ganctl.training.sampling.inspection import OpenedSource, check_fit, override_data_settings
from ganctl.training.sampling.request import SampleResult
from ganctl.training.sampling.writers import open_images, save, save_animation

REAL = ImageSet(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), torch.arange(5) % 3, ("leaf", "sea", "sun"))


class BlackSource:
    """A source of black images of three classes."""

    latent_dim, conditional, class_names = 4, True, REAL.class_names

    def generate(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z), 3, 32, 32, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_saved_arrays_are_read_back_unchanged(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, channels), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int64) % 3
    save(SampleResult(images, labels, seed=0, columns=4), tmp_path / "s.npz")
    opened = open_images(tmp_path / "s.npz")
    assert opened.images is not None
    assert opened.labels is not None
    assert np.array_equal(opened.images.permute(0, 2, 3, 1), images)
    assert opened.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_saved_arrays_have_the_channels_first_and_gray_ones_no_channels(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 20, 24, channels), dtype=np.uint8)
    save(SampleResult(images, np.arange(12) % 3, seed=0, columns=4), tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        stored, labels = arrays["images"], arrays["labels"]
    assert (stored.dtype, stored.shape) == (np.uint8, (12, 20, 24) if channels == 1 else (12, channels, 20, 24))
    assert (labels.dtype, labels.shape) == (np.int64, (12,))
    assert np.array_equal(stored.reshape(12, channels, 20, 24), images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_with_the_channels_last_are_read_as_those_with_the_channels_first(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 20, 24, channels), dtype=np.uint8)
    for stored in (images, images.transpose(0, 3, 1, 2)):
        np.savez(tmp_path / "s.npz", images=stored)
        opened = open_images(tmp_path / "s.npz")
        assert opened.images is not None
        assert np.array_equal(opened.images, images.transpose(0, 3, 1, 2))


def test_the_channels_are_first_if_both_axes_could_be_the_channels(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=np.zeros((12, 3, 20, 4), np.uint8))
    opened = open_images(tmp_path / "s.npz")
    assert opened.images is not None
    assert opened.images.shape == (12, 3, 20, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_stores_its_frames_exactly_except_for_colors_in_a_gif(tmp_path: Path, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 24, channels), dtype=np.uint8)
    for name, exact in (("a.webp", True), ("a.gif", channels == 1)):
        save_animation(Animation(noise, seed=0, keyframes=2), tmp_path / name)
        with Image.open(tmp_path / name) as animation:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
        assert len(frames) == 5
        expected = np.broadcast_to(noise, (5, 24, 24, 3)).repeat(4, axis=1).repeat(4, axis=2)
        assert np.array_equal(np.stack(frames), expected) == exact
        assert np.abs(np.stack(frames).astype(int) - expected).mean() < 40, "a GIF has 256 colors a frame"


@pytest.mark.parametrize(
    "images",
    [np.zeros((12, 32), np.uint8), np.zeros((12, 32, 32), np.float32), np.zeros((9, 32, 32, 3), np.uint8)],
)
def test_the_error_of_an_invalid_array_names_the_file_and_the_expected_shape(tmp_path: Path, images: Any) -> None:
    np.savez(tmp_path / "s.npz", images=images)
    with pytest.raises(DataError, match=r"s\.npz: .*\buint8 \[N, H, W\].*\b10\b"):
        open_images(tmp_path / "s.npz")


def test_flags_override_the_environment_which_overrides_the_stored_data_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = DataSettings(source=str(tmp_path / "gone"), size=32, skip_corrupt=True, license="CC0-1.0")
    assert override_data_settings(OpenedSource(stored), []) == stored
    monkeypatch.setenv("GANCTL_DATA__SOURCE", str(tmp_path / "moved"))
    monkeypatch.setenv("GANCTL_DATA__CHANNELS", "1")
    monkeypatch.setenv("GANCTL_PRESET", "lightning-basic-gan")
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "not a setting of the data")
    expected = stored.model_copy(update={"source": str(tmp_path / "moved"), "channels": 3})
    assert override_data_settings(OpenedSource(stored), ["data.channels=3"]) == expected
    assignments = ["data.channels=3", "data.source=mnist", "data.license=unset"]
    changed = override_data_settings(OpenedSource(stored), assignments)
    assert changed == expected.model_copy(update={"source": "mnist", "license": None})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.seed=1", r"--set train\.seed=1: .*\bdata\.source="),
        ("source=x", r"--set source=x: .*\bdata\.source="),
        ("data.sorce=x", r"--set: .*'data\.sorce'.* Did you mean data\.source\b"),
        ("data.size=30", r"--set: data\.size = 30: "),
    ],
)
def test_only_data_settings_can_be_overridden(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override_data_settings(OpenedSource(DataSettings()), [assignment])


def test_a_misspelled_data_variable_is_an_error_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GANCTL_DATA_SOURCE", "/somewhere")
    with pytest.raises(ConfigError, match=r"GANCTL_DATA_SOURCE: .*\bGANCTL_DATA__SOURCE\b"):
        override_data_settings(OpenedSource(DataSettings()), [])


def test_images_of_another_size_or_other_classes_than_the_data_set_are_refused() -> None:
    folder = DataSettings(source="/images")
    black = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    check_fit(OpenedSource(folder, images=black, labels=torch.arange(12) % 3), REAL, Path("s.npz"))
    check_fit(OpenedSource(folder, images=black), REAL, Path("s.npz"))
    check_fit(OpenedSource(folder, BlackSource()), REAL, Path("run"))
    gray = OpenedSource(folder, images=black[:, :1, :28, :28])
    with pytest.raises(DataError, match=r"s\.npz: .*1 × 28 × 28.*3 × 32 × 32"):
        check_fit(gray, REAL, Path("s.npz"))
    with pytest.raises(DataError, match=r"s\.npz: .*\b0 to 3\b.*\b0 to 2\b"):
        check_fit(OpenedSource(folder, images=black, labels=torch.arange(12) % 4), REAL, Path("s.npz"))
    other = ImageSet(REAL.images, REAL.labels, ("leaf", "sea", "sky"))
    with pytest.raises(DataError, match=r"run: .*\bleaf, sea, sun\b.*\bleaf, sea, sky\b"):
        check_fit(OpenedSource(folder, BlackSource()), other, Path("run"))
    unlabeled = ImageSet(REAL.images, torch.zeros_like(REAL.labels), ())
    check_fit(OpenedSource(folder, images=black), unlabeled, Path("s.npz"))
    with pytest.raises(DataError, match=r"run: .*\bleaf, sea, sun\b.*\bnone\b"):
        check_fit(OpenedSource(folder, BlackSource()), unlabeled, Path("run"))
