"""The number format of the passes: fp32, or bf16 and fp16 with fp32's sums, and why.

Weights, optimizers, averages and losses are fp32 always. Gradient penalties are bf16 where they come by `piecewise.py`,
whose passes are products of two such numbers like any other; by double backward, and under fp16, they are fp32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ganctl.training.config.schema import Config
from ganctl.training.errors import ConfigError

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A number format on a kind of device, and the reason for it."""

    name: str
    device_type: str
    reason: str

    def autocast(self, *, enabled: bool = True) -> AbstractContextManager[None]:
        """Passes within run in this format; with `enabled=False` in fp32."""
        enabled = enabled and self.name != "fp32"
        if not enabled and not torch.is_autocast_enabled(self.device_type):
            return nullcontext()  # to switch off what is off takes 30 µs
        return torch.autocast(self.device_type, dtype=self._autocast_type, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps fp16's gradients from vanishing; does nothing in the other formats, whose exponents are fp32's."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")

    @property
    def of_passes(self) -> torch.dtype | None:
        """The format of passes without autocast; None: the parameters'."""
        return None if self.name == "fp32" else _TYPES[self.name]

    @property
    def of_penalties(self) -> torch.dtype | None:
        """The format of penalties without double backward; None: the parameters'. bf16 has fp32's exponents, while
        gradients of gradients may leave fp16's."""
        return torch.bfloat16 if self.name == "bf16" else None

    @property
    def _autocast_type(self) -> torch.dtype:
        return torch.bfloat16 if self.name == "fp32" else _TYPES[self.name]


def check_precision(config: Config, device: torch.device) -> None:
    """Refuses a format that the device does not have.

    Raises:
        ConfigError: the device cannot do what was asked for.
    """
    asked = config.train.precision
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError(
            ["train.precision = 'fp16': a CPU has no fp16 worth training with; use 'bf16', 'fp32' or 'auto'."]
        )
    if asked == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            ["train.precision = 'bf16': this GPU has no bf16 (it came with Ampere); use 'fp16', 'fp32' or 'auto'."]
        )


def choose_precision(config: Config, device: torch.device, *, fastest_on_cpu: Callable[[], Precision]) -> Precision:
    """The format that `train.precision` means on this device; `auto` takes the fastest sound one.

    Args:
        fastest_on_cpu: times steps on this CPU; called where `auto` is to decide for one.

    Raises:
        ConfigError: the device cannot do what was asked for.
    """
    check_precision(config, device)
    if config.train.precision != "auto":
        return Precision(config.train.precision, device.type, "asked for")
    return _fastest_on_cuda(device) if device.type == "cuda" else fastest_on_cpu()


def set_tf32(allowed: bool) -> None:
    """Lets fp32 products on CUDA round their factors to 10 bits of mantissa (TF32, from Ampere on), or not."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _fastest_on_cuda(device: torch.device) -> Precision:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("bf16", "cuda", "the GPU multiplies bf16 in hardware, and bf16 needs no loss scaling")
    if torch.cuda.get_device_capability(device) >= (7, 0):
        return Precision("fp16", "cuda", "the GPU has fp16 in hardware and no bf16")
    return Precision("fp32", "cuda", "the GPU has neither bf16 nor fast fp16")
