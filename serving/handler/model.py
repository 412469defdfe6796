"""What a handler knows of its model: the essentials of the export's manifest, and the limits of a request."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .common.text import nfc

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Limits:
    """The largest request that is answered; set under `handler` in the archive's model-config.yaml."""

    max_count: int = 256
    max_text: int = 64
    max_frames: int = 256
    max_scale: int = 16
    max_values: int = 1 << 22  # what a request may draw: images × channels × height × width
    max_pixels: int = 1 << 24  # what a request may encode: pixels after enlargement
    max_batch: int = 4  # what a batch may draw, encode and reply: as much as so many of the largest requests
    max_body: int = 65_536  # bytes
    max_reply: int = 6_500_000  # bytes; above TorchServe's own limit (6,553,500 by default) a reply would become a 500

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Limits":
        """Reads the limits that `config` names. ValueError where one is no positive integer."""
        given = {each.name: config[each.name] for each in fields(cls) if each.name in config}
        for name, value in given.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: must be a positive integer, found {value!r}")
        return cls(**given)


@dataclass(frozen=True)
class Model:
    """A generator's interface. `class_names` are in NFC; empty where it is unconditional."""

    version: str
    latent_dim: int
    class_names: tuple[str, ...]
    channels: int
    height: int
    width: int
    limits: Limits = field(default_factory=Limits)

    @property
    def conditional(self) -> bool:
        return bool(self.class_names)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    @cached_property
    def _longest(self) -> int:
        return max((len(unicodedata.normalize("NFD", name)) for name in self.class_names), default=0)

    def number(self, name: str) -> int | None:
        """The label of that name, in any canonically equivalent form; None where there is none."""
        found = self._numbers.get(name)
        if found is None and not name.isascii() and len(name) <= self._longest:  # no form is longer than the decomposed
            found = self._numbers.get(nfc(name))
        return found

    @property
    def values(self) -> int:
        """Numbers in one image."""
        return self.channels * self.height * self.width

    @classmethod
    def from_manifest(cls, manifest: object, limits: Limits | None = None) -> "Model":
        """Reads a manifest, and raises ValueError naming the field that is not as it should be."""
        if not isinstance(manifest, dict):
            raise ValueError(f"the manifest must be a JSON object, found {type(manifest).__name__}")  # noqa: TRY004
        writer = manifest.get("ganctl_version", "before 0.2.0")
        _expect(
            manifest,
            "schema_version",
            lambda v: v == SCHEMA_VERSION,
            f"{SCHEMA_VERSION}, all that this code reads (ganctl {writer} wrote the manifest)",
        )
        _expect(manifest, "model_version", lambda v: isinstance(v, str) and v.isalnum(), "a word of hexadecimal digits")
        _expect(manifest, "conditional", lambda v: isinstance(v, bool), "true or false")
        _expect(manifest, "z.dim", _positive, "a positive integer")
        _expect(manifest, "z.distribution", lambda v: v == "normal", '"normal"')
        _expect(manifest, "image.channels", lambda v: v in (1, 3), "1 (grey) or 3 (RGB)")
        _expect(manifest, "image.height", _positive, "a positive integer")
        _expect(manifest, "image.width", _positive, "a positive integer")
        conditional = manifest["conditional"]
        inputs = ["z", "label"] if conditional else ["z"]
        _expect(manifest, "inputs", lambda v: v == inputs, f"{json.dumps(inputs)}, as conditional is {conditional}")
        if conditional:
            _expect(manifest, "class_names", _names, "a list of names, one for each label and different in NFC")
        image = manifest["image"]
        return cls(
            version=manifest["model_version"],
            latent_dim=manifest["z"]["dim"],
            class_names=tuple(map(nfc, manifest["class_names"])) if conditional else (),
            channels=image["channels"],
            height=image["height"],
            width=image["width"],
            limits=limits or Limits(),
        )

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "Model":
        """Reads `manifest.json` in an unpacked archive's folder, with the limits of its config."""
        manifest = json.loads((folder / "manifest.json").read_bytes())
        return cls.from_manifest(manifest, Limits.from_config(config))


def _positive(value: object) -> bool:
    return type(value) is int and value > 0


def _names(value: object) -> bool:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        return False
    return 0 < len(value) == len(set(map(nfc, value)))


def _expect(manifest: Mapping[str, Any], path: str, good: Any, expected: str) -> None:
    value: Any = manifest
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not good(value):
        raise ValueError(f"{path}: must be {expected}; found {json.dumps(value, default=str)[:80]}")
