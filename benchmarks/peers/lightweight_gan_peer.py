"""The package lightweight-gan, trained as by its command `lightweight_gan --data FOLDER --image-size SIZE`.

The defaults of its command line apply: batches of 10 images, gradients of 4 batches per update, hinge loss with a
gradient penalty at every fourth step, Adam (2e-4, 0.5, 0.9), a loss of decoded images, attention at 32 × 32,
augmentation with a probability that it derives from the number of images. Gray images take `--greyscale`, images with
alpha `--transparent`. Other sizes than powers of two are padded.

Its moving average starts after 20,000 steps; until then it is a copy of the generator that may be 1,000 steps old. So
the generator itself is drawn from before that.

The shim: the package asserts a CUDA device when it is imported; its Trainer reads image files, and writes sample images
and checkpoints.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ganctl.benchmarks.peers.gan import (
    BudgetUsedUp,
    Fit,
    FloatImages,
    Sampler,
    Training,
    import_without,
    power_of_two,
    run_on_cpu,
    seed_all,
)

REQUIRES = "lightweight_gan"
AVERAGED_FROM = 20_000  # steps, from which the package's moving average is one
_CHUNK = 100  # images generated at a time


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    package = import_without("lightweight_gan.lightweight_gan")
    command = import_without("lightweight_gan.cli")
    if training.device.type == "cpu":
        run_on_cpu(package)
    channels = training.shape.channels
    fit = Fit(training.shape, power_of_two(training.shape), channels, premultiplied=False)
    images = FloatImages(fit.to_peer(training.data.images))
    trainers: list[Any] = []

    class TimedTrainer(package.Trainer):  # type: ignore[name-defined]  # the package is imported at run time
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            trainers.append(self)

        def train(self) -> None:
            training.clock.start()
            super().train()
            network: nn.Module = self.GAN.GE if self.steps > AVERAGED_FROM else self.GAN.G
            if training.clock.step(self.batch_size * self.gradient_accumulate_every, network):
                raise BudgetUsedUp

        def save(self, number: int) -> None:
            with training.clock.pause():
                super().save(number)

        def evaluate(self, *arguments: Any, **options: Any) -> None:
            pass  # no sample images

    package.ImageDataset = lambda *arguments, **options: images
    command.Trainer = TimedTrainer
    seed_all(training.seed)
    with suppress(BudgetUsedUp):
        command.train_from_folder(
            results_dir=str(training.folder / "results"),
            models_dir=str(training.folder / "models"),
            image_size=fit.side,
            greyscale=channels == 1,
            transparent=channels == 4,
            num_workers=0,  # the images are in memory
        )
    (trainer,) = trainers
    trainer.GAN.eval()
    trainer.batch_size = _CHUNK

    @torch.inference_mode()
    def generate(n: int) -> Tensor:
        latents = torch.randn(n, trainer.GAN.latent_dim).to(training.device)
        return fit.from_peer(trainer.generate_(trainer.GAN.G, latents))

    return Sampler(trainer.GAN.G, generate)
