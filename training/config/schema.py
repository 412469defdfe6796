"""Every setting of a training run: its name, type, default and meaning. What sets them is in `settings.py`.

The models are frozen: a run's configuration never changes while it runs, and is stored whole in its checkpoints.
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

Share = Annotated[float, Field(ge=0, le=1)]


def absolute_path(path: Path) -> Path:
    """The path without `~` or `~user`, from the root.

    Raises:
        ValueError: that home, or the current folder, is unknown; or no path can have this text.
    """
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"the home folder of {path.parts[0]} is unknown. Give the whole path, from /") from error
    except FileNotFoundError as error:
        raise ValueError("it is relative, and the current folder was deleted. Give the whole path, from /") from error


AbsolutePath = Annotated[Path, AfterValidator(absolute_path)]
NonNegative = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]

_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|epochs?|images?)?\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Duration(BaseModel):
    """A length of training: so many seconds, epochs or images."""

    model_config = ConfigDict(frozen=True)
    value: float
    unit: Literal["seconds", "epochs", "images"]

    @staticmethod
    def parse(text: object) -> "Duration":
        """Reads "120s", "15m", "1h", "10 epochs" or "600000 images" (a bare number counts images)."""
        if isinstance(text, Duration):
            return text
        found = _SPAN.fullmatch(str(text))
        if found is None or float(found[1]) <= 0:
            raise ValueError("expected a length above zero such as '120s', '15m', '10 epochs' or '600000 images'")
        value, unit = float(found[1]), found[2] or "images"
        if unit in _SECONDS:
            return Duration(value=value * _SECONDS[unit], unit="seconds")
        return Duration(value=value, unit="epochs" if unit.startswith("epoch") else "images")

    def __str__(self) -> str:
        value = int(self.value) if self.value == int(self.value) else self.value
        return f"{value}s" if self.unit == "seconds" else f"{value} {self.unit}"

    def images(self, epoch_images: int, images_per_second: float | None = None) -> int:
        """The span as a number of images; a time needs the measured rate."""
        if self.unit == "seconds":
            assert images_per_second is not None, "a time becomes images only once the rate is measured"
            return max(1, round(self.value * images_per_second))
        return max(1, round(self.value * (epoch_images if self.unit == "epochs" else 1)))


Length = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class DataSettings(Section):
    """What is learnt from."""

    name: str = Field(
        "mnist", description="mnist, fashion-mnist, kmnist, folder (class folders of images), module:Name"
    )
    root: AbsolutePath | None = Field(
        None,
        strict=False,
        description="folder of its files; unset: PATH_DATASETS, else the embedded MNIST or the user's cache",
    )
    size: Annotated[int, Field(ge=28, le=64, multiple_of=4)] = Field(28, description="folder: pixels of a side")
    channels: Literal["auto", 1, 3] = Field("auto", description="folder: 1 grey, 3 colour; auto: as the images are")
    skip_corrupt: bool = Field(
        False, description="folder: leave out files that cannot be read, instead of refusing all"
    )
    num_workers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="processes that read images where a loader is used; unset: half the cores"
    )
    on_device: Literal["auto"] | bool = Field(
        "auto", description="whether the images live on the device; auto: if they take less than half its free memory"
    )


class ModelSettings(Section):
    """The two networks."""

    generator: str = Field("conv", description="conv: DCGAN-like; mlp: the Lightning tutorial's; or module:Name")
    discriminator: str = Field("conv", description="conv: strided; mlp: the tutorial's; or module:Name")
    latent_dim: PositiveInt = Field(64, description="length of the latent vector, drawn from a standard normal")
    base_channels: PositiveInt = Field(32, description="channels of the conv networks at half the images' resolution")
    generator_base_channels: PositiveInt | None = Field(
        None, description="the same, of the generator alone; unset: as model.base_channels"
    )
    conditional: bool = Field(True, description="whether both networks see the label")
    conditioning: Literal["auto", "projection", "embedding"] = Field(
        "auto", description="how the discriminator sees it; auto: projection for conv, embedding for mlp"
    )
    spectral_norm: bool = Field(False, description="whether the discriminator's layers are spectrally normalised")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="a table of what a network of one's own wants to know"
    )


class LossSettings(Section):
    """What the networks are trained towards."""

    name: str = Field(
        "relativistic", description="relativistic, non-saturating, hinge, least-squares, wasserstein, or module:Name"
    )
    r1: NonNegative = Field(0.1, description="weight γ of the gradient penalty on real images")
    r2: NonNegative = Field(0.1, description="weight γ of the gradient penalty on generated images")
    classification: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the discriminator's loss in telling real images' classes; auto: 1 where it can",
    )
    classification_generator: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the generator's loss in images being read as their class; auto: a tenth of auxiliary",
    )
    latent_reconstruction: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the generator's loss in z being readable from its images; auto: 2 where it can be read",
    )
    feature_matching: NonNegative | Literal["auto"] = Field(
        "auto",
        description="weight of the generator's loss in means and variances of features; auto: 2 where it can be had",
    )
    rare_weight: NonNegative | Literal["auto"] = Field(
        "auto",
        description="how much more rare images count: the power of their squared distance from their class's mean, as"
        " the features of `matching` tell it; 0: all alike; auto: 1 where features are matched",
    )
    wgan_gp: NonNegative = Field(0.0, description="weight λ of WGAN-GP's penalty between real and generated images")
    penalty_final_factor: NonNegative = Field(1.0, description="factor of the penalties at the end of the duration")

    @property
    def penalised(self) -> bool:
        """Whether the discriminator's update differentiates a gradient."""
        return self.r1 > 0 or self.r2 > 0 or self.wgan_gp > 0


class OptimizerSettings(Section):
    """Adam, for both networks."""

    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="learning rate")
    lr_discriminator: Annotated[float, Field(gt=0)] | None = Field(None, description="the discriminator's; unset: lr")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Adam's β₁")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="Adam's β₂")
    eps: Annotated[float, Field(gt=0)] = Field(1e-8, description="Adam's ε")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="how it falls until the duration")
    min_lr_ratio: Share = Field(0.1, description="share of the learning rate that is left at the end of the duration")
    lr_by_fan_in: bool = Field(
        True, description="whether the generator's layers of fewer inputs learn faster: lr · √(512 / inputs)"
    )
    grad_clip_ratio: NonNegative = Field(
        1.5, description="gradients of a layer beyond so many times their running norm are cut to it; 0: none"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="images over which the learning rate rises from 0")
    decay_start: Share = Field(0.2, description="share of the duration after which the decays (lr, penalties) begin")
    decay_end: Share = Field(1.0, description="share of the duration at which they end; from there on nothing changes")


class TrainSettings(Section):
    """How long and in which steps."""

    duration: Length = Field(
        Duration(value=10, unit="epochs"),
        description="length of the run; schedules follow it: '10 epochs', '120s', images",
    )
    batch_size: PositiveInt | Literal["auto"] = Field(
        64, description="images per step over all ranks; auto: 256 on CUDA, 64 on a CPU, as the tutorial"
    )
    first_update: Literal["discriminator", "generator"] = Field(
        "discriminator", description="the network updated first"
    )
    reuse_fakes: bool = Field(
        True, description="whether both updates of a step see the same generated images (a pass less), or fresh ones"
    )
    n_critic: PositiveInt = Field(1, description="updates of the discriminator for one of the generator")
    latent_std: Annotated[float, Field(gt=0)] = Field(
        1.0, description="standard deviation of z in training; images are drawn with 1, so wider where this is less"
    )
    ema_decay: Share = Field(0.999, description="decay per step of the averaged generator that is scored and exported")
    seed: Annotated[int, Field(ge=0, lt=2**53)] = Field(0, description="seed of everything random")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a device")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="number format of the passes; auto: the fastest sound one (on a CPU by timing a few steps)"
    )
    cuda_graph: Literal["auto"] | bool = Field(
        "auto", description="whether a step on CUDA is captured and replayed; auto: where it is known to be possible"
    )
    tf32: bool = Field(
        False, description="whether fp32 products on CUDA, the penalties' too, may round their factors to TF32"
    )
    init_from: AbsolutePath | None = Field(
        None, strict=False, description="run or checkpoint whose networks the run begins with"
    )


class EvaluationSettings(Section):
    """The scoring on the validation split while training."""

    every: Length = Field(Duration(value=2, unit="epochs"), description="training between two evaluations")
    num_images: Annotated[int, Field(ge=100, le=5000)] = Field(5000, description="images compared, real and generated")


def _check_filename(template: str) -> str:
    """A template that needs `step` (two checkpoints must not share a name) and stays in its folder."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"no template: {error}") from error
    if "step" not in fields:
        raise ValueError("expected {step} in it, as in 'step-{step:08d}'")
    if any(not name.isidentifier() for name in fields):
        raise ValueError("expected plain names in braces, as in '{step:08d}-{fd:.2f}'")
    try:
        known = dict.fromkeys(fields, 0.5) | {"images": 1}
        names = {template.format(**known | {"step": step}) for step in (1, 123456, 123457)}
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"it cannot be filled in: {error}; formats look as in '{{step:08d}}-{{fd:.2f}}'") from error
    if len(names) < 3:
        raise ValueError("two steps would share a name; give {step} all its digits")
    if "/" in template or template.startswith(("last", "best", ".")):
        raise ValueError("expected a file's name without '/', other than last… and best…")
    return template


class CheckpointSettings(Section):
    """What of a run is kept."""

    monitor: str = Field("fd", description="the score that decides which checkpoint is best")
    mode: Literal["auto", "min", "max"] = Field("auto", description="whether less or more of it is better")
    monitor_threshold: float | None = Field(
        None, description="a score beyond which more is no better: of the checkpoints that reach it the latest is best"
    )
    save_top_k: PositiveInt = Field(2, description="how many of the best checkpoints stay, beside `last`")
    save_last: bool = Field(True, description="whether a complete run keeps `last` and the one before it")
    every: Length | None = Field(None, description="training between two saves beside those of the evaluations")
    filename: Annotated[str, AfterValidator(_check_filename)] = Field(
        "step-{step:08d}", description="name of a checkpoint: {step}, {images} and scores, as in {step}-fd={fd:.2f}"
    )


class EarlyStoppingSettings(Section):
    """When to stop before the duration."""

    monitor: str = Field("fd", description="the score that is watched")
    mode: Literal["auto", "min", "max"] = Field("auto", description="whether less or more of it is better")
    patience: Annotated[int, Field(ge=0)] = Field(0, description="evaluations without improvement; 0: never stop early")
    min_delta: NonNegative = Field(0.0, description="the least change that counts as an improvement")
    stopping_threshold: float | None = Field(
        None, description="the score at which the run has what was wanted; unset: never"
    )


class LogSettings(Section):
    """What is written down on the way."""

    every: PositiveInt = Field(100, description="steps between two readings of the losses")
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")
    refresh: Annotated[float, Field(gt=0)] = Field(0.5, description="seconds between two updates of the progress bar")
    profile: bool = Field(False, description="write a trace of some steps for TensorBoard and Perfetto")
    root: AbsolutePath | None = Field(None, strict=False, description="folder of the numbered runs; unset: runs")
    name: Annotated[str, Field(pattern=r"^[\w.+=-]+$")] | None = Field(
        None, description="name of a numbered run; unset: preset and data set"
    )


def sign_of(monitor: str, mode: str) -> int:
    """1 where less of a score is better, −1 where more of it is."""
    less = mode == "min" or (mode == "auto" and monitor in ("fd", "fd_ratio"))
    return 1 if less else -1


def finite(score: float | None) -> float | None:
    """A monitored score, or None where it has no meaning (None, NaN or infinite)."""
    return float(score) if score is not None and math.isfinite(score) else None


class Config(Section):
    """All settings of a run."""

    preset: str = Field("conv", description="the preset that the settings started from")
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
        """Every setting as `section.key` → plain value (paths and lengths as text, None where unset)."""
        values: dict[str, Any] = {}
        for section, content in self.model_dump(mode="json").items():
            if isinstance(content, dict):
                values |= {f"{section}.{key}": value for key, value in content.items()}
        return values


def _settings() -> Iterator[tuple[str, FieldInfo]]:
    for section, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for key, setting in field.annotation.model_fields.items():
                yield f"{section}.{key}", setting


def setting_names() -> Iterator[tuple[str, str]]:
    """Every `section.key` with its meaning, in the order of declaration."""
    return ((name, setting.description or "") for name, setting in _settings())


@cache
def text_settings() -> frozenset[str]:
    """Settings that hold a text or a path and nothing else, be it one such as 2024."""
    return frozenset(name for name, setting in _settings() if _kinds(setting.annotation) <= {str, Path, NoneType})


def _kinds(annotation: Any) -> set[Any]:
    """The types that a setting may have, whatever is noted beside them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}
