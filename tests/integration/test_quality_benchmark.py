"""`ganctl bench quality --data DATA`: a GAN of another project and ours on a small set of any images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.any_images import disks, save_folder
from tests.conftest import Ganctl, one_object

SYSTEMS = ("lightning-basic-gan", "dcgan")  # in the order of the table


@pytest.mark.soak
def test_the_comparison_runs_on_a_folder_of_images_with_alpha(tmp_path: Path, ganctl: Ganctl) -> None:
    source = save_folder(tmp_path / "disks", disks(300, 20), labeled=True)
    words = ["--data", source, "--seconds", 2, "--num-images", 200, "--out", tmp_path / "out"]
    words += [word for name in SYSTEMS for word in ("--system", name)]
    done = ganctl("bench", "quality", *words, "--json")
    assert done.returncode == 0, done.stderr
    results = one_object(done.stdout)
    assert results["data"] == "disks"
    assert results["seeds"] == 1
    stored = json.loads((tmp_path / "out/results.json").read_text())
    for system, name in zip(stored["systems"], SYSTEMS, strict=True):
        (run,) = system["runs"]
        assert system["name"] == name
        assert run["scores"]["fd"] > 0
        assert [point["seconds"] for point in run["curve"]] == sorted({point["seconds"] for point in run["curve"]})
        with np.load(tmp_path / f"out/runs/{name}-0.npz") as arrays:
            images = arrays["images"]
        assert images.shape == (run["num_images"], 4, 20, 20)
        assert images.dtype == np.uint8
    text = (tmp_path / "out/table.md").read_text("utf-8")
    assert all(text.count(f"| {name} |") == 2 for name in SYSTEMS), "the scores and the curve"
    with Image.open(tmp_path / "out/samples.png") as picture:
        assert picture.height >= 3 * 48, "real images and two systems"
    words[-1] = "lightning-basic-gan"
    again = ganctl("bench", "quality", *words)
    assert again.returncode == 0, again.stderr
    assert "training for" not in again.stderr, "complete runs are reused"
