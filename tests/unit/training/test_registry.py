"""Custom networks, losses, data sets and callbacks: registered, or given as module:Name."""

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

class TinyGenerator(Generator):
    def __init__(self, settings, shape, classes):
        super().__init__(settings.latent_dim, classes, shape)
        self.net = nn.Linear(settings.latent_dim, shape.size)
        self.gain = settings.options.get("gain", 1.0)

    def forward(self, z, label=None):
        return torch.tanh(self.gain * self.net(z)).view(-1, *self.shape)

class OutOfRange(TinyGenerator):
    def forward(self, z, label=None):
        return 5 + super().forward(z)

class TinyDiscriminator(nn.Module):
    def __init__(self, settings, shape, classes):
        super().__init__()
        self.net = nn.Linear(shape.size, 1)

    def forward(self, images, label=None):
        return self.net(images.flatten(1)).squeeze(1)

class Unsqueezed(TinyDiscriminator):
    def forward(self, images, label=None):
        return self.net(images.flatten(1))

class PlainTensor(TinyGenerator):
    def __init__(self, settings, shape, classes):
        super().__init__(settings, shape, classes)
        self.shift = torch.zeros(1)  # an attribute, no buffer: it does not move with the network

    def forward(self, z, label=None):
        return super().forward(z + self.shift)

class FailingInit(TinyGenerator):
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

def float_images(settings, split):
    return ImageSet(torch.full((9, 1, 28, 28), torch.nan), torch.arange(9), ("a", "b"))

class StepRecorder(Callback):
    steps = []
    def on_step(self, run):
        self.steps.append(run.step)

class NeedsArgument(Callback):
    def __init__(self, argument): ...

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a custom module in the current folder."""
    name = f"custom_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # removed again after the test
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return name


def test_a_run_with_custom_networks_loss_data_and_callback_trains_and_generates_images(
    module: str, tmp_path: Path
) -> None:
    settings = (
        f"model.generator='{module}:TinyGenerator'", f"model.discriminator='{module}:TinyDiscriminator'",
        f"loss.name='{module}:Loss'", f"data.source='{module}:stripes'", "model.options={gain = 0.5}",
        "train.batch_size=50",
    )  # fmt: skip
    trainer = Session(assignments=[*SMALL, *settings], run_dir=tmp_path / "run").build(
        max_steps=12, callbacks=[f"{module}:StepRecorder"]
    )
    assert trainer.generator.gain == 0.5
    result = trainer.fit()
    assert load_object(f"{module}:StepRecorder", "--callback").steps == list(range(1, 13))
    assert result.metrics["fd"] > 0
    images = trainer.source.generate(torch.zeros(2, trainer.source.latent_dim), torch.zeros(2, dtype=torch.int64))
    assert images.shape == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.generator='{module}:OutOfRange'", r"model\.generator = .* [56]\.\d+, .*\[-1, 1\].*\btanh\b"),
        (
            "model.generator='{module}:TinyDiscriminator'",
            r"model\.generator = .*TinyDiscriminator, .*ganctl\.Generator",
        ),
        ("model.discriminator='{module}:Unsqueezed'", r"model\.discriminator = .*\(2, 1\).*\(2,\)"),
    ],
)
def test_an_invalid_custom_network_is_refused_before_the_first_step(
    assignment: str, message: str, module: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(assignments=[*SMALL, assignment.format(module=module)], run_dir=tmp_path / "run").build()
    assert not (tmp_path / "run").exists()


def test_the_error_of_an_invalid_data_set_names_the_dtype_shape_and_labels_found(module: str) -> None:
    config, _ = resolve(assignments=[f"data.source='{module}:float_images'"], environment={})
    with pytest.raises(DataError, match=r":float_images.*\btorch\.float32 \(9, 1, 28, 28\).*\buint8\b.*\b0 to 8\b"):
        load_split(config.data, "train")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("{module}:StepRecoder", r"'StepRecoder'.*\bStepRecorder\b"),
        ("absent_module:X", "'absent_module'"),
        ("{module}", "module:Name"),
        ("{module}:number", r"\b3\b.*ganctl\.Callback"),
        ("{module}:NeedsArgument", "'argument'"),
    ],
)
def test_the_error_of_an_invalid_callback_names_it_and_the_cause(name: str, cause: str, module: str) -> None:
    name = name.format(module=module)
    with pytest.raises(ConfigError, match=f"--callback {name}: .*{cause}"):
        load_callback(name)


@pytest.mark.usefixtures("module")
def test_the_error_of_a_failing_import_names_the_module_and_the_exception(tmp_path: Path) -> None:
    (tmp_path / "broken_on_import.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"--callback broken_on_import:X: .*ZeroDivisionError"):
        load_object("broken_on_import:X", "--callback")


def test_a_name_cannot_be_registered_for_two_objects() -> None:
    table: Registry[type] = Registry("thing", "some.setting", "ganctl.training.data")
    assert table.register("a")(int) is int
    assert (table.get("a"), table.names()) == (int, ["a"])
    with pytest.raises(ValueError, match=r"thing 'a' .*<class 'int'>"):
        table.register("a")(str)


def test_running_a_notebook_cell_again_replaces_its_registration() -> None:
    table: Registry[type] = Registry("thing", "some.setting", "ganctl.training.data")

    def cell() -> type:
        @table.register("mine")
        class Mine: ...

        return Mine

    assert cell() is not (second := cell())
    assert table.get("mine") is second


def test_one_error_names_all_unknown_names_with_source_and_suggestion() -> None:
    misspelled = {
        "model.generator": ("covn", "conv"), "model.discriminator": ("mpl", "mlp"), "loss.name": ("hing", "hinge"),
        "data.source": ("mnits", "mnist"),
    }  # fmt: skip
    with pytest.raises(ConfigError) as raised:
        resolve(assignments=[f"{setting}={name}" for setting, (name, _) in misspelled.items()], environment={})
    for setting, (name, suggestion) in misspelled.items():
        assert re.search(rf"--set: {setting} = '{name}': .*Did you mean .*\b{suggestion}\b", str(raised.value))


def test_a_registered_name_is_a_valid_setting_until_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(ConfigError) as raised:
        resolve(assignments=assignments, environment={})
    assert "model.generator = 'flat'" in str(raised.value)
    assert "loss.name = 'same'" in str(raised.value)


def test_built_in_networks_and_data_sets_are_registered() -> None:
    assert GENERATORS.names() == ["conv", "mlp", "residual"]
    assert DISCRIMINATORS.names() == ["conv", "mlp", "projected"]
    assert GENERATORS.is_builtin("conv")
    assert {"fashion-mnist", "kmnist", "mnist"} <= {*DATASETS.names()}  # other tests register their own
    assert issubclass(type(load_callback("ganctl.training.callbacks:Profiler")), Callback)
    assert ImageSet(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1).long(), ("a",)).shape == (1, 28, 28)


def test_memory_is_estimated_for_a_network_with_a_plain_tensor_attribute(module: str, tmp_path: Path) -> None:
    settings = [*SMALL, f"model.generator='{module}:PlainTensor'", "train.batch_size=8"]
    trainer = Session(assignments=settings, run_dir=tmp_path / "run").build(max_steps=1)
    estimate = trainer.parts.estimate_memory()
    assert 0 < estimate["activation_bytes"] < estimate["memory_bytes"]
    assert trainer.fit().steps == 1


def test_a_custom_loss_that_returns_no_scalar_is_refused(module: str) -> None:
    config, _ = resolve(assignments=[f"loss.name='{module}:Unreduced'"], environment={})
    with pytest.raises(ConfigError, match=r"loss\.name = '.*:Unreduced': .*\(2,\).*\bscalar\b"):
        build_loss(config.loss)


def test_a_registered_object_that_is_not_callable_is_refused(module: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.generator = '.*:number': .*\b3\b"):
        resolve(assignments=[f"model.generator='{module}:number'"], environment={})


def test_batch_normalization_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size = 1: batch normalization"):
        Session(preset="lightning-basic-gan", flags={"train.batch_size": ("x", 1)}, run_dir=tmp_path / "r").build()


def test_an_error_in_custom_code_is_reported_with_file_and_line(module: str, ganctl: Ganctl) -> None:
    done = ganctl("train", "--max-steps", 1, "--set", f"model.generator={module}:FailingInit", "--json")
    assert done.returncode == 1
    assert re.search(rf"{module}\.py:\d+: AttributeError: .*\byour code\b", done.stderr)
    assert "defect of ganctl" not in done.stderr
