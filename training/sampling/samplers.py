"""Who fills an order: a source of images here, or a server."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ganctl.common.latents import draw_labels, latents
from ganctl.training.images.source import Source
from ganctl.training.sampling.request import OrderError, Part, SampleRequest, SampleResult

Pixels = NDArray[np.uint8]  # [N, H, W, C]
Labels = NDArray[np.int64]  # [N]


class Client(Protocol):
    """A server's client, as far as drawing needs it."""

    def count_classes(self) -> int: ...
    def sample(
        self,
        *,
        digits: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
        text: str | None = None,
        count: int | None = None,
        seed: int | None = None,
        truncation: float | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]: ...


class Sampler(Protocol):
    """Draws what fits into one request."""

    def check(self, order: SampleRequest) -> None:
        """Raises OrderError where it cannot fill the order and knows that before it draws."""

    def count_classes(self) -> int: ...
    def name(self, label: int) -> str:
        """What a class is called, as far as that is known."""

    def draw(self, part: Part, truncation: float) -> tuple[Pixels, Labels | None]:
        """The images of a part, and their labels where the generator knows any."""


class LocalSampler:
    """Draws from a source, with the latents and labels that the service draws for the same seed."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def check(self, order: SampleRequest) -> None:
        flag, names = order.flag, self.source.class_names
        if flag and not self.source.conditional:
            raise OrderError(f"{flag}: this generator is unconditional and draws what it likes; leave {flag} out")
        unknown = [name for name in order.names if name not in names]
        if unknown:
            raise OrderError(f"{flag} {unknown[0]!r}: expected one of {', '.join(names)}")

    def count_classes(self) -> int:
        return len(self.source.class_names)

    def name(self, label: int) -> str:
        return self.source.class_names[label]

    def number(self, wanted: int | str) -> int:
        """A class's number."""
        return wanted if isinstance(wanted, int) else self.source.class_names.index(wanted)

    def draw(self, part: Part, truncation: float) -> tuple[Pixels, Labels | None]:
        classes = np.array([self.number(name) for name in part.text or part.classes], np.int64)
        if part.text:
            label = np.tile(classes, part.draws)
        elif len(classes):
            label = np.resize(classes, part.draws)
        else:
            label = self.labels(part.seed, part.draws)
        z = self.latents(part.seed, part.draws, truncation)
        z = z.repeat_interleave(len(label) // part.draws, dim=0)
        images = self.source.draw(z, torch.from_numpy(label)).permute(0, 2, 3, 1).numpy()
        return images, label if self.source.conditional else None

    def latents(self, seed: int, draws: int, truncation: float) -> torch.Tensor:
        """float32 [draws, latent_dim], pulled to their mean."""
        return torch.from_numpy(latents(seed, draws, self.source.latent_dim) * np.float32(truncation))

    def labels(self, seed: int, draws: int) -> Labels:
        """What the seed decides where no class is asked for."""
        return draw_labels(seed, draws, len(self.source.class_names))


class ServerSampler:
    """Draws from a server, which says itself what it cannot draw.

    Classes go by their names, as a local source takes them: a class called 2 need not be number 2.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def check(self, order: SampleRequest) -> None:
        """It is the server that knows."""

    def count_classes(self) -> int:
        return self._client.count_classes()

    def name(self, label: int) -> str:
        return f"number {label}"

    def draw(self, part: Part, truncation: float) -> tuple[Pixels, Labels | None]:
        numbers = [wanted for wanted in part.classes if isinstance(wanted, int)]
        names = [wanted for wanted in part.classes if isinstance(wanted, str)]
        images, labels, _ = self._client.sample(
            digits=numbers or None,
            labels=names or None,
            text=part.text,
            count=part.draws,
            seed=part.seed,
            truncation=truncation,
        )
        return images if images.ndim == 4 else images[..., None], None if (labels < 0).any() else labels


def draw(order: SampleRequest, sampler: Sampler) -> SampleResult:
    """Fills an order.

    Raises:
        OrderError: a class that the source does not know, or any class of an unconditional one.
    """
    sampler.check(order)
    parts = order.parts(sampler.count_classes() if order.per_class else 0)
    drawn = [sampler.draw(part, order.truncation) for part in parts]
    labels = [label for _, label in drawn if label is not None]
    return order.drawn(
        np.concatenate([images for images, _ in drawn]), np.concatenate(labels) if labels else None, parts[0].seed
    )
