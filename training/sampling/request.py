"""An order of images, as the requests that a source or a server answers."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganctl.common.text import nfc
from ganctl.training.errors import TrainingError

_GRID_COLUMNS = 10
REPLY_LIMIT = 256  # images, as the service has it


class OrderError(TrainingError, ValueError):
    """An order that the source cannot fill; names the flag."""

    exit_code = 2


@dataclass(frozen=True)
class SampleResult:
    """What came of an order."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    labels: NDArray[np.int64] | None  # [N]
    seed: int
    columns: int  # of a picture
    drawn: int | None = None  # images in all, where some were rejected


@dataclass(frozen=True)
class Film:
    """What came of the order of a walk."""

    frames: NDArray[np.uint8]  # [F, H, W, C]
    seed: int
    stops: int  # ordered images that it passes


@dataclass(frozen=True)
class Part:
    """What fits into one request: `draws` latents from `seed`. The classes, by number or by name, come in turn; a text
    is drawn whole for each latent; where there is neither the seed decides."""

    seed: int
    draws: int
    classes: Sequence[int | str] = ()
    text: str | None = None


@dataclass(frozen=True)
class SampleRequest:
    """What to draw; see the flags of `ganctl sample`. Class names and text are kept in NFC, whatever form they come in.

    Raises:
        OrderError: a class name or the text is not UTF-8.

    Beyond what the service gives in one reply the seed counts on, one for each further reply; a local source does the
    same, so that both draw the same images.
    """

    labels: tuple[str, ...] = ()
    text: str | None = None
    count: int | None = None
    per_class: int | None = None
    seed: int | None = None
    truncation: float = 1.0
    reject_misread: bool = False

    def __post_init__(self) -> None:
        for flag, text in (*(("--label", name) for name in self.labels), ("--text", self.text or "")):
            try:
                text.encode()
            except UnicodeEncodeError:  # from bytes of another encoding on the command line
                raise OrderError(f"{flag} {text!r}: it is not UTF-8, expected names of classes in UTF-8") from None
        object.__setattr__(self, "labels", tuple(map(nfc, self.labels)))
        object.__setattr__(self, "text", None if self.text is None else nfc(self.text))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that were named, in turn."""
        return self.labels or tuple(self.text or "")

    @property
    def flag(self) -> str | None:
        """The flag for which the generator must know classes."""
        given = {
            "--label": self.labels,
            "--text": self.text,
            "--per-class": self.per_class,
            "--reject-misread": self.reject_misread,
        }
        return next((flag for flag, value in given.items() if value), None)

    @property
    def most_draws(self) -> int:
        """Latents of one request."""
        return max(1, REPLY_LIMIT // len(self.text)) if self.text else REPLY_LIMIT

    def parts(self, classes: int) -> list[Part]:
        """The order as requests; of `classes` classes all are wanted with `per_class`.

        Raises:
            OrderError: the seed is too large to count on from.
        """
        wanted: Sequence[int | str] = range(classes) if self.per_class else self.labels
        total = self.per_class * len(wanted) if self.per_class else self.count or len(wanted) or 1
        parts, done = [], 0
        for seed, draws in self.requests(total):
            turn = [wanted[(done + i) % len(wanted)] for i in range(min(draws, len(wanted)))]
            parts.append(Part(seed, draws, turn, self.text))
            done += draws
        return parts

    def requests(self, total: int) -> list[tuple[int, int]]:
        """The seed and the number of latents of each request, for so many latents.

        Raises:
            OrderError: the seed is too large to count on from.
        """
        # the room left for counting on keeps every seed below 2^53
        seed = secrets.randbelow(2**52) if self.seed is None else self.seed
        limit = self.most_draws
        if seed + (total - 1) // limit >= 2**53:
            raise OrderError(f"--seed {seed}: for {total} images it counts on beyond 2^53 - 1; take a smaller one")
        return [(seed + i, min(limit, total - start)) for i, start in enumerate(range(0, total, limit))]

    def drawn(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, seed: int, drawn: int | None = None
    ) -> SampleResult:
        """Images as what came of this order."""
        columns = len(self.text) if self.text else min(len(images), _GRID_COLUMNS)
        return SampleResult(images, labels, seed, columns, drawn)
