"""Runs the training commands of lightweight-gan and stylegan2_pytorch, two packages of one author with one structure.

Their moving averages start after 20,000 steps; until then one is a copy of the generator that may be 1,000 steps old.
So the generator itself is drawn from before that.

The shim: the packages assert a CUDA device when they are imported; their Trainers read image files, and write sample
images and checkpoints.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import nn

from ganctl.benchmarks.peers.gan import BudgetUsedUp, Fit, FloatImages, Training, import_without, run_on_cpu, seed_all

AVERAGED_FROM = 20_000  # steps, from which a package's moving average is one
CHUNK = 100  # images generated at a time


def import_package(name: str, training: Training, *absent: str) -> Any:
    """Imports the module with the networks of a package; `absent` are modules that the training does not use."""
    package = import_without(f"{name}.{name}", *absent)
    if training.device.type == "cpu":
        run_on_cpu(package)
    return package


def run_command(
    package: Any,
    training: Training,
    fit: Fit,
    network: Callable[[Any, bool], nn.Module],
    *,
    dataset: str,
    **options: bool,
) -> Any:
    """Trains as the package's command does, until the clock's budget is used up.

    Args:
        package: from `import_package`.
        training: the inputs.
        fit: converts the images.
        network: returns the network to draw from, of the package's networks: `network(gan, averaged)`.
        dataset: name of the package's class of images, which is replaced by the images in memory.
        options: options of the command.

    Returns:
        The package's trainer.
    """
    command = import_without(f"{package.__name__.partition('.')[0]}.cli")
    images = FloatImages(fit.to_peer(training.data.images))
    trainers: list[Any] = []

    class TimedTrainer(package.Trainer):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            trainers.append(self)

        def train(self) -> None:
            training.clock.start()
            super().train()
            seen = self.batch_size * self.gradient_accumulate_every
            if training.clock.step(seen, network(self.GAN, self.steps > AVERAGED_FROM)):
                raise BudgetUsedUp

        def save(self, number: int) -> None:
            with training.clock.pause():
                super().save(number)

        def evaluate(self, *arguments: Any, **options: Any) -> None:
            pass  # no sample images

    setattr(package, dataset, lambda *arguments, **options: images)
    command.Trainer = TimedTrainer
    seed_all(training.seed)
    with suppress(BudgetUsedUp):
        command.train_from_folder(
            results_dir=str(training.folder / "results"),
            models_dir=str(training.folder / "models"),
            image_size=fit.side,
            num_workers=0,  # the images are in memory
            **options,
        )
    (trainer,) = trainers
    trainer.GAN.eval()
    trainer.batch_size = CHUNK
    return trainer
