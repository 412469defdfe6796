"""Schema of all settings of a training run: names, types, defaults and descriptions.

The models are frozen: a configuration does not change during a run, and each checkpoint stores all of it.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Formatter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0, le=1)]


def absolute_path(path: Path) -> Path:
    """Expands `~` and `~user` and makes the path absolute.

    Raises:
        ValueError: the home folder or the current folder is unknown, or the path holds a NUL character.
    """
    if "\0" in str(path):
        raise ValueError("found a NUL character, expected a path without one. Remove it")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"the home folder of {path.parts[0]} is unknown. Give an absolute path") from error
    except FileNotFoundError as error:
        raise ValueError("the path is relative, and the current folder was deleted. Give an absolute path") from error


AbsolutePath = Annotated[Path, AfterValidator(absolute_path)]
NonNegative = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|epochs?|images?)?\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Duration(BaseModel):
    """Length of training in seconds, epochs or images."""

    model_config = ConfigDict(frozen=True)
    value: float
    unit: Literal["seconds", "epochs", "images"]

    @staticmethod
    def parse(text: object) -> "Duration":
        """Parses "120s", "15m", "1h", "10 epochs" or "600000 images"; a bare number counts images.

        Raises:
            ValueError: the text has another form, or the number is zero.
        """
        if isinstance(text, Duration):
            return text
        match = _DURATION.fullmatch(str(text))
        if match is None or float(match[1]) <= 0:
            raise ValueError("expected a duration above zero such as '120s', '15m', '10 epochs' or '600000 images'")
        value, unit = float(match[1]), match[2] or "images"
        if unit in _SECONDS:
            return Duration(value=value * _SECONDS[unit], unit="seconds")
        return Duration(value=value, unit="epochs" if unit.startswith("epoch") else "images")

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value}s" if self.unit == "seconds" else f"{value} {self.unit}"

    def images(self, epoch_images: int, images_per_second: float | None = None) -> int:
        """Converts the duration to a number of images, 1 or more; seconds need `images_per_second`."""
        if self.unit == "seconds":
            assert images_per_second is not None, "a duration in seconds needs a measured rate"
            return max(1, round(self.value * images_per_second))
        return max(1, round(self.value * (epoch_images if self.unit == "epochs" else 1)))


DurationSetting = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]


class Section(BaseModel):
    """Frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataSettings(Section):
    """Data set, image format and loading."""

    name: str = Field(
        "mnist", description="mnist, fashion-mnist, kmnist, folder (class folders of images), module:Name"
    )
    root: AbsolutePath | None = Field(
        None,
        strict=False,
        description="folder of the data set's files; unset: PATH_DATASETS, else the embedded MNIST or the user's cache",
    )
    size: Annotated[int, Field(ge=28, le=64, multiple_of=4)] = Field(
        28, description="folder: height and width of the images in pixels"
    )
    channels: Literal["auto", 1, 3] = Field("auto", description="folder: 1 gray, 3 color; auto: as the images are")
    skip_corrupt: bool = Field(False, description="folder: skip files that cannot be read; off: they are an error")
    num_workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="processes that decode or load images; unset: half the cores"
    )
    on_device: Literal["auto"] | bool = Field(
        "auto", description="keep the images in device memory; auto: if they take at most half of the free memory"
    )


class ModelSettings(Section):
    """Generator and discriminator."""

    generator: str = Field("conv", description="conv: similar to DCGAN; mlp: the Lightning tutorial's; or module:Name")
    discriminator: str = Field("conv", description="conv: strided convolutions; mlp: the tutorial's; or module:Name")
    latent_dim: PositiveInt = Field(64, description="length of the latent vector, sampled from a standard normal")
    base_channels: PositiveInt = Field(32, description="channels of the conv networks at half the image resolution")
    generator_base_channels: PositiveInt | None = Field(
        None, description="the same for the generator alone; unset: model.base_channels"
    )
    conditional: bool = Field(True, description="give the class label to both networks")
    conditioning: Literal["auto", "projection", "embedding"] = Field(
        "auto", description="label input of the discriminator; auto: projection for conv, embedding for mlp"
    )
    spectral_norm: bool = Field(False, description="apply spectral normalization to the discriminator's layers")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="table of options for a custom network"
    )


class LossSettings(Section):
    """Loss terms and their weights."""

    name: str = Field(
        "relativistic", description="relativistic, non-saturating, hinge, least-squares, wasserstein, or module:Name"
    )
    r1: NonNegative = Field(0.1, description="weight γ of the gradient penalty on real images")
    r2: NonNegative = Field(0.1, description="weight γ of the gradient penalty on generated images")
    classification: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the discriminator's classification loss on real images; auto: 1 if it has a class head",
    )
    classification_generator: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the classification loss on generated images; auto: a tenth of loss.classification",
    )
    latent_reconstruction: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the loss of reconstructing z from generated images; auto: 2 if the discriminator"
        " predicts z",
    )
    feature_matching: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the generator's loss on feature means and variances; auto: 2 if the discriminator gives"
        " features",
    )
    rare_weight: NonNegative | Literal["auto"] = Field(
        "auto",
        description="exponent of the sample weight: squared distance from the class mean in the features of"
        " feature_matching; 0: equal weights; auto: 1 with feature_matching",
    )
    wgan_gp: NonNegative = Field(0.0, description="weight λ of the WGAN-GP penalty between real and generated images")
    penalty_final_factor: NonNegative = Field(
        1.0, description="factor of the penalty weights at the end of the duration"
    )

    @property
    def has_gradient_penalty(self) -> bool:
        """True if the discriminator's loss contains a gradient norm."""
        return self.r1 > 0 or self.r2 > 0 or self.wgan_gp > 0


class OptimizerSettings(Section):
    """Adam for both networks, and the learning rate schedule."""

    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="learning rate")
    lr_discriminator: Annotated[float, Field(gt=0)] | None = Field(
        None, description="learning rate of the discriminator; unset: optimizer.lr"
    )
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Adam's β₁")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="Adam's β₂")
    eps: Annotated[float, Field(gt=0)] = Field(1e-8, description="Adam's ε")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="decay of the learning rate")
    min_lr_ratio: Fraction = Field(0.1, description="final learning rate as a fraction of optimizer.lr")
    lr_by_fan_in: bool = Field(
        True, description="scale the learning rate of each generator layer: lr · √(512 / fan-in)"
    )
    grad_clip_ratio: NonNegative = Field(
        1.5, description="clip a layer's gradient norm to this multiple of its running RMS; 0: no clipping"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="images over which the learning rate rises from 0")
    decay_start: Fraction = Field(
        0.2, description="fraction of the duration at which the learning rate and the penalties begin to change"
    )
    decay_end: Fraction = Field(1.0, description="fraction of the duration at which they reach their final values")


class TrainSettings(Section):
    """Duration, batches, latents, precision and device."""

    duration: DurationSetting = Field(
        Duration(value=10, unit="epochs"),
        description="length of the run and of its schedules: '10 epochs', '120s', '600000 images'",
    )
    batch_size: PositiveInt | Literal["auto"] = Field(
        64, description="images per step over all ranks; auto: 256 on CUDA, 64 on a CPU, as in the tutorial"
    )
    first_update: Literal["discriminator", "generator"] = Field(
        "discriminator", description="network that each step updates first"
    )
    reuse_fakes: bool = Field(
        True, description="use the same generated images in both updates of a step; off: generate new ones"
    )
    n_critic: PositiveInt = Field(1, description="discriminator updates per generator update")
    latent_std: Annotated[float, Field(gt=0)] = Field(
        1.0, description="standard deviation of z in training; sampling uses 1, so below 1 sampling varies more"
    )
    ema_decay: Fraction = Field(
        0.999, description="decay per step of the averaged generator, which is evaluated and exported"
    )
    seed: Annotated[int, Field(ge=0, lt=2**53)] = Field(0, description="seed of all random numbers")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if a device is present")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number format of the passes; auto: the fastest safe one (on a CPU by timing a few steps)"
    )
    cuda_graph: Literal["auto"] | bool = Field(
        "auto", description="capture a step on CUDA as a graph and replay it; auto: if all parts support it"
    )
    tf32: bool = Field(False, description="allow TF32 in fp32 matrix products on CUDA, also in the penalties")
    init_from: AbsolutePath | None = Field(
        None, strict=False, description="run or checkpoint that gives the initial weights of both networks"
    )


class EvaluationSettings(Section):
    """Evaluation on the validation split during training."""

    every: DurationSetting = Field(Duration(value=2, unit="epochs"), description="training between two evaluations")
    num_images: Annotated[int, Field(ge=100, le=5000)] = Field(5000, description="images compared, real and generated")


def _check_filename(template: str) -> str:
    """Checks a template of file names: it needs `step`, so that two checkpoints differ, and stays in its folder."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from error
    if "step" not in fields:
        raise ValueError("expected {step} in it, as in 'step-{step:08d}'")
    if any(not name.isidentifier() for name in fields):
        raise ValueError("expected plain names in braces, as in '{step:08d}-{fd:.2f}'")
    try:
        known = dict.fromkeys(fields, 0.5) | {"images": 1}
        names = {template.format(**known | {"step": step}) for step in (1, 123456, 123457)}
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"cannot format it: {error}; expected formats as in '{{step:08d}}-{{fd:.2f}}'") from error
    if len(names) < 3:
        raise ValueError("two steps would share a name. Give {step} all its digits")
    if "/" in template or template.startswith(("last", "best", ".")):
        raise ValueError("expected a file name without '/' that does not begin with last, best or a dot")
    return template


class CheckpointSettings(Section):
    """Checkpoints that a run saves and keeps."""

    monitor: str = Field("fd", description="score that selects the best checkpoint")
    mode: Literal["auto", "min", "max"] = Field(
        "auto", description="min: a lower score is better; max: a higher one; auto: by the score's name"
    )
    monitor_threshold: float | None = Field(
        None, description="a score that is good enough: of the checkpoints that reach it the latest is the best"
    )
    save_top_k: PositiveInt = Field(2, description="number of best checkpoints to keep in addition to `last`")
    save_last: bool = Field(True, description="keep `last` and the checkpoint before it when a run is complete")
    every: DurationSetting | None = Field(
        None, description="training between two checkpoints in addition to those of the evaluations"
    )
    filename: Annotated[str, AfterValidator(_check_filename)] = Field(
        "step-{step:08d}", description="name of a checkpoint: {step}, {images} and scores, as in {step}-fd={fd:.2f}"
    )


class EarlyStoppingSettings(Section):
    """Conditions that stop a run before its duration ends."""

    monitor: str = Field("fd", description="score that early stopping monitors")
    mode: Literal["auto", "min", "max"] = Field(
        "auto", description="min: a lower score is better; max: a higher one; auto: by the score's name"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="evaluations without improvement before the run stops; 0: never stop early"
    )
    min_delta: NonNegative = Field(0.0, description="smallest change that counts as an improvement")
    stopping_threshold: float | None = Field(None, description="score at which the run stops; unset: never")


class LogSettings(Section):
    """Logs, progress bar and the folder of the runs."""

    every: PositiveInt = Field(100, description="steps between two readings of the losses")
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")
    refresh: Annotated[float, Field(gt=0)] = Field(0.5, description="seconds between two updates of the progress bar")
    profile: bool = Field(False, description="write a trace of some steps for TensorBoard and Perfetto")
    root: AbsolutePath | None = Field(None, strict=False, description="folder of the numbered runs; unset: runs")
    name: Annotated[str, Field(pattern=r"^[\w.+=-]+$")] | None = Field(
        None, description="name of a numbered run; unset: preset and data set"
    )


def monitor_sign(monitor: str, mode: str) -> int:
    """Returns 1 if a lower score is better, -1 if a higher score is better."""
    minimize = mode == "min" or (mode == "auto" and monitor in ("fd", "fd_ratio"))
    return 1 if minimize else -1


def finite_or_none(score: float | None) -> float | None:
    """Returns a monitored score as float; None if it is None, NaN or infinite."""
    return float(score) if score is not None and math.isfinite(score) else None


class Config(Section):
    """All settings of a run."""

    preset: str = Field("conv", description="preset that the settings are based on")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    log: LogSettings = LogSettings()

    def flat(self) -> dict[str, Any]:
        """Returns `section.key` → JSON value of every setting (paths and durations as text, None if unset)."""
        values: dict[str, Any] = {}
        for section, content in self.model_dump(mode="json").items():
            if isinstance(content, dict):
                values |= {f"{section}.{key}": value for key, value in content.items()}
        return values


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key, setting in field.annotation.model_fields.items():
                yield f"{section}.{key}", setting


def setting_descriptions() -> Iterator[tuple[str, str]]:
    """Yields (`section.key`, description) of every setting, in the order of declaration."""
    return ((name, field.description or "") for name, field in _fields())


@cache
def text_settings() -> frozenset[str]:
    """Names of the settings that accept only text or a path, so that 2024 is text for them."""
    return frozenset(name for name, field in _fields() if _types(field.annotation) <= {str, Path, NoneType})


def _types(annotation: Any) -> set[Any]:
    """Types that an annotation accepts, without its metadata."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_types, get_args(annotation)))
    return {annotation}
