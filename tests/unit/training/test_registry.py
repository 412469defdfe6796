"""One's own networks, losses, data sets and callbacks: by registry, or as module:Name."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganctl.training.callbacks.base import Callback
from ganctl.training.config.registry import DATASETS, DISCRIMINATORS, GENERATORS, LOSSES, Registry, load_object
from ganctl.training.config.resolve import resolve
from ganctl.training.config.schema import ModelSettings
from ganctl.training.data.base import ImageSet
from ganctl.training.data.datasets import load_split
from ganctl.training.errors import ConfigError, DataError
from ganctl.training.loop.session import Session, load_callback
from ganctl.training.losses.adversarial import NonSaturating, build_loss
from ganctl.training.models.base import Generator, ImageShape
from tests.conftest import SMALL, Ganctl

MODULE = """
import torch
from torch import nn
from ganctl.training.callbacks.base import Callback
from ganctl.training.data.base import ImageSet
from ganctl.training.losses.adversarial import Hinge
from ganctl.training.models.base import Generator

class Tiny(Generator):
    def __init__(self, settings, shape, classes):
        super().__init__(settings.latent_dim, classes, shape)
        self.net = nn.Linear(settings.latent_dim, shape.size)
        self.gain = settings.options.get("gain", 1.0)

    def forward(self, z, label=None):
        return torch.tanh(self.gain * self.net(z)).view(-1, *self.shape)

class TooWide(Tiny):
    def forward(self, z, label=None):
        return 5 + super().forward(z)

class Judge(nn.Module):
    def __init__(self, settings, shape, classes):
        super().__init__()
        self.net = nn.Linear(shape.size, 1)

    def forward(self, images, label=None):
        return self.net(images.flatten(1)).squeeze(1)

class Unsqueezed(Judge):
    def forward(self, images, label=None):
        return self.net(images.flatten(1))

class Fixed(Tiny):
    def __init__(self, settings, shape, classes):
        super().__init__(settings, shape, classes)
        self.shift = torch.zeros(1)  # a plain attribute does not move with the network

    def forward(self, z, label=None):
        return super().forward(z + self.shift)

class Faulty(Tiny):
    def __init__(self, settings, shape, classes):
        super().__init__(settings, shape, classes)
        self.absent.bias.zero_()

class Loss(Hinge): ...

class Unreduced(Hinge):
    def generator(self, real, fake):
        return -fake

def stripes(settings, split):
    rng = torch.Generator().manual_seed(len(split))
    labels = torch.arange(400) % 4
    images = torch.randint(40, (400, 1, 28, 28), generator=rng, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i, :, :, label::4] += 200
    return ImageSet(images, labels, ("a", "b", "c", "d"))

def unfinished(settings, split):
    return ImageSet(torch.full((9, 1, 28, 28), torch.nan), torch.arange(9), ("a", "b"))

class Loud(Callback):
    heard = []
    def on_step(self, run):
        self.heard.append(run.step)

class Needy(Callback):
    def __init__(self, something): ...

nothing = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # taken back afterwards
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return name


def test_a_run_of_ones_own_networks_loss_data_and_callback_goes_through_to_pictures(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ganctl.training.evaluation.train_classifier.MIN_STEPS", 40
    )  # how good the scores are is no matter
    settings = (
        f"model.generator='{own}:Tiny'", f"model.discriminator='{own}:Judge'", f"loss.name='{own}:Loss'",
        f"data.name='{own}:stripes'", "model.options={gain = 0.5}", "train.batch_size=50",
    )  # fmt: skip
    trainer = Session(assignments=[*SMALL, *settings], run_dir=tmp_path / "run").build(
        max_steps=12, callbacks=[f"{own}:Loud"]
    )
    assert trainer.generator.gain == 0.5
    result = trainer.fit()
    assert load_object(f"{own}:Loud", "--callback").heard == list(range(1, 13))
    assert result.metrics["fd"] is None or result.metrics["fd"] > 0  # the scorer of so few images may learn nothing
    images = trainer.source.generate(torch.zeros(2, trainer.source.latent_dim), torch.zeros(2, dtype=torch.int64))
    assert images.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.generator='{own}:TooWide'", r"values up to [56]\.\d+, expected .* within \[-1, 1\]. End it in tanh"),
        ("model.generator='{own}:Judge'", "found Judge, expected a ganctl.Generator"),
        ("model.discriminator='{own}:Unsqueezed'", r"two logits have shape \(2, 1\), expected \(2,\)"),
    ],
)
def test_a_network_that_is_none_is_refused_before_a_step(
    assignment: str, message: str, own: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(assignments=[*SMALL, assignment.format(own=own)], run_dir=tmp_path / "run").build()
    assert not (tmp_path / "run").exists()


def test_data_that_is_no_set_of_images_is_told_with_what_was_found(own: str) -> None:
    config, _ = resolve(assignments=[f"data.name='{own}:unfinished'"], environment={})
    with pytest.raises(DataError, match=r"images are torch.float32 \(9, 1, 28, 28\), expected uint8.*from 0 to 8, exp"):
        load_split(config.data, "train")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{own}:Lowd", "has no 'Lowd'. Did you mean Loud"),
        ("absent_module:X", "no module 'absent_module'"),
        ("{own}", "expected module:Name"),
        ("{own}:nothing", "found 3, expected a class derived from"),
        ("{own}:Needy", "the class needs arguments"),
    ],
)
def test_a_callback_that_is_none_is_told(name: str, message: str, own: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_callback(name.format(own=own))


def test_a_module_that_fails_is_told_with_its_error(own: str, tmp_path: Path) -> None:
    (tmp_path / "broken_on_import.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="importing broken_on_import fails: ZeroDivisionError"):
        load_object("broken_on_import:X", "--callback")


def test_a_registered_name_is_a_setting_and_cannot_be_taken_twice() -> None:
    table: Registry[type] = Registry("thing", "some.setting", "ganctl.training.data")
    assert table.register("a")(int) is int
    assert (table.get("a"), table.names()) == (int, ["a"])
    with pytest.raises(ValueError, match="'a' is taken by <class 'int'>"):
        table.register("a")(str)


def test_a_notebooks_cell_that_runs_twice_registers_what_it_defined_last() -> None:
    table: Registry[type] = Registry("thing", "some.setting", "ganctl.training.data")

    def cell() -> type:
        @table.register("mine")
        class Mine: ...

        return Mine

    assert cell() is not (second := cell())
    assert table.get("mine") is second


def test_all_unknown_names_are_told_at_once_with_where_they_came_from() -> None:
    assignments = ["model.generator=covn", "model.discriminator=mpl", "loss.name=hing", "data.name=mnits"]
    with pytest.raises(ConfigError) as raised:
        resolve(assignments=assignments, environment={})
    for word in ("4 faults", "Did you mean conv", "Did you mean mlp", "Did you mean hinge", "Did you mean mnist"):
        assert word in str(raised.value)
    assert str(raised.value).count("--set: ") == 4


def test_a_registered_name_is_a_setting_until_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat(Generator):
        def __init__(self, settings: ModelSettings, shape: ImageShape, classes: int | None) -> None:
            super().__init__(settings.latent_dim, classes, shape)
            self.bias = nn.Parameter(torch.zeros(shape.size))

        def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
            return torch.tanh(self.bias).expand(len(z), -1).view(-1, *self.shape)

    assignments = ["model.generator=flat", "loss.name=same"]
    with monkeypatch.context() as patch:
        patch.setitem(GENERATORS.entries, "flat", Flat)
        patch.setitem(LOSSES.entries, "same", NonSaturating)
        config, _ = resolve(assignments=assignments, environment={})
        assert isinstance(GENERATORS.get(config.model.generator)(config.model, ImageShape(1, 28, 28), 10), Flat)
        assert not GENERATORS.is_builtin("flat")
    with pytest.raises(ConfigError, match="2 faults"):
        resolve(assignments=assignments, environment={})


def test_what_comes_with_ganctl() -> None:
    assert GENERATORS.names() == DISCRIMINATORS.names() == ["conv", "mlp"]
    assert GENERATORS.is_builtin("conv")
    assert {"fashion-mnist", "folder", "kmnist", "mnist"} <= {*DATASETS.names()}  # other tests register their own
    assert issubclass(type(load_callback("ganctl.training.callbacks:Profiler")), Callback)
    assert ImageSet(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1).long(), ("a",)).shape == (1, 28, 28)


def test_the_memory_of_a_network_with_a_tensor_of_its_own_is_told(own: str, tmp_path: Path) -> None:
    settings = [*SMALL, f"model.generator='{own}:Fixed'", "train.batch_size=8"]
    trainer = Session(assignments=settings, run_dir=tmp_path / "run").build(max_steps=1)
    facts = trainer.parts.estimate_memory()
    assert 0 < facts["activation_bytes"] < facts["memory_bytes"]
    assert trainer.fit().steps == 1


def test_a_loss_that_is_no_number_is_refused_before_a_step(own: str) -> None:
    config, _ = resolve(assignments=[f"loss.name='{own}:Unreduced'"], environment={})
    with pytest.raises(ConfigError, match=r"for two logits it returned \(2,\), expected a scalar tensor"):
        build_loss(config.loss)


def test_what_cannot_be_called_is_no_network_and_no_data_set(own: str) -> None:
    with pytest.raises(ConfigError, match=r"model.generator = '.*:nothing': found 3, expected a function or class"):
        resolve(assignments=[f"model.generator='{own}:nothing'"], environment={})


def test_batch_normalisation_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size = 1: batch normalization needs two images or more"):
        Session(preset="lightning-basic-gan", flags={"train.batch_size": ("x", 1)}, run_dir=tmp_path / "r").build()


def test_an_error_in_ones_own_code_is_told_as_that_and_with_its_place(own: str, ganctl: Ganctl) -> None:
    done = ganctl("train", "--max-steps", 1, "--set", f"model.generator={own}:Faulty", "--json")
    assert done.returncode == 1
    assert re.search(rf"{own}.py:\d+: AttributeError: .* \(in your code, which ganctl called", done.stderr)
    assert "defect of ganctl" not in done.stderr
