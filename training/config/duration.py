"""The length of a training, or of the time between two events, in seconds, epochs or images."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|epochs?|images?)?\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Duration:
    """Length of training in seconds, epochs or images."""

    value: float
    unit: Literal["seconds", "epochs", "images"]

    @staticmethod
    def parse(text: object) -> "Duration":
        """Parses "120s", "15m", "1h", "10 epochs" or "600000 images"; a bare number counts images.

        Raises:
            ValueError: the text has another form, or the number is zero.
        """
        match = _DURATION.fullmatch(str(text))
        if match is None or float(match[1]) <= 0:
            raise ValueError("expected a duration above zero such as '120s', '15m', '10 epochs' or '600000 images'")
        value, unit = float(match[1]), match[2] or "images"
        if unit in _SECONDS:
            return Duration(value * _SECONDS[unit], "seconds")
        return Duration(value, "epochs" if unit.startswith("epoch") else "images")

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value}s" if self.unit == "seconds" else f"{value} {self.unit}"

    def images(self, epoch_images: int, images_per_second: float | None = None) -> int:
        """Converts the duration to a number of images, 1 or more; seconds need `images_per_second`."""
        factor = {"seconds": images_per_second, "epochs": epoch_images, "images": 1}[self.unit]
        assert factor is not None, "a duration in seconds needs a measured rate"
        return max(1, round(self.value * factor))


DurationSetting = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]
