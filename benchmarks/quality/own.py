"""Trains what our own trainer can train, with nothing beside the training: for benchmarks and recipe searches."""

from pathlib import Path

from ganctl.benchmarks.quality.recorder import Recorder
from ganctl.training.callbacks.base import Callback, Run
from ganctl.training.config.schema import Config
from ganctl.training.loop.trainer import Trainer

# nothing is scored, drawn or logged on the way; what the end of a duration demands is as small as it can be
QUIET = ("evaluation.every=1000000 epochs", "evaluation.num_images=100", "log.tensorboard=false", "log.every=1000")


class Record(Callback):
    """Takes the recorder's copies of the averaged generator, and ends the run with its budget or its duration."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step(self, run: Run) -> None:
        seconds = run.images / run.clock.images_per_second  # of the steps alone
        done = run.duration_images is not None and run.images >= run.duration_images
        last = done or self._recorder.is_over(seconds)
        if last or self._recorder.wants(seconds):
            with run.clock.pause():  # waits for the device: only then the time is known
                seconds = run.images / run.clock.images_per_second
                self._recorder.take(seconds, run.images, run.generator)
        if last:
            run.request_stop("budget", evaluate=False)


def train(config: Config, recorder: Recorder, run_dir: Path) -> Trainer:
    """Trains until the recorder's budget or the duration ends, whichever comes first; the last copy is of the end.

    Raises:
        ConfigError, DataError, TrainingError: as `Trainer` and its `fit`.
    """
    trainer = Trainer(config, run_dir=run_dir, callbacks=[Record(recorder)])
    trainer.fit()
    return trainer
