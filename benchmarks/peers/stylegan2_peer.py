"""The package stylegan2_pytorch, trained as by its command `stylegan2_pytorch --data FOLDER --image-size SIZE`.

The defaults of its command line apply: batches of 5 images, gradients of 6 batches per update, hinge loss with a
gradient penalty at every fourth step, mixed styles, Adam (2e-4 and 3e-4, 0.5, 0.9), no augmentation; images are drawn
with styles truncated to 0.75. Images with alpha take `--transparent`; gray ones are expanded to color, as the package
does. Other sizes than powers of two are padded.

Its moving average starts after 20,000 steps; until then it is a copy of the generator that may be 1,000 steps old. So
the generator itself is drawn from before that.

The shim: the package asserts a CUDA device when it is imported, and imports the experiment tracker aim, which is used
only with `--log`; its Trainer reads image files, and writes sample images and checkpoints.
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

REQUIRES = "stylegan2_pytorch"
AVERAGED_FROM = 20_000  # steps, from which the package's moving average is one
_CHUNK = 100  # images generated at a time


def train(training: Training) -> Sampler:
    """Trains until the clock's budget is used up."""
    package = import_without("stylegan2_pytorch.stylegan2_pytorch", "aim")
    command = import_without("stylegan2_pytorch.cli")
    if training.device.type == "cpu":
        run_on_cpu(package)
    transparent = training.shape.channels == 4
    fit = Fit(training.shape, power_of_two(training.shape), 4 if transparent else 3, premultiplied=False)
    images = FloatImages(fit.to_peer(training.data.images))
    trainers: list[Any] = []

    class TimedTrainer(package.Trainer):  # type: ignore[name-defined]  # the package is imported at run time
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            trainers.append(self)

        def train(self) -> None:
            training.clock.start()
            super().train()
            gan = self.GAN
            averaged = self.steps > AVERAGED_FROM
            network = nn.ModuleList([gan.SE, gan.GE] if averaged else [gan.S, gan.G])
            if training.clock.step(self.batch_size * self.gradient_accumulate_every, network):
                raise BudgetUsedUp

        def save(self, number: int) -> None:
            with training.clock.pause():
                super().save(number)

        def evaluate(self, *arguments: Any, **options: Any) -> None:
            pass  # no sample images

    package.Dataset = lambda *arguments, **options: images
    command.Trainer = TimedTrainer
    seed_all(training.seed)
    with suppress(BudgetUsedUp):
        command.train_from_folder(
            results_dir=str(training.folder / "results"),
            models_dir=str(training.folder / "models"),
            image_size=fit.side,
            transparent=transparent,
            num_workers=0,  # the images are in memory
        )
    (trainer,) = trainers
    trainer.GAN.eval()
    trainer.batch_size = _CHUNK
    styles, generator = trainer.GAN.S, trainer.GAN.G

    @torch.inference_mode()
    def generate(n: int) -> Tensor:
        trainer.av = None  # the mean style of these weights
        latents = package.noise_list(n, generator.num_layers, generator.latent_dim, device=0)
        noise = package.image_noise(n, fit.side, device=0)
        return fit.from_peer(trainer.generate_truncated(styles, generator, latents, noise, trunc_psi=trainer.trunc_psi))

    return Sampler(nn.ModuleList([styles, generator]), generate)
