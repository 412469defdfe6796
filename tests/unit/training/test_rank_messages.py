"""The table of docs/ranks.md: its messages are those of a step, and its efficiencies follow from its formula."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ganctl.training.config.resolve import resolve
from ganctl.training.distributed.ranks import Ranks
from ganctl.training.models.base import ImageShape
from ganctl.training.models.build import build_discriminator, build_generator
from ganctl.training.step.step import Step

DOCUMENT = Path(__file__).parents[3] / "docs/ranks.md"
ROW = re.compile(
    r"\| `(?P<preset>[\w-]+)`(, (?P<pixels>\d+) px)? \| (?P<images>[\d,]+) \| (?P<step>[\d.]+)( \(estimated\))? "
    r"\| (?P<count>\d+) \| (?P<reduced>[\d.]+) \| (?P<of_8>[\d.]+) \| (?P<of_64>[\d.]+) \|"
)
LINK, START = {8: 300.0, 64: 45.0}, {8: 0.03, 64: 0.15}  # bytes per ns; ms


@dataclass(frozen=True)
class Counting(Ranks):
    """One of several ranks, without the others: counts its messages and their bytes."""

    reduced: list[int] = field(default_factory=list)
    gathered: list[int] = field(default_factory=list)

    def all_reduce_mean(self, tensors: Sequence[Tensor]) -> None:
        self.reduced.append(sum(tensor.nbytes for tensor in tensors))

    def all_gather(self, x: Tensor) -> Tensor:
        self.gathered.append(x.nbytes)
        return torch.stack([x] * self.size)


@dataclass(frozen=True)
class Messages:
    """Messages of a rank in one step; `gathered` are the features of its images for the energy distance."""

    count: int
    reduced: float  # MB
    gathered: float  # MB
    normalizations: int  # layers with batch normalization


def count(preset: str, pixels: int | None, images: int) -> Messages:
    shape = ImageShape(1, 28, 28) if pixels is None else ImageShape(3, pixels, pixels)
    config, _ = resolve(preset=preset, environment={})
    ranks, n = Counting(0, 8), 2
    networks = build_generator(config.model, shape, 10), build_discriminator(config.model, shape, 10)
    normalizations = sum(isinstance(module, _BatchNorm) for network in networks for module in network.modules())
    step = Step(config, *networks, torch.device("cpu"), ranks=ranks)
    step(torch.zeros(n, *shape, dtype=torch.uint8), torch.arange(n), step=0, progress=0.0)
    features = max(ranks.gathered, default=0) * images // n if preset == "residual" else 0
    messages = len(ranks.reduced) + len(ranks.gathered)
    return Messages(messages, sum(ranks.reduced) / 1e6, features / 1e6, normalizations)


def efficiency(step: float, ranks: int, messages: Messages) -> float:
    """The formula of docs/ranks.md; `step` in ms."""
    link = LINK[ranks]
    sending = messages.count * START[ranks]
    sending += 2 * (ranks - 1) / ranks * messages.reduced / link + (ranks - 1) * messages.gathered / link
    kernels = 0.004 * (4 + 7 * messages.normalizations) + 4 * messages.reduced / 4000
    return step / (step + sending + kernels)


def rows() -> list[dict[str, Any]]:
    found = [match.groupdict() for match in ROW.finditer(DOCUMENT.read_text(encoding="utf-8"))]
    assert len(found) == 10, "the table has another form"
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['preset']}, {row['pixels']} px, {row['images']} images")
def test_messages_and_efficiencies_of_the_table(row: dict[str, Any]) -> None:
    messages = count(row["preset"], int(row["pixels"]) if row["pixels"] else None, int(row["images"].replace(",", "")))
    assert int(row["count"]) == messages.count
    assert float(row["reduced"]) == pytest.approx(messages.reduced, abs=0.051)
    for ranks in (8, 64):
        expected = efficiency(float(row["step"]), ranks, messages)
        assert float(row[f"of_{ranks}"]) == pytest.approx(expected, abs=0.0051), f"{ranks} ranks"
