"""The callbacks of ganctl, and the list that `ganctl train` uses."""

from ganctl.training.callbacks.base import Callback
from ganctl.training.callbacks.checkpoints import Checkpoint
from ganctl.training.callbacks.diagnostics import Diagnostics
from ganctl.training.callbacks.evaluation import Evaluate
from ganctl.training.callbacks.logs import StatsLog
from ganctl.training.callbacks.lr_scheduler import LRScheduler
from ganctl.training.callbacks.profiler import Profiler
from ganctl.training.callbacks.progress import Progress
from ganctl.training.callbacks.samples import SampleGrid
from ganctl.training.callbacks.stopping import EarlyStopping, NonFinite, SignalHandler, TimeLimit
from ganctl.training.callbacks.tensorboard import TensorBoard
from ganctl.training.config.schema import Config

__all__ = [
    "Checkpoint",
    "Diagnostics",
    "EarlyStopping",
    "Evaluate",
    "LRScheduler",
    "NonFinite",
    "Profiler",
    "Progress",
    "SampleGrid",
    "SignalHandler",
    "StatsLog",
    "TensorBoard",
    "TimeLimit",
    "default_callbacks",
]


def default_callbacks(config: Config, *, max_seconds: float | None = None) -> list[Callback]:
    """Returns the callbacks of `ganctl train`, in the order in which they run.

    Args:
        config: the settings, which enable TensorBoard, the profiler and early stopping.
        max_seconds: adds a time limit, in seconds.
    """
    callbacks: list[Callback] = [SignalHandler(), Progress(), NonFinite(), Diagnostics(), StatsLog(), SampleGrid()]
    if config.log.tensorboard:
        callbacks.append(TensorBoard())  # after SampleGrid: it shows the timelapse
    if config.log.profile:
        callbacks.append(Profiler())
    if config.early_stopping.patience or config.early_stopping.stopping_threshold is not None:
        callbacks.append(EarlyStopping(config.early_stopping))
    if max_seconds is not None:
        callbacks.append(TimeLimit(max_seconds))
    return callbacks
