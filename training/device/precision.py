"""The number format of forward and backward passes: fp32, or bf16 or fp16 with fp32 accumulation.

Weights, optimizers, the EMA and losses are always fp32. Under bf16, gradient penalties are bf16 with the analytic
backend and fp32 with double backward. Under fp16 they are always fp32.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from ganctl.training.config.schema import Config
from ganctl.training.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A number format for a device type, and the reason for the choice."""

    name: str
    device_type: str
    reason: str

    def autocast(self, *, enabled: bool = True) -> AbstractContextManager[None]:
        """Returns a context whose passes run in this format; in fp32 if `enabled` is False."""
        enabled = enabled and self.pass_dtype is not None
        if not enabled and not torch.is_autocast_enabled(self.device_type):
            return nullcontext()  # disabling autocast that is not active would cost 30 µs
        return torch.autocast(self.device_type, dtype=self.pass_dtype, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """Returns a gradient scaler against underflow; enabled for fp16 only, whose exponent has fewer bits."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")

    @property
    def pass_dtype(self) -> torch.dtype | None:
        """The dtype of passes without autocast; None for the parameters' dtype."""
        return _DTYPES.get(self.name)

    @property
    def penalty_dtype(self) -> torch.dtype | None:
        """The dtype of analytic gradient penalties; None for the parameters' dtype.

        The range of fp16 is too small for second derivatives.
        """
        return torch.bfloat16 if self.name == "bf16" else None


def check_precision(config: Config, device: torch.device) -> None:
    """Checks that the device supports `train.precision`.

    Raises:
        ConfigError: it does not.
    """
    setting, fault = config.train.precision, None
    if setting == "fp16" and device.type == "cpu":
        fault = "CPUs have no fast fp16, expected a GPU"
    if setting == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        fault = "this GPU has no bf16, expected Ampere or newer"
    if fault:
        raise ConfigError([f"train.precision = '{setting}': {fault}. Set it to 'auto', or to another format."])


def choose_precision(config: Config, device: torch.device, *, fastest_on_cpu: Callable[[], Precision]) -> Precision:
    """Returns the format of `train.precision` on this device; `auto` means the fastest one that trains reliably.

    Args:
        config: the settings.
        device: the device of training.
        fastest_on_cpu: times steps on this CPU; called only for `auto` on a CPU.

    Raises:
        ConfigError: the device does not support the format.
    """
    check_precision(config, device)
    if config.train.precision != "auto":
        return Precision(config.train.precision, device.type, "set by train.precision")
    return _fastest_on_cuda(device) if device.type == "cuda" else fastest_on_cpu()


def set_tf32(allowed: bool) -> None:
    """Sets whether fp32 products on CUDA may use TF32, which rounds factors to 10 mantissa bits (Ampere and newer)."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def _fastest_on_cuda(device: torch.device) -> Precision:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("bf16", "cuda", "the GPU multiplies bf16 in hardware, and bf16 needs no loss scaling")
    if torch.cuda.get_device_capability(device) >= (7, 0):
        return Precision("fp16", "cuda", "the GPU has fp16 in hardware and no bf16")
    return Precision("fp32", "cuda", "the GPU has neither bf16 nor fast fp16")
