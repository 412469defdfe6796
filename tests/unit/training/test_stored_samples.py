"""What was drawn can be scored against the data it is like, wherever that lies now."""

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


class Generated:
    """A source that draws black images of three classes."""

    latent_dim, conditional, class_names = 4, True, REAL.class_names

    def generate(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z), 3, 32, 32, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_arrays_are_opened_as_they_were(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, channels), dtype=np.uint8)
    labels = np.arange(12, dtype=np.int64) % 3
    save(SampleResult(images, labels, seed=0, columns=4), tmp_path / "s.npz")
    opened = open_images(tmp_path / "s.npz")
    assert opened.images is not None
    assert opened.labels is not None
    assert np.array_equal(opened.images.permute(0, 2, 3, 1), images)
    assert opened.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_keeps_its_frames_in_grey_exactly_and_in_colour_where_the_format_can(
    tmp_path: Path, channels: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 24, channels), dtype=np.uint8)
    for name, exact in (("a.webp", True), ("a.gif", channels == 1)):
        save_animation(Animation(noise, seed=0, keyframes=2), tmp_path / name)
        with Image.open(tmp_path / name) as film:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
        assert len(frames) == 5
        drawn = np.broadcast_to(noise, (5, 24, 24, 3)).repeat(4, axis=1).repeat(4, axis=2)
        assert np.array_equal(np.stack(frames), drawn) == exact
        assert np.abs(np.stack(frames).astype(int) - drawn).mean() < 40, "a GIF has 256 colours a frame"


@pytest.mark.parametrize(
    "images",
    [np.zeros((12, 32), np.uint8), np.zeros((12, 32, 32), np.float32), np.zeros((9, 32, 32, 3), np.uint8)],
)
def test_arrays_that_are_no_images_are_told(tmp_path: Path, images: Any) -> None:
    np.savez(tmp_path / "s.npz", images=images)
    with pytest.raises(DataError, match=r"expected uint8 \[N, H, W\] or \[N, H, W, C\] with at least 10 images"):
        open_images(tmp_path / "s.npz")


def test_flags_lie_over_the_environment_and_that_over_what_the_source_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = DataSettings(name="folder", root=tmp_path / "gone", size=32, skip_corrupt=True)
    assert override_data_settings(OpenedSource(said), []) == said
    monkeypatch.setenv("GANCTL_DATA__ROOT", str(tmp_path / "moved"))
    monkeypatch.setenv("GANCTL_DATA__CHANNELS", "1")
    monkeypatch.setenv("GANCTL_PRESET", "lightning-basic-gan")
    monkeypatch.setenv("GANCTL_TRAIN__SEED", "none of this command's business")
    expected = said.model_copy(update={"root": tmp_path / "moved", "channels": 3})
    assert override_data_settings(OpenedSource(said), ["data.channels=3"]) == expected
    unset = override_data_settings(OpenedSource(said), ["data.channels=3", "data.root=unset"])
    assert unset == expected.model_copy(update={"root": None})


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("train.seed=1", "--set train.seed=1: expected a setting of the data"),
        ("root=x", "--set root=x: expected a setting of the data"),
        ("data.rot=x", "unknown setting 'data.rot'. Did you mean data.root"),
        ("data.size=30", "--set: data.size = 30"),
    ],
)
def test_only_settings_of_the_data_can_be_laid_over(assignment: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        override_data_settings(OpenedSource(DataSettings()), [assignment])
    assert told in str(raised.value)


def test_a_misspelt_variable_of_the_data_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANCTL_DATA_ROOT", "/somewhere")
    with pytest.raises(ConfigError, match=r"GANCTL_DATA_ROOT: .*Did you mean GANCTL_DATA__ROOT"):
        override_data_settings(OpenedSource(DataSettings()), [])


def test_images_are_scored_only_against_a_data_set_that_they_fit() -> None:
    folder = DataSettings(name="folder")
    black = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    check_fit(OpenedSource(folder, images=black, labels=torch.arange(12) % 3), REAL, Path("s.npz"))
    check_fit(OpenedSource(folder, images=black), REAL, Path("s.npz"))
    check_fit(OpenedSource(folder, Generated()), REAL, Path("run"))
    grey = OpenedSource(folder, images=black[:, :1, :28, :28])
    with pytest.raises(DataError, match=r"s.npz: .*found images 1 × 28 × 28 .*, expected 3 × 32 × 32\. Name"):
        check_fit(grey, REAL, Path("s.npz"))
    with pytest.raises(DataError, match="found labels from 0 to 3, expected labels from 0 to 2"):
        check_fit(OpenedSource(folder, images=black, labels=torch.arange(12) % 4), REAL, Path("s.npz"))
    other = ImageSet(REAL.images, REAL.labels, ("leaf", "sea", "sky"))
    with pytest.raises(DataError, match="found the classes leaf, sea, sun, expected leaf, sea, sky"):
        check_fit(OpenedSource(folder, Generated()), other, Path("run"))
