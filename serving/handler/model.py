"""The generator's interface, read from the export's manifest, and the limits of a request."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from .common.manifest import check_manifest
from .common.text import nfc

DEFAULT_NAME = "digits"


@dataclass(frozen=True)
class Limits:
    """The largest request that is answered; set in the section `handler` of the archive's model-config.yaml."""

    max_count: int = 256
    max_text: int = 64
    max_frames: int = 256
    max_scale: int = 16
    max_values: int = 1 << 22  # a request's images × channels × height × width, before enlarging
    max_pixels: int = 1 << 24  # a request's pixels after enlarging
    max_batch: int = 4  # work and reply bytes of a batch, in units of the largest request
    max_body: int = 65_536  # bytes
    max_reply: int = 6_500_000  # bytes; above TorchServe's own limit (default 6,553,500) a reply would become a 500

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Limits":
        """Read the limits in `config`; absent ones keep their defaults.

        Raises:
            ValueError: a limit is not a positive integer.
        """
        limits = {limit.name: config[limit.name] for limit in fields(cls) if limit.name in config}
        for name, value in limits.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: must be a positive integer, found {value!r}")
        return cls(**limits)


@dataclass(frozen=True)
class Model:
    """A generator's interface. `class_names` are in NFC; they are empty for an unconditional model."""

    version: str
    latent_dim: int
    class_names: tuple[str, ...]
    channels: int
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)
    license: str = ""  # of the training images
    attribution: str = ""
    name: str = DEFAULT_NAME  # in the paths of the service; letters, digits, - and _

    @property
    def conditional(self) -> bool:
        return bool(self.class_names)

    @cached_property
    def _label_by_name(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names)}

    @cached_property
    def _max_nfd_length(self) -> int:
        return max((len(unicodedata.normalize("NFD", name)) for name in self.class_names), default=0)

    def label_of(self, name: str) -> int | None:
        """The label with this name, in any canonically equivalent Unicode form; None if there is none."""
        label = self._label_by_name.get(name)
        if label is None and not name.isascii() and len(name) <= self._max_nfd_length:  # NFD is the longest form
            label = self._label_by_name.get(nfc(name))
        return label

    @property
    def values(self) -> int:
        """Number of values in one image: channels × height × width."""
        return self.channels * self.height * self.width

    @property
    def max_count(self) -> int:
        """The largest `count` of a request: the limit of images or, for large images, of their values."""
        return max(1, min(self.limits.max_count, self.limits.max_values // self.values))

    @property
    def max_frames(self) -> int:
        """The largest `frames` of a request, as `max_count`."""
        return max(2, min(self.limits.max_frames, self.limits.max_values // self.values))

    @classmethod
    def from_manifest(cls, manifest: object, limits: Limits | None = None, name: str = DEFAULT_NAME) -> "Model":
        """Read an export's manifest.

        Args:
            manifest: the parsed JSON.
            limits: of a request; None for the defaults.
            name: of the model in the paths of the service.

        Raises:
            ValueError: a field is invalid; the message names it.
        """
        facts = check_manifest(manifest)
        return cls(
            version=facts["model_version"],
            latent_dim=facts["z"]["dim"],
            class_names=tuple(map(nfc, facts["class_names"])) if facts["conditional"] else (),
            channels=facts["image"]["channels"],
            height=facts["image"]["height"],
            width=facts["image"]["width"],
            license=facts.get("license") or "",
            attribution=facts.get("attribution") or "",
            limits=limits or Limits(),
            name=name,
        )
