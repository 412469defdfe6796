"""Schema of all settings of a training run: names, types, defaults and descriptions.

The models are frozen: a configuration does not change during a run, and each checkpoint stores all of it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ganctl.training.config.duration import Duration, DurationSetting


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


AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(absolute_path)]  # text is accepted as well
Fraction = Annotated[float, Field(ge=0, le=1)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
AutoWeight = NonNegative | Literal["auto"]
Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Frozen group of settings that rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


MIN_SIZE, MAX_SIZE, SIZE_STEP = 16, 128, 4  # of images, in pixels
NAMED_DATA_SETS = ("mnist", "fashion-mnist", "kmnist")
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # module:Name


def absolute_source(text: str) -> str:
    """Makes the path of a data set absolute; leaves a name, `module:Name`, and other text unchanged."""
    if text in NAMED_DATA_SETS or not text.strip():
        return text
    looks_like_path = "/" in text or text.startswith(("~", "."))
    if not looks_like_path and (_OBJECT.fullmatch(text) or not os.path.lexists(text)):
        return text
    if text.startswith("~") and os.path.lexists(text):  # a folder of this name, as in `options.expand_home`
        return str(Path(text).absolute())
    return str(absolute_path(Path(text)))


REPLACED_BY_SOURCE = ("data.name", "data.root")  # settings of earlier versions


def replaced_by_source(old: Mapping[str, Any]) -> tuple[str, str]:
    """Explains that `data.source` has replaced `data.name` and `data.root`.

    Args:
        old: the values of one or both of them.

    Returns:
        The finding, and `data.source=…` with the same meaning, for a message.
    """
    given = {setting: old[setting] for setting in REPLACED_BY_SOURCE if old.get(setting) not in (None, "unset")} or old
    found = " and ".join(f"{setting} = {str(value)!r}" for setting, value in given.items())
    finding = f"{found}: data.source, a name or a path, has replaced {' and '.join(given)}"
    name, root = (given.get(setting) for setting in REPLACED_BY_SOURCE)
    if name in (None, "folder"):
        return finding, f"data.source={root or 'PATH'}"
    return finding, f"data.source={name}" + (f" and the variable PATH_DATASETS={root}" if root else "")


class DataSettings(Section):
    """Data set, image format and loading."""

    source: Annotated[str, AfterValidator(absolute_source)] = Field(
        "mnist", description="folder, archive or file of images; mnist, fashion-mnist, kmnist; or module:Name"
    )
    size: Literal["auto"] | Annotated[int, Field(ge=MIN_SIZE, le=MAX_SIZE, multiple_of=SIZE_STEP)] = Field(
        "auto", description="image side in pixels, 16 to 128 in steps of 4; auto: as the images are"
    )
    channels: Literal["auto", 1, 3, 4] = Field(
        "auto", description="1 gray, 3 color, 4 color and transparency; auto: as the images are"
    )
    fit: Literal["crop", "pad"] = Field("crop", description="make images square: crop the center, or pad the edges")
    balance: Fraction = Field(0.0, description="0: classes as frequent as in the data; 1: all classes equally frequent")
    skip_corrupt: bool = Field(False, description="skip files that cannot be read; off: they are an error")
    license: str | None = Field(
        None, description="license of the images, for the model card; unset: read from the data"
    )
    attribution: str | None = Field(None, description="authors of the images, for the model card; unset: none")
    num_workers: NonNegativeInt | None = Field(
        None, description="processes that read images; unset: one per core, in training half as many"
    )
    on_device: Literal["auto"] | bool = Field(
        "auto", description="keep the images in device memory; auto: if they take at most half of the free memory"
    )

    @property
    def is_path(self) -> bool:
        """True if the data set is a folder, an archive or a file."""
        return Path(self.source).is_absolute()

    @property
    def name(self) -> str:
        """Short name of the data set, for messages and file names: its own, or that of its folder or file."""
        if not self.is_path:
            return self.source.replace(":", ".")
        stem = re.sub(r"(\.(tar|gz|xz|bz2|tgz|txz|zip|npz|parquet))+$", "", Path(self.source).name)
        return re.sub(r"[^\w.+=-]+", "-", stem) or "images"


class ModelSettings(Section):
    """Generator and discriminator."""

    generator: str = Field(
        "conv", description="conv: like DCGAN; residual: residual blocks; mlp: the Lightning tutorial's; or module:Name"
    )
    discriminator: str = Field(
        "conv", description="conv: like DCGAN; projected: on pretrained features; mlp: the tutorial's; or module:Name"
    )
    latent_dim: PositiveInt = Field(64, description="length of the latent vector, sampled from a standard normal")
    base_channels: PositiveInt = Field(
        32, description="channels of conv and residual networks at half the image resolution"
    )
    generator_base_channels: PositiveInt | None = Field(None, description="generator's channels; unset: base_channels")
    generator_depth: NonNegativeInt = Field(
        0, description="further convolutions of the generator conv at a quarter of the image resolution"
    )
    discriminator_depth: NonNegativeInt = Field(
        0, description="further convolutions of the discriminator conv at a quarter of the image resolution"
    )
    conditional: bool = Field(True, description="give the class label to both networks")
    conditioning: Literal["auto", "projection", "embedding"] = Field(
        "auto", description="label input of the discriminator; auto: embedding for mlp, else projection"
    )
    spectral_norm: bool = Field(False, description="apply spectral normalization to the discriminator's layers")
    options: dict[str, bool | int | float | str] = Field({}, description="table of options for a custom network")


class LossSettings(Section):
    """Loss terms and their weights."""

    name: str = Field(
        "relativistic", description="relativistic, non-saturating, hinge, least-squares, wasserstein, or module:Name"
    )
    r1: NonNegative = Field(0.1, description="weight γ of the gradient penalty on real images")
    r2: NonNegative = Field(0.1, description="weight γ of the gradient penalty on generated images")
    classification: AutoWeight = Field(
        "auto", description="weight of the classification loss on real images; auto: 1 if the discriminator classifies"
    )
    classification_generator: AutoWeight = Field(
        "auto", description="weight of the classification loss on generated images; auto: loss.classification / 10"
    )
    latent_reconstruction: AutoWeight = Field(
        "auto", description="weight of predicting z from generated images; auto: 2 if the discriminator predicts z"
    )
    feature_matching: AutoWeight = Field(
        "auto", description="weight of matching feature means and variances; auto: 2 if the discriminator has features"
    )
    rare_weight: AutoWeight = Field(
        "auto", description="emphasis on rare images: exponent of their weight; 0: none; auto: 1 with feature_matching"
    )
    energy_distance: AutoWeight = Field(
        "auto",
        description="weight of the energy distance in pretrained features; auto: 20 if the discriminator sees them",
    )
    wgan_gp: NonNegative = Field(0.0, description="weight λ of the WGAN-GP penalty between real and generated images")
    penalty_final_factor: NonNegative = Field(1.0, description="final γ and λ as a multiple of the initial ones")
    penalty_every: PositiveInt = Field(
        1, description="steps between gradient penalties, which then have this multiple of their weight"
    )

    @property
    def has_gradient_penalty(self) -> bool:
        """True if the discriminator's loss contains a gradient norm."""
        return self.r1 > 0 or self.r2 > 0 or self.wgan_gp > 0


class AugmentSettings(Section):
    """Augmentation of what the discriminator sees; samples, exports and scores are never augmented."""

    flip: bool = Field(False, description="mirror half of the real images at random, so that the generator draws both")
    probability: Literal["adaptive"] | Fraction = Field(
        0.0,
        description="probability p of each change of an image (color, translation, cutout); 0: none; 1: as DiffAugment;"
        " adaptive: p rises while the discriminator overfits",
    )
    target: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="overfitting above which an adaptive p rises; 0: none; 1: the discriminator knows every image"
    )
    ramp: PositiveInt = Field(20_000, description="images in which an adaptive p can rise from 0 to 1")


class OptimizerSettings(Section):
    """Adam for both networks, and the learning rate schedule."""

    lr: Positive = Field(3e-3, description="learning rate")
    lr_discriminator: Positive | None = Field(None, description="discriminator's learning rate; unset: optimizer.lr")
    beta1: DecayRate = Field(0.0, description="Adam's β₁")
    beta2: DecayRate = Field(0.99, description="Adam's β₂")
    eps: Positive = Field(1e-8, description="Adam's ε")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="decay of the learning rate")
    min_lr_ratio: Fraction = Field(0.1, description="final learning rate as a fraction of optimizer.lr")
    lr_by_fan_in: bool = Field(True, description="scale each generator layer's learning rate: lr · √(512 / fan-in)")
    grad_clip_ratio: NonNegative = Field(
        1.5, description="clip a layer's gradient norm to this multiple of its running RMS; 0: no clipping"
    )
    warmup: NonNegativeInt = Field(0, description="images over which the learning rate rises from 0")
    decay_start: Fraction = Field(0.2, description="fraction of the duration when rate and penalties begin to change")
    decay_end: Fraction = Field(1.0, description="fraction of the duration when rate and penalties become final")


class TrainSettings(Section):
    """Duration, batches, latents, precision and device."""

    duration: DurationSetting = Field(
        Duration(10, "epochs"), description="length of the run and its schedules: '10 epochs', '120s', '600000 images'"
    )
    batch_size: PositiveInt | Literal["auto"] = Field(
        64, description="images per step over all ranks; auto: 256 on CUDA, 64 on a CPU, as in the tutorial"
    )
    first_update: Literal["discriminator", "generator"] = Field("discriminator", description="network updated first")
    reuse_fakes: bool = Field(True, description="update both networks on the same generated images; off: on new ones")
    n_critic: PositiveInt = Field(1, description="discriminator updates per generator update")
    latent_std: Positive = Field(1.0, description="standard deviation of z in training; sampling uses 1")
    ema_decay: Fraction = Field(0.999, description="decay per step of the scored and exported EMA generator")
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
        None, description="run or checkpoint that gives the initial weights, adapted to the images"
    )


class EvaluationSettings(Section):
    """Evaluation on the validation split during training, and on the test split at its end."""

    every: DurationSetting = Field(Duration(2, "epochs"), description="training between two evaluations")
    num_images: Annotated[int, Field(ge=100, le=5000)] = Field(2000, description="images compared, real and generated")
    test_images: Annotated[int, Field(ge=100)] = Field(
        5000, description="test images compared with as many generated ones at the end of a run"
    )


class MonitorSettings(Section):
    """Score that ranks checkpoints, or that early stopping reads."""

    monitor: str = Field("fd", description="name of the score to monitor")
    mode: Literal["auto", "min", "max"] = Field(
        "auto", description="min: a lower score is better; max: a higher one; auto: by the score's name"
    )


def _check_filename(template: str) -> str:
    """Checks a template of file names: it needs `step`, so that two checkpoints differ, and stays in its folder."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        known = dict.fromkeys(fields, 0.5) | {"images": 1}
        names = {template.format(**known | {"step": step}) for step in (1, 123456, 123457)}
    except (ValueError, IndexError, KeyError) as error:
        example = "{step:08d}-{fd:.2f}"
        raise ValueError(f"found no template of plain names ({error}), expected one such as '{example}'") from error
    if "step" not in fields:
        raise ValueError("expected {step} in it, as in 'step-{step:08d}'")
    if len(names) < 3:
        raise ValueError("two steps would share a name. Give {step} all its digits")
    if "/" in template or template.startswith(("last", "best", ".")):
        raise ValueError("expected a file name without '/' that does not begin with last, best or a dot")
    return template


class CheckpointSettings(MonitorSettings):
    """Checkpoints that a run saves and keeps."""

    monitor_threshold: float | None = Field(
        None, description="a score that is good enough: the latest checkpoint that reaches it becomes `best`"
    )
    save_top_k: PositiveInt = Field(2, description="number of best checkpoints to keep in addition to `last`")
    save_last: bool = Field(True, description="keep `last` and the checkpoint before it when a run is complete")
    every: DurationSetting | None = Field(None, description="training between two saves, in addition to evaluations")
    filename: Annotated[str, AfterValidator(_check_filename)] = Field(
        "step-{step:08d}", description="name of a checkpoint: {step}, {images} and scores, as in {step}-fd={fd:.2f}"
    )


class EarlyStoppingSettings(MonitorSettings):
    """Conditions that stop a run before its duration ends."""

    patience: NonNegativeInt = Field(0, description="evaluations without improvement before a stop; 0: no limit")
    min_delta: NonNegative = Field(0.0, description="smallest change that counts as an improvement")
    stopping_threshold: float | None = Field(None, description="score at which the run stops; unset: never")


class LogSettings(Section):
    """Logs, progress bar and the folder of the runs."""

    every: PositiveInt = Field(100, description="steps between two readings of the losses")
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")
    refresh: Positive = Field(0.5, description="seconds between two updates of the progress bar")
    profile: bool = Field(False, description="write a trace of some steps for TensorBoard and Perfetto")
    root: AbsolutePath | None = Field(None, description="folder of the numbered runs; unset: runs")
    name: Annotated[str, Field(pattern=r"^[\w.+=-]+$")] | None = Field(
        None, description="name of a numbered run; unset: preset and data set"
    )


class Config(Section):
    """All settings of a run."""

    preset: str = Field("conv", description="preset that the settings are based on")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    log: LogSettings = LogSettings()

    def flat(self) -> dict[str, Any]:
        """Returns `section.key` → JSON value of every setting (paths and durations as text, None if unset)."""
        sections = self.model_dump(mode="json", exclude={"preset"}).items()
        return {f"{section}.{key}": value for section, content in sections for key, value in content.items()}


# `section.key` → description of every setting, in the order of declaration
DESCRIPTIONS: Mapping[str, str] = {
    f"{section}.{key}": field.description or ""
    for section, settings in Config()
    if isinstance(settings, Section)
    for key, field in type(settings).model_fields.items()
}
