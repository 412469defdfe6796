"""The callbacks that come with ganctl, and the set that `ganctl train` uses."""

from training.callback import Callback
from training.callbacks.logs import StatsLog, TensorBoard
from training.callbacks.progress import Progress
from training.callbacks.samples import SampleGrid, Timelapse
from training.callbacks.stopping import EarlyStopping, NonFinite, Preemption, TimeLimit
from training.config import Config

__all__ = [
    "EarlyStopping",
    "NonFinite",
    "Preemption",
    "Progress",
    "SampleGrid",
    "StatsLog",
    "TensorBoard",
    "TimeLimit",
    "Timelapse",
    "default_callbacks",
]


def default_callbacks(config: Config, *, max_seconds: float | None = None) -> list[Callback]:
    """What a run has by default, in the order in which they run."""
    callbacks: list[Callback] = [Preemption(), Progress(), NonFinite(), StatsLog(), SampleGrid()]
    if config.log.tensorboard:
        callbacks.append(TensorBoard())
    callbacks.append(Timelapse())
    if config.early_stopping.patience:
        callbacks.append(EarlyStopping(config.early_stopping))
    if max_seconds is not None:
        callbacks.append(TimeLimit(max_seconds))
    return callbacks
